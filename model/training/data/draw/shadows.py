"""Shadows on the ground: a soft spot below a thing, and its outline laid flat where the sun throws it.

Source: ours; a thing is taken for an upright picture, so its shadow is an affine map of its alpha.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.canvas import Sprite
from model.training.data.scene.geometry import centred, to_image
from model.training.data.scene.scenes import Scene

__all__ = ["cast_shadow"]

Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]


def cast_shadow(
    frame: Bytes, sprite: Sprite, foot: Points, *, scene: Scene, scale: float, z: float, spread: float
) -> None:
    """Darken the ground: a soft spot below, and where the sun throws it the outline laid flat."""
    light, view = scene.light, scene.view
    flat = view.camera_height / max(z, 0.3)
    if light.contact > 0 and spread > 1:
        _darken_spot(frame, foot, spread * 1.25, max(1.0, spread * min(1.0, flat) * 0.8), light.contact)
    if light.shadow <= 0.02:
        return
    tall = light.sun[1] * flat
    tall = math.copysign(max(abs(tall), 0.06), tall)
    # (x, y) of the sprite → x + sun_x · (foot_y - y), foot_y - tall · (foot_y - y)
    matrix = np.array([[1.0, -light.sun[0], light.sun[0] * foot[1]], [0.0, tall, foot[1] * (1 - tall)]])
    height, width = sprite.rgba.shape[:2]
    corners = to_image(
        np.array(
            [
                [sprite.x, sprite.y],
                [sprite.x + width, sprite.y],
                [sprite.x, sprite.y + height],
                [sprite.x + width, sprite.y + height],
            ],
            np.float64,
        ),
        matrix,
    )
    sigma = max(0.4, light.softness * scale)
    low = np.maximum(np.floor(corners.min(0) - 2 * sigma), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0) + 2 * sigma), (frame.shape[1], frame.shape[0])).astype(int)
    if (high <= low).any():
        return
    alpha = cv2.warpAffine(
        np.ascontiguousarray(sprite.rgba[..., 3]),
        centred(matrix, (sprite.x, sprite.y), (int(low[0]), int(low[1]))),
        (int(high[0] - low[0]), int(high[1] - low[1])),
        flags=cv2.INTER_LINEAR,
    )
    alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
    _multiply(frame[low[1] : high[1], low[0] : high[0]], alpha, light.shadow)


@lru_cache(maxsize=1)
def _soft_disc() -> NDArray[np.uint8]:
    line = np.linspace(-1, 1, 33, dtype=np.float32)
    far = np.minimum(1.0, np.hypot(line[:, None], line[None]))
    return np.rint(255 * (1 - far) ** 1.2).astype(np.uint8)


def _darken_spot(frame: Bytes, foot: Points, half_width: float, half_height: float, strength: float) -> None:
    width, height = max(3, round(2 * half_width)), max(3, round(2 * half_height))
    x, y = round(float(foot[0]) - width / 2), round(float(foot[1]) - height / 2)
    top, left = max(0, y), max(0, x)
    bottom, right = min(frame.shape[0], y + height), min(frame.shape[1], x + width)
    if bottom <= top or right <= left or width > 4 * frame.shape[1] or height > 4 * frame.shape[0]:
        return
    disc = cv2.resize(_soft_disc(), (width, height), interpolation=cv2.INTER_LINEAR)
    _multiply(frame[top:bottom, left:right], disc[top - y : bottom - y, left - x : right - x], strength)


def _multiply(area: Bytes, alpha: NDArray[np.generic], strength: float) -> None:
    """area · (1 - strength · alpha / 255), in place."""
    factor = 256 - (alpha.astype(np.uint16) * round(256 * strength)) // 256
    area[...] = (area * factor[..., None]) >> 8
