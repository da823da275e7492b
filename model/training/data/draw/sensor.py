"""From light to file: lens blur, tone, colour, noise, compression, the clock in the corner.

(H, W, 3) uint8 RGB throughout.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.scene.scenes import Light, Look

__all__ = ["expose", "light_gain"]

Bytes = NDArray[np.uint8]

_TILE = 512
_LUMA = np.array([0.299, 0.587, 0.114])


def light_gain(light: Light, seconds: float) -> float:
    """How bright the scene is at that time, relative to its usual light."""
    gain = 1.0 + light.flicker * float(np.sin(2 * np.pi * light.flicker_rate * seconds))
    if light.step_seconds >= 0:
        done = min(1.0, max(0.0, seconds - light.step_seconds))
        gain *= 1.0 + (light.step_gain - 1.0) * done
    return gain


@lru_cache(maxsize=4)
def _noise_tile(grain: int) -> NDArray[np.float32]:
    """Normal noise of deviation 1, grain by grain coarser; frames cut their own windows out of it."""
    tile = np.random.default_rng(977 + grain).standard_normal((_TILE, _TILE, 3), np.float32)
    if grain:
        tile = cv2.GaussianBlur(tile, (0, 0), 0.5 * grain, borderType=cv2.BORDER_REFLECT).astype(
            np.float32, copy=False
        )
        luma = tile.mean(2, keepdims=True)
        tile = 0.4 * tile + luma
        tile /= tile.std()
    return tile


def expose(
    frame: Bytes, look: Look, *, gain: float, rng: np.random.Generator, seconds: float, dim: Bytes | None
) -> Bytes:
    """What the camera makes of the light; `dim` (H, W, 3) multiplies it (255 is none) before the lens."""
    if dim is not None:
        frame = cv2.multiply(frame, dim, scale=1 / 255).astype(np.uint8, copy=False)
    if look.blur > 0.2:
        frame = cv2.GaussianBlur(frame, (0, 0), look.blur).astype(np.uint8, copy=False)
    mixing = np.eye(3) * look.saturation + (1 - look.saturation) * _LUMA[None]
    mixing *= np.array(look.balance)[:, None]
    if not np.allclose(mixing, np.eye(3)):
        frame = cv2.transform(frame, mixing).astype(np.uint8, copy=False)
    levels = np.arange(256) / 255 * look.gain * gain
    levels = (np.clip(levels, 0, None) ** look.gamma - 0.5) * look.contrast + 0.5 + look.black
    frame = cv2.LUT(frame, np.clip(levels * 255 + 0.5, 0, 255).astype(np.uint8)).astype(np.uint8, copy=False)
    if look.sharpen:
        soft = cv2.GaussianBlur(frame, (0, 0), 1.0)
        frame = cv2.addWeighted(frame, 1 + look.sharpen, soft, -look.sharpen, 0).astype(np.uint8, copy=False)
    if look.noise > 0.3:
        frame = _add_noise(frame, look, rng)
    if look.overlay:
        _write_clock(frame, look, seconds)
    if look.jpeg_quality:
        # the codec weighs colours in OpenCV's order, blue first
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality)
        )
        assert done
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        frame = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return frame


def _add_noise(frame: Bytes, look: Look, rng: np.random.Generator) -> Bytes:
    height, width = frame.shape[:2]
    tile = _noise_tile(look.grain)
    if height > _TILE or width > _TILE:
        tile = np.tile(tile, (-(-height // _TILE) + 1, -(-width // _TILE) + 1, 1))
    top = int(rng.integers(0, tile.shape[0] - height + 1))
    left = int(rng.integers(0, tile.shape[1] - width + 1))
    window = tile[top : top + height, left : left + width]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    noisy = cv2.scaleAdd(np.ascontiguousarray(window), look.noise, frame.astype(np.float32))
    return np.asarray(cv2.convertScaleAbs(np.maximum(noisy, 0)), np.uint8)


def _write_clock(frame: Bytes, look: Look, seconds: float) -> None:
    height, width = frame.shape[:2]
    total = 43200 + int(seconds)
    text = f"{look.overlay} {total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
    scale = height / 600
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = 4 if look.overlay_corner % 2 == 0 else width - wide - 4
    y = tall + 4 if look.overlay_corner < 2 else height - 5
    cv2.putText(frame, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.putText(frame, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (245, 245, 245), 1, cv2.LINE_AA)
