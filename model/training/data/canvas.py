"""Small pictures of things: shapes drawn larger into an RGBA crop, averaged down, laid onto the frame.

A sprite's colours are multiplied by its alpha, so averaging, blurring and laying over are exact at edges.
n points; (x, y) pixels of the frame, the first pixel covering 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Colour", "Shape", "Sprite", "capsule", "lay", "motion_blur", "polygon", "rasterise", "stroke", "tint"]

Colour = tuple[float, float, float]
Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]

_SHIFT = 4
_PAD = 3


class Shape(NamedTuple):
    """A filled polygon (no radii), a line of radius radii[0], or a capsule between two circles."""

    points: Points
    colour: Colour
    radii: tuple[float, ...] = ()
    closed: bool = False
    mask_only: bool = False
    """Counts as the thing's (the disc of a wheel) though one sees through it."""


@dataclass
class Sprite:
    """A crop of the frame at (x, y): premultiplied (h, w, 4) RGBA and what counts as the thing's (h, w)."""

    x: int
    y: int
    rgba: Bytes
    solid: Bytes | None = None


def polygon(points: Points, colour: Colour, *, mask_only: bool = False) -> Shape:
    return Shape(points, colour, mask_only=mask_only)


def stroke(points: Points, colour: Colour, radius: float, *, closed: bool = False) -> Shape:
    return Shape(points, colour, (radius,), closed)


def capsule(start: Points, end: Points, radius: float, end_radius: float, colour: Colour) -> Shape:
    return Shape(np.stack((start, end)), colour, (radius, end_radius))


def tint(colour: Colour, factor: float) -> Colour:
    """The colour in another light."""
    return (
        min(255.0, max(0.0, colour[0] * factor)),
        min(255.0, max(0.0, colour[1] * factor)),
        min(255.0, max(0.0, colour[2] * factor)),
    )


