"""What stands behind everything: noise, dead leaves, patches of photographs, and streets (streetscape).

Source: dead leaves after Lee, Mumford and Huang 2001 (occluding shapes of scale-invariant sizes); 1/f noise
as a sum of enlarged random grids. h × w pixels, RGB.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.palette import any_colour, grey, hsv

__all__ = ["cloud_noise", "colour_noise", "dead_leaves", "list_photos", "photo_grain", "photo_patch"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


def cloud_noise(rng: Rng, height: int, width: int, *, coarsest: float = 0.5, fall: float = 0.6) -> Floats:
    """(h, w) about -1..1: octaves of bilinear random grids, each finer one `fall` as strong.

    `coarsest` is the coarsest grid's cell in parts of the longer side.
    """
    total = np.zeros((height, width), np.float32)
    cell, strength, weight = coarsest * max(height, width), 1.0, 0.0
    while cell >= 1.0:
        rows, columns = max(2, math.ceil(height / cell) + 1), max(2, math.ceil(width / cell) + 1)
        grid = rng.random((rows, columns), np.float32) * 2 - 1
        total += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        weight += strength * strength
        cell, strength = cell / 2, strength * fall
    return total * np.float32(1.4 / math.sqrt(weight))


def colour_noise(rng: Rng, height: int, width: int) -> Bytes:
    """1/f noise around a colour, its channels partly independent."""
    base = np.array(any_colour(rng) if rng.random() < 0.5 else grey(rng, 40, 210), np.float32)
    fall = float(rng.uniform(0.45, 0.95))
    together = cloud_noise(rng, height, width, fall=fall)
    apart = np.stack([cloud_noise(rng, height, width, fall=fall) for _ in range(3)], axis=2)
    mixed = together[..., None] * rng.uniform(20, 60) + apart * rng.uniform(0, 30)
    return np.clip(base + mixed, 0, 255).astype(np.uint8)


def dead_leaves(rng: Rng, height: int, width: int, *, palette: tuple[float, float] | None = None) -> Bytes:
    """Shapes over shapes down to the ground; `palette` (hue, spread) keeps the colours together."""
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[:] = any_colour(rng)
    count = int(rng.integers(120, 420))
    least, most = 2.0, 0.3 * max(height, width)
    radii = 1.0 / np.sqrt(rng.uniform(1 / most**2, 1 / least**2, count) ** rng.uniform(0.5, 1.0))
    covered = rng.uniform(0.8, 2.5) * height * width  # by all of them together, were they side by side
    radii *= math.sqrt(max(1.0, covered / (2.0 * float(np.square(radii).sum()))))
    radii = np.sort(np.clip(radii, least, most))[::-1]
    shape = int(rng.integers(0, 3))
    for radius in radii:
        if palette is not None:
            colour = hsv(
                palette[0] + rng.normal(0, palette[1]), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.8)
            )
        else:
            colour = any_colour(rng) if rng.random() < 0.5 else grey(rng, 15, 240)
        x, y = int(rng.uniform(0, width) * 16), int(rng.uniform(0, height) * 16)
        if shape == 0 or (shape == 2 and rng.random() < 0.5):
            axes = (int(radius * 16), int(radius * 16 * rng.uniform(0.3, 1.0)))
            cv2.ellipse(
                canvas,
                (x // 16, y // 16),
                (max(1, axes[0] // 16), max(1, axes[1] // 16)),
                float(rng.uniform(0, 180)),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
        else:
            corners = int(rng.integers(3, 7))
            angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
            points = np.stack((x + np.cos(angles) * radius * 16, y + np.sin(angles) * radius * 16), axis=1)
            cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA, 4)
    texture = cloud_noise(rng, height, width, fall=0.9) * rng.uniform(3, 22)
    mixed = canvas.astype(np.float32) + texture[..., None]
    if rng.random() < 0.5:
        mixed = cv2.GaussianBlur(mixed, (0, 0), float(rng.uniform(0.5, 2.5))).astype(np.float32, copy=False)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def list_photos(folder: Path | str) -> tuple[str, ...]:
    """Names of the photographs in a folder, sorted.

    Raises FileNotFoundError where there is no such folder and ValueError where it holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder of photographs at {folder}: make one with python -m model photos, or leave it out"
        )
    names = tuple(sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES))
    if not names:
        raise ValueError(f"{folder} holds no photographs ({', '.join(PHOTO_SUFFIXES)})")
    return names


@lru_cache(maxsize=16)
def _photo(path: Path) -> Bytes:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} cannot be read as a photograph")
    scale = 900 / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def photo_grain(rng: Rng, canvas: Bytes, *, path: Path) -> Bytes:
    """The canvas with the photograph's light and dark over it, coarse or fine, weak or strong."""
    height, width = canvas.shape[:2]
    image = cv2.cvtColor(_photo(path), cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = float(np.exp(rng.uniform(math.log(0.2), math.log(1.2)))) * max(height, width) / max(image.shape)
    size = (max(8, round(image.shape[1] * scale)), max(8, round(image.shape[0] * scale)))
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    tile = (tile - tile.mean()) / max(float(tile.std()), 1.0)
    # mirrored at its edges, so that no seam shows
    tile = np.concatenate((tile, tile[::-1]), axis=0)
    tile = np.concatenate((tile, tile[:, ::-1]), axis=1)
    rows = (np.arange(height) + int(rng.integers(0, tile.shape[0]))) % tile.shape[0]
    columns = (np.arange(width) + int(rng.integers(0, tile.shape[1]))) % tile.shape[1]
    factor = 1 + float(rng.uniform(0.05, 0.28)) * np.clip(tile[rows][:, columns], -2.5, 2.5)
    return np.asarray(np.clip(canvas * factor[..., None], 0, 255), np.uint8)


def photo_patch(rng: Rng, height: int, width: int, *, path: Path) -> Bytes:
    """A random window of the photograph, sometimes mirrored."""
    image = _photo(path)
    fits = min(image.shape[0] / height, image.shape[1] / width)
    scale = fits * float(rng.uniform(0.45, 1.0))
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    top = int(rng.integers(0, image.shape[0] - rows + 1))
    left = int(rng.integers(0, image.shape[1] - columns + 1))
    patch = image[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(patch), (width, height), interpolation=method).astype(
        np.uint8, copy=False
    )
