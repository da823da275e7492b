"""Meshes seen along a slanted parallel: coloured quads in light, as small premultiplied pictures.

F faces, V vertices in metres (x to the left, y up, z forward). Source: ours; faces are sampled finer than the
pixels and laid from far to near.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Light", "Surface", "grid_quads", "vertex_normals", "view"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

_FACTOR = 2


class Light(NamedTuple):
    """A sun in the picture's axes, and what comes from everywhere."""

    sun: Floats
    """(3,) unit: right, up, away."""
    ambient: float
    sky: tuple[float, float, float] = (215.0, 225.0, 240.0)
    ground: tuple[float, float, float] = (60.0, 58.0, 55.0)
    """What gloss mirrors above and below the horizon."""


class Surface(NamedTuple):
    """Coloured quads."""

    points: Floats
    """(V, 3)"""
    faces: NDArray[np.int64]
    """(F, 4)"""
    colours: Floats
    """(F, 3) in 0..255 without light."""
    closed: bool
    """Faces turned away are not seen."""
    gloss: Floats | None = None
    """(F,) 0 dull to 1 a mirror; None: all dull."""


def grid_quads(rows: int, columns: int, *, round_columns: bool = False) -> NDArray[np.int64]:
    """(F, 4) the quads of a grid of rows × columns vertices, its last column joined to its first if asked."""
    index = np.arange(rows * columns).reshape(rows, columns)
    here, right = (index, np.roll(index, -1, 1)) if round_columns else (index[:, :-1], index[:, 1:])
    return np.stack((here[:-1], here[1:], right[1:], right[:-1]), axis=-1).reshape(-1, 4)


def vertex_normals(points: Floats, faces: NDArray[np.int64]) -> Floats:
    """(V, 3) unit normals of the vertices of some faces; zero elsewhere."""
    corners = points[faces]
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    total = np.zeros_like(points)
    for corner in range(4):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, corner], across[:, axis], len(points))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


def view(
    surfaces: list[Surface], *, heading: float, tilt: float, light: Light, pixels_per_metre: float
) -> tuple[Bytes, tuple[float, float]]:
    """(h, w, 4) premultiplied RGBA, and where the origin (the foot) lies in it in pixels.

    `heading` in radians from the picture's right to away from the camera, `tilt` the tangent of how far the
    camera looks down.
    """
    cosine, sine = math.cos(heading), math.sin(heading)
    unit = pixels_per_metre * _FACTOR
    xs, ys, zs, colours = [], [], [], []
    for surface in surfaces:
        points = surface.points
        right = points[:, 2] * cosine - points[:, 0] * sine
        away = points[:, 2] * sine + points[:, 0] * cosine
        seen = np.stack((right, points[:, 1], away), axis=1)
        corners = seen[surface.faces]
        normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        # the frame (right, up, away) is left-handed: outward normals turn over
        normal = -normal
        towards = normal[:, 1] * tilt - normal[:, 2]
        kept = np.ones(len(corners), bool) if not surface.closed else towards > -0.02
        normal = np.where((towards < 0)[:, None], -normal, normal)
        bright = light.ambient + (1.15 - light.ambient) * np.clip(normal @ light.sun, 0, None)
        colour = np.clip(surface.colours * bright[:, None], 0, 255)
        if surface.gloss is not None:
            colour = _mirrored(colour, normal, surface.gloss, tilt, light)
        colour = colour.astype(np.uint8)
        flat = np.stack((corners[..., 0], -(corners[..., 1] + corners[..., 2] * tilt)), axis=-1) * unit
        flat, depths = flat.astype(np.float32), corners[..., 2].astype(np.float32)
        size = np.maximum(
            np.linalg.norm(flat[:, 1] - flat[:, 0], axis=1) + np.linalg.norm(flat[:, 2] - flat[:, 3], axis=1),
            np.linalg.norm(flat[:, 3] - flat[:, 0], axis=1) + np.linalg.norm(flat[:, 2] - flat[:, 1], axis=1),
        )
        steps = np.clip(np.ceil(size / 2 * 1.25), 1, 512).astype(int)
        for count in np.unique(steps[kept]):
            chosen = kept & (steps == count)
            part = (np.arange(count) + 0.5) / count
            u, v = (grid.ravel() for grid in np.meshgrid(part, part))
            mix = np.stack(((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v)).astype(np.float32)
            xs.append((flat[chosen, :, 0] @ mix).ravel())
            ys.append((flat[chosen, :, 1] @ mix).ravel())
            zs.append((depths[chosen] @ mix).ravel())
            colours.append(np.repeat(colour[chosen], len(u), axis=0))
    x, y = np.concatenate(xs), np.concatenate(ys)
    left, top = math.floor(x.min()) - 2 * _FACTOR, math.floor(y.min()) - 2 * _FACTOR
    left, top = left - left % _FACTOR, top - top % _FACTOR
    wide = -(-(math.ceil(x.max()) - left + 2 * _FACTOR) // _FACTOR) * _FACTOR
    high = -(-(math.ceil(y.max()) - top + 2 * _FACTOR) // _FACTOR) * _FACTOR
    z = np.concatenate(zs)
    # sixteen bits of depth are enough, and sort in a tenth of the time
    depth = (z.max() - z) * (65535 / max(1e-9, float(z.max() - z.min())))
    order = np.argsort(depth.astype(np.uint16), kind="stable")
    canvas = np.zeros((high, wide, 4), np.uint8)
    at = np.floor(y - top).astype(np.int64)[order] * wide + np.floor(x - left).astype(np.int64)[order]
    flatly = canvas.reshape(-1, 4)
    flatly[at, :3] = np.concatenate(colours)[order]
    flatly[at, 3] = 255
    closed = cv2.morphologyEx(canvas, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    canvas = np.where(canvas[..., 3:] > 0, canvas, closed)
    size_out = (wide // _FACTOR, high // _FACTOR)
    rgba = np.asarray(cv2.resize(canvas, size_out, interpolation=cv2.INTER_AREA), np.uint8)
    return rgba, (-left / _FACTOR, -top / _FACTOR)


def _mirrored(colour: Floats, normal: Floats, gloss: Floats, tilt: float, light: Light) -> Floats:
    """Colours with the sky, the ground and the sun in them as gloss shows them (Schlick's approximation)."""
    ray = np.array([0.0, -tilt, 1.0]) / math.hypot(1.0, tilt)
    straight = normal @ ray
    bounced = ray - 2 * straight[:, None] * normal
    skyward = np.clip((bounced[:, 1] + 0.12) / 0.4, 0, 1)[:, None]
    # houses and trees at the horizon
    uneven = 0.75 + 0.25 * np.sin(7 * np.arctan2(bounced[:, 0], -bounced[:, 2]))[:, None]
    world = np.array(light.ground) * (1 - skyward) + np.array(light.sky) * skyward
    world = world * np.where(skyward < 0.9, uneven, 1.0)
    part = (gloss * (0.16 + 0.84 * (1 - np.abs(straight)) ** 3))[:, None]
    spot = 255 * gloss * np.clip(bounced @ light.sun, 0, None) ** 40
    return np.clip(colour * (1 - part) + world * part + spot[:, None], 0, 255)