def rasterise(shapes: list[Shape], *, height: int, width: int, pad: int = _PAD) -> Sprite | None:
    """Draw the shapes, the first one lowest, into the crop of a height × width frame that holds them.

    None where nothing falls into the frame (grown by `pad`).
    """
    low = np.min([shape.points.min(0) - max(shape.radii, default=0.0) for shape in shapes], axis=0)
    high = np.max([shape.points.max(0) + max(shape.radii, default=0.0) for shape in shapes], axis=0)
    extent = float(max(high - low))
    x0, y0 = max(-pad, math.floor(low[0]) - pad), max(-pad, math.floor(low[1]) - pad)
    x1, y1 = min(width + pad, math.ceil(high[0]) + pad), min(height + pad, math.ceil(high[1]) + pad)
    if x1 <= x0 or y1 <= y0:
        return None
    factor = 4 if extent < 40 else 3 if extent < 90 else 2
    rgba = np.zeros(((y1 - y0) * factor, (x1 - x0) * factor, 4), np.uint8)
    origin = np.array([x0, y0], np.float64)
    for shape in shapes:
        if not shape.mask_only:
            _draw(rgba, shape, origin, factor, (*shape.colour, 255.0))
    size = (x1 - x0, y1 - y0)
    solid: Bytes | None = None
    if any(shape.mask_only for shape in shapes):
        large = np.ascontiguousarray(rgba[..., 3])
        for shape in shapes:
            if shape.mask_only:
                _draw(large, shape, origin, factor, (255.0,))
        solid = cv2.resize(large, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    small = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Sprite(x0, y0, small, solid)


def _draw(canvas: Bytes, shape: Shape, origin: Points, factor: int, value: tuple[float, ...]) -> None:
    scaled = (shape.points - origin) * factor - 0.5
    fixed = np.rint(np.clip(scaled, -8000, 8000) * (1 << _SHIFT)).astype(np.int32)
    if not shape.radii:
        cv2.fillPoly(canvas, [fixed], value, cv2.LINE_8, _SHIFT)
    elif len(shape.radii) == 1:
        thickness = max(1, round(2 * shape.radii[0] * factor))
        cv2.polylines(canvas, [fixed], shape.closed, value, thickness, cv2.LINE_8, _SHIFT)
    else:
        first, second = scaled
        along = second - first
        length = math.hypot(along[0], along[1])
        radii = [radius * factor for radius in shape.radii]
        for centre, radius in zip(fixed, radii, strict=True):
            whole = max(1, round(radius * (1 << _SHIFT)))
            cv2.circle(canvas, (int(centre[0]), int(centre[1])), whole, value, -1, cv2.LINE_8, _SHIFT)
        if length > 0.5:
            across = np.array([-along[1], along[0]]) / length
            corners = np.stack(
                (first + across * radii[0], second + across * radii[1],
                 second - across * radii[1], first - across * radii[0])
            )
            corners = np.rint(np.clip(corners, -8000, 8000) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillConvexPoly(canvas, corners, value, cv2.LINE_8, _SHIFT)


def shade(sprite: Sprite, texture: NDArray[np.float32], *, centre: tuple[float, float], size: float) -> None:
    """Multiply the colours by a (k, k, 4) map laid over the square of `size` pixels around `centre`."""
    scale = texture.shape[0] / max(size, 1.0)
    matrix = np.array(
        [
            [scale, 0.0, (sprite.x + 0.5 - centre[0]) * scale + texture.shape[1] / 2 - 0.5],
            [0.0, scale, (sprite.y + 0.5 - centre[1]) * scale + texture.shape[0] / 2 - 0.5],
        ]
    )
    height, width = sprite.rgba.shape[:2]
    laid = cv2.warpAffine(
        texture, matrix, (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
    )
    sprite.rgba = cv2.multiply(sprite.rgba, laid, dtype=cv2.CV_8U).astype(np.uint8, copy=False)


def blur_kernel(dx: float, dy: float) -> NDArray[np.float32] | None:
    """A line of (dx, dy) pixels as a kernel that sums to one; None where it is shorter than a pixel."""
    length = math.hypot(dx, dy)
    if length < 1.0:
        return None
    reach = math.ceil(max(abs(dx), abs(dy)) / 2) + 1
    size = 2 * reach + 1
    kernel = np.zeros((size, size), np.float32)
    count = max(2, math.ceil(length * 3))
    for step in range(count):
        part = step / (count - 1) - 0.5
        x, y = reach + dx * part, reach + dy * part
        column, row = math.floor(x), math.floor(y)
        fx, fy = x - column, y - row
        for row_step, row_weight in ((0, 1 - fy), (1, fy)):
            for column_step, column_weight in ((0, 1 - fx), (1, fx)):
                if row_weight * column_weight > 0:
                    kernel[row + row_step, column + column_step] += row_weight * column_weight
    return kernel / kernel.sum()


def motion_blur(sprite: Sprite, kernel: NDArray[np.float32]) -> None:
    """Smear colours, alpha and mask alike."""
    sprite.rgba = cv2.filter2D(sprite.rgba, -1, kernel, borderType=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    if sprite.solid is not None:
        sprite.solid = cv2.filter2D(sprite.solid, -1, kernel, borderType=cv2.BORDER_REPLICATE).astype(
            np.uint8, copy=False
        )


def window(sprite: Sprite, *, height: int, width: int) -> tuple[slice, slice, slice, slice] | None:
    """Rows and columns of the frame and of the sprite where they meet."""
    top, left = max(0, sprite.y), max(0, sprite.x)
    bottom = min(height, sprite.y + sprite.rgba.shape[0])
    right = min(width, sprite.x + sprite.rgba.shape[1])
    if bottom <= top or right <= left:
        return None
    return (
        slice(top, bottom), slice(left, right),
        slice(top - sprite.y, bottom - sprite.y), slice(left - sprite.x, right - sprite.x),
    )


def lay(frame: Bytes, ids: NDArray[np.uint16], sprite: Sprite, identity: int) -> None:
    """Put the sprite over the (H, W, 3) frame and write its identity where at least half of a pixel is its."""
    found = window(sprite, height=frame.shape[0], width=frame.shape[1])
    if found is None:
        return
    rows, columns, own_rows, own_columns = found
    rgba = sprite.rgba[own_rows, own_columns]
    under = frame[rows, columns].astype(np.uint16)
    under *= 255 - rgba[..., 3:].astype(np.uint16)
    under += 127
    under //= 255
    under += rgba[..., :3]
    np.minimum(under, 255, out=under)
    frame[rows, columns] = under
    solid = rgba[..., 3] if sprite.solid is None else sprite.solid[own_rows, own_columns]
    ids[rows, columns][solid >= 128] = identity
