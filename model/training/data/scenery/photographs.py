"""Photographs behind a scene: a folder's names, a window of one, and the grain of one on a drawn picture.

Source: ours. h × w pixels, RGB.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["list_photos", "photo_grain", "photo_patch"]

Bytes = NDArray[np.uint8]
Rng = np.random.Generator

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


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
