"""Pictures for tests of cues: a textured toy that moves over a scene that the camera may pan along."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 64, 96
Image = NDArray[np.uint8]


def texture(height: int = HEIGHT, width: int = WIDTH, *, grain: int = 4, seed: int = 0) -> Image:
    """A smooth random picture, so that motion can be followed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // grain, width // grain, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


WIDE = texture(HEIGHT + 64, WIDTH + 400, grain=16, seed=3)
TOY = texture(24, 24, seed=4)


def scene(index: int, *, pan: int = 0) -> Image:
    """A toy that moves two pixels to the right a frame, over a scene that the camera pans along."""
    image = WIDE[32 : 32 + HEIGHT, pan * index : pan * index + WIDTH].copy()
    left = (4 + 2 * index) % (WIDTH - 24)
    image[20:44, left : left + 24] = TOY
    return image
