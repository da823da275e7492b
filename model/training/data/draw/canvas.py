"""Small pictures of things: shapes drawn larger into an RGBA crop, averaged down, laid onto the frame.

A sprite's colours are multiplied by its alpha, so averaging, blurring and laying over are exact at edges.
n points; (x, y) pixels of the frame, the first pixel covering 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.scene.geometry import centred, to_image

__all__ = [
    "Colour",
    "Shape",
    "Sprite",
    "capsule",
    "crop_around",
    "enlargement",
    "lay",
    "motion_blur",
    "polygon",
    "rasterise",
    "stroke",
    "tint",
    "warp",
]

Colour = tuple[float, float, float]
Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]

_SHIFT = 4
_ONE = 1 << _SHIFT
"""OpenCV draws at fixed-point positions: this many steps a pixel."""
_FAR = 8000 * _ONE
_THICK = 255
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
    return Shape(np.array((start, end)), colour, (radius, end_radius))


def tint(colour: Colour, factor: float) -> Colour:
    """The colour in another light."""
    return (
        min(255.0, max(0.0, colour[0] * factor)),
        min(255.0, max(0.0, colour[1] * factor)),
        min(255.0, max(0.0, colour[2] * factor)),
    )


def crop_around(
    box: tuple[float, float, float, float], *, height: int, width: int, pad: int = _PAD
) -> tuple[int, int, int, int] | None:
    """Whole pixels (left, top, right, bottom) that hold a box in the frame, both grown by `pad`, or None."""
    left, top, right, bottom = box
    x0, y0 = max(-pad, math.floor(left) - pad), max(-pad, math.floor(top) - pad)
    x1, y1 = min(width + pad, math.ceil(right) + pad), min(height + pad, math.ceil(bottom) + pad)
    return None if x1 <= x0 or y1 <= y0 else (x0, y0, x1, y1)


def enlargement(extent: float) -> int:
    """How many times larger something of so many pixels is drawn before it is averaged down."""
    return 4 if extent < 40 else 3 if extent < 90 else 2


def rasterise(shapes: list[Shape], *, height: int, width: int, pad: int = _PAD) -> Sprite | None:
    """Draw the shapes, the first one lowest, into the crop of a height × width frame that holds them.

    None where nothing falls into the frame (grown by `pad`).
    """
    points = np.concatenate([shape.points for shape in shapes])
    counts = [len(shape.points) for shape in shapes]
    grown = np.repeat([max(shape.radii) if shape.radii else 0.0 for shape in shapes], counts)[:, None]
    left, top = (points - grown).min(0).tolist()
    right, bottom = (points + grown).max(0).tolist()
    crop = crop_around((left, top, right, bottom), height=height, width=width, pad=pad)
    if crop is None:
        return None
    x0, y0, x1, y1 = crop
    factor = enlargement(max(right - left, bottom - top))
    rgba = np.zeros(((y1 - y0) * factor, (x1 - x0) * factor, 4), np.uint8)
    discs = np.zeros(rgba.shape[:2], np.uint8) if any(shape.mask_only for shape in shapes) else None
    scaled = (points - (x0, y0)) * (factor * _ONE) - 0.5 * _ONE
    fixed = np.rint(np.clip(scaled, -_FAR, _FAR)).astype(np.int32)
    at = 0
    for shape, count in zip(shapes, counts, strict=True):
        if not shape.mask_only:
            _draw(rgba, shape, fixed[at : at + count], factor, (*shape.colour, 255.0))
        elif discs is not None:
            cv2.fillPoly(discs, [fixed[at : at + count]], (255.0,), cv2.LINE_8, _SHIFT)
        at += count
    size = (x1 - x0, y1 - y0)
    solid: Bytes | None = None
    if discs is not None:
        solid = _bytes(cv2.resize(cv2.max(discs, rgba[..., 3]), size, interpolation=cv2.INTER_AREA))
    return Sprite(x0, y0, _bytes(cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)), solid)


def _draw(
    canvas: Bytes, shape: Shape, fixed: NDArray[np.int32], factor: int, value: tuple[float, ...]
) -> None:
    """One shape at fixed-point positions of the enlarged crop."""
    if not shape.radii:
        cv2.fillPoly(canvas, [fixed], value, cv2.LINE_8, _SHIFT)
        return
    if len(shape.radii) == 1:
        thickness = min(_THICK, max(1, round(2 * shape.radii[0] * factor)))
        cv2.polylines(canvas, [fixed], shape.closed, value, thickness, cv2.LINE_8, _SHIFT)
        return
    (x0, y0), (x1, y1) = fixed.tolist()
    first = max(_ONE, round(shape.radii[0] * factor * _ONE))
    second = max(_ONE, round(shape.radii[1] * factor * _ONE))
    both = first + second
    if (
        4 * abs(first - second) < both < _THICK * _ONE
    ):  # nearly even: a line with round ends, one call for three
        cv2.line(canvas, (x0, y0), (x1, y1), value, (both + _ONE // 2) >> _SHIFT, cv2.LINE_8, _SHIFT)
        return
    cv2.circle(canvas, (x0, y0), first, value, -1, cv2.LINE_8, _SHIFT)
    cv2.circle(canvas, (x1, y1), second, value, -1, cv2.LINE_8, _SHIFT)
    length = math.hypot(x1 - x0, y1 - y0)
    if length > _ONE:
        across_x, across_y = (y0 - y1) / length, (x1 - x0) / length
        corners = [
            [round(x0 + across_x * first), round(y0 + across_y * first)],
            [round(x1 + across_x * second), round(y1 + across_y * second)],
            [round(x1 - across_x * second), round(y1 - across_y * second)],
            [round(x0 - across_x * first), round(y0 - across_y * first)],
        ]
        cv2.fillConvexPoly(canvas, np.array(corners, np.int32), value, cv2.LINE_8, _SHIFT)


def _bytes(array: NDArray[Any] | cv2.Mat) -> Bytes:
    return np.asarray(array, np.uint8)


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
        texture,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    sprite.rgba = _bytes(cv2.multiply(sprite.rgba, laid, dtype=cv2.CV_8U))


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
    kernel /= kernel.sum()
    return kernel


def motion_blur(sprite: Sprite, kernel: NDArray[np.float32]) -> None:
    """Smear colours, alpha and mask alike."""
    sprite.rgba = _bytes(cv2.filter2D(sprite.rgba, -1, kernel, borderType=cv2.BORDER_REPLICATE))
    if sprite.solid is not None:
        sprite.solid = _bytes(cv2.filter2D(sprite.solid, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def warp(sprite: Sprite, matrix: Points, *, height: int, width: int) -> Sprite | None:
    """The sprite under an affine map (2, 3) of the pixels, cut to the frame; None where it falls outside."""
    tall, wide = sprite.rgba.shape[:2]
    x, y = sprite.x, sprite.y
    corners = np.array([[x, y], [x + wide, y], [x, y + tall], [x + wide, y + tall]], np.float64)
    corners = to_image(corners, matrix)
    left, top = np.maximum(np.floor(corners.min(0)), -_PAD).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(0)), (width + _PAD, height + _PAD)).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    moved = centred(matrix, (x, y), (left, top))
    return Sprite(left, top, _bytes(cv2.warpAffine(sprite.rgba, moved, (right - left, bottom - top))))


def window(sprite: Sprite, *, height: int, width: int) -> tuple[slice, slice, slice, slice] | None:
    """Rows and columns of the frame and of the sprite where they meet."""
    top, left = max(0, sprite.y), max(0, sprite.x)
    bottom = min(height, sprite.y + sprite.rgba.shape[0])
    right = min(width, sprite.x + sprite.rgba.shape[1])
    if bottom <= top or right <= left:
        return None
    return (
        slice(top, bottom),
        slice(left, right),
        slice(top - sprite.y, bottom - sprite.y),
        slice(left - sprite.x, right - sprite.x),
    )


def lay(frame: Bytes, ids: NDArray[np.uint16], sprite: Sprite, identity: int) -> None:
    """Put the sprite over the (H, W, 3) frame and write its identity where half a pixel is its."""
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
