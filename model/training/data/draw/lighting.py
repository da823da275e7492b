"""How much light reaches each part of the picture: lamps at night, vignette, passing clouds. Source: ours."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.textures import cloud_noise
from model.training.data.scene.scenes import Scene

__all__ = ["lamp_map", "light_map"]

Bytes = NDArray[np.uint8]


def lamp_map(scene: Scene) -> NDArray[np.float32] | None:
    """(H, W, 3) 0..1 of vignette and night light; None where both are off."""
    if scene.look.vignette <= 0 and scene.light.night <= 0:
        return None
    rows = (np.arange(scene.height, dtype=np.float32) - scene.height / 2)[:, None] / (scene.width / 2)
    columns = (np.arange(scene.width, dtype=np.float32) - scene.width / 2)[None] / (scene.width / 2)
    factor = 1 - scene.look.vignette * (rows**2 + columns**2) * 0.7
    colour = np.ones(3, np.float32)
    if scene.light.night > 0:
        rng = np.random.default_rng(scene.light.cloud_seed + 1)
        pools = np.full_like(factor, 1 - scene.light.night)
        for _ in range(int(rng.integers(1, 5))):
            x, y, radius = rng.uniform(-1, 1), rng.uniform(-0.3, 0.6), rng.uniform(0.2, 0.8)
            pools += scene.light.night * np.exp(
                -(((columns - x) / radius) ** 2 + ((rows - y) / (radius * 0.6)) ** 2)
            ).astype(np.float32)
        factor = factor * np.minimum(pools, 1.1)
        colour = np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.5, 1.1)], np.float32)
    return np.clip(factor[..., None] * colour, 0, 1).astype(np.float32)


def light_map(scene: Scene, lamps: NDArray[np.float32] | None, seconds: float) -> Bytes | None:
    """Light on the picture at a time, (H, W, 3) of 255: lamps and passing clouds; None where it is even."""
    light = scene.light
    if light.cloud <= 0:
        return None if lamps is None else _as_bytes(lamps)
    tile = _cloud(light.cloud_seed)
    shift = np.array(
        [
            [tile.shape[1] * 0.4 / scene.width, 0, 12.0 * seconds],
            [0, tile.shape[0] * 0.4 / scene.height, 3.0 * seconds],
        ]
    )
    shadow = cv2.warpAffine(
        tile,
        shift,
        (scene.width, scene.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    factor = 1 - np.float32(light.cloud) * shadow[..., None]
    return _as_bytes(np.broadcast_to(factor, (*factor.shape[:2], 3)) if lamps is None else factor * lamps)


def _as_bytes(factor: NDArray[np.float32]) -> Bytes:
    return np.rint(factor * 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _cloud(seed: int) -> NDArray[np.float32]:
    """(64, 64) 0..1 that repeats without seams."""
    quarter = cloud_noise(np.random.default_rng(seed), 32, 32, coarsest=0.5, fall=0.4)
    across = np.concatenate((quarter, quarter[:, ::-1]), axis=1)
    cloud: NDArray[np.float32] = np.clip(np.concatenate((across, across[::-1])) * 0.7 + 0.3, 0, 1)
    return cloud
