"""Textures that fill a picture: 1/f noise and dead leaves.

Source: dead leaves after Lee, Mumford and Huang 2001 (occluding shapes of scale-invariant sizes); 1/f noise
as a sum of enlarged random grids. h × w pixels, RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.palette import any_colour, grey, hsv

__all__ = ["cloud_noise", "colour_noise", "dead_leaves"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator


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
