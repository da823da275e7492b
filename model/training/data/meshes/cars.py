"""Cars as meshes: a rounded body from a side profile, glass, lamps and wheels. Source: ours.

In metres: x to the left, y up from the ground, z forward. F faces, V vertices.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.palette import grey, paint
from model.training.data.meshes.surfaces import Surface, grid_quads

__all__ = ["car_surfaces"]

Floats = NDArray[np.float64]
Rng = np.random.Generator

_ALONG, _AROUND = 160, 64
_SPOKES = 20


def car_surfaces(rng: Rng) -> tuple[float, list[Surface]]:
    """Height in metres and the surfaces of a car: a saloon, an estate, a hatchback or a van."""
    kind = str(rng.choice(["saloon", "estate", "hatch", "off-road", "van"], p=[0.3, 0.17, 0.27, 0.16, 0.1]))
    tall = {"saloon": 1.44, "estate": 1.47, "hatch": 1.48, "off-road": 1.68, "van": 1.95}[kind]
    tall *= rng.uniform(0.96, 1.05)
    length = {"saloon": 4.7, "estate": 4.7, "hatch": 4.05, "off-road": 4.5, "van": 4.8}[kind]
    length *= rng.uniform(0.92, 1.07)
    width = rng.uniform(1.7, 1.86) + (0.08 if kind in ("off-road", "van") else 0.0)
    belt = tall * rng.uniform(0.6, 0.66) if kind != "van" else tall * rng.uniform(0.52, 0.56)
    floor = 0.17 if kind != "off-road" else 0.25
    half = length / 2
    hood = half - length * (rng.uniform(0.22, 0.29) if kind != "van" else rng.uniform(0.1, 0.17))
    roof_front = hood - length * rng.uniform(0.13, 0.17)
    roof_rear, trunk = {
        "saloon": (-half + length * 0.31, -half + length * 0.15),
        "estate": (-half + length * 0.12, -half + length * 0.03),
        "hatch": (-half + length * 0.16, -half + length * 0.05),
        "off-road": (-half + length * 0.1, -half + length * 0.03),
        "van": (-half + length * 0.06, -half + length * 0.02),
    }[kind]
    nose = belt * rng.uniform(0.74, 0.84)
    z = np.linspace(-half, half, _ALONG)
    knots = (
        (-half, belt * 0.93),
        (trunk, belt),
        (roof_rear, tall * 0.985),
        ((roof_front + roof_rear) / 2, tall),
        (roof_front, tall * 0.97),
        (hood, belt),
        (half, nose),
    )
    top = np.interp(z, [u for u, _ in knots], [w for _, w in knots])
    window = np.hanning(9)
    top = np.convolve(np.pad(top, 4, mode="edge"), window / window.sum(), "valid")
    round_ends = (1 - np.abs(z / half) ** rng.uniform(7, 13)) ** 0.25
    low = floor + 0.1 * belt * (1 - round_ends)
    top = low + (top - low) * (0.25 + 0.75 * round_ends)
    plan = (1 - 0.1 * np.abs(z / half) ** 3) * (0.55 + 0.45 * round_ends)
    points, section = _shell(z, low, top, plan * width / 2, belt, tall)
    faces = grid_quads(_ALONG, _AROUND)
    radius = tall * 0.21 if kind != "van" else 0.33
    axles = (-half + length * rng.uniform(0.18, 0.22), half - length * rng.uniform(0.17, 0.2))
    colour, gloss = _painted(
        rng,
        points[faces].mean(1),
        section[faces].mean(1),
        belt=belt,
        half=half,
        width=width,
        glazed=(trunk, roof_rear, roof_front, hood),
        tall=tall,
        kind=kind,
    )
    middle = points[faces].mean(1)
    arches = np.zeros(len(faces), bool)
    for axle in axles:
        away = np.hypot(middle[:, 2] - axle, middle[:, 1] - radius)
        arches |= (away < radius * 1.13) & (np.abs(middle[:, 0]) > width * 0.3)
    body = Surface(points, faces[~arches], colour[~arches], True, gloss[~arches])
    surfaces = [body, _underside(half, width, floor, radius)]
    tyre, rim = grey(rng, 14, 30), grey(rng, 90, 210)
    surfaces += [
        _wheel(axle, side * width * 0.47, radius, side, tyre, rim) for axle in axles for side in (1.0, -1.0)
    ]
    return float(tall), surfaces


def _shell(
    z: Floats, low: Floats, top: Floats, half_width: Floats, belt: float, tall: float
) -> tuple[Floats, Floats]:
    """(V, 3) points, ring by ring from the right sill over the roof to the left, and (V,) how far round."""
    around = np.linspace(-1, 1, _AROUND)
    # most of the points on the sides; the last part crosses the roof
    side = np.clip((1 - np.abs(around)) / 0.78, 0, 1)
    across = np.clip(np.abs(around) / 0.22, 0, 1)
    height = low[:, None] + (top - low)[:, None] * np.sin(side * math.pi / 2)[None] ** 0.9
    # the sides bulge below the belt and lean in above it
    rise = np.clip((height - belt) / max(1e-6, tall - belt), 0, 1)
    below = np.clip((belt - height) / belt, 0, 1)
    lean = (1 - 0.2 * rise) * (1 - 0.12 * below**2)
    edge = np.where(across < 1, 1 - 0.16 * (1 - side), 1.0)
    x = (
        np.sign(around)[None]
        * half_width[:, None]
        * lean
        * edge[None]
        * np.where(across < 1, across, 1.0)[None]
    )
    crown = np.where(across < 1, 0.02 * (1 - across**2), 0.0)
    y = height + crown[None]
    points = np.stack((x, y, np.broadcast_to(z[:, None], x.shape)), axis=-1)
    return points.reshape(-1, 3), np.broadcast_to(around, x.shape).reshape(-1)


def _painted(
    rng: Rng,
    middle: Floats,
    section: Floats,
    *,
    belt: float,
    half: float,
    width: float,
    glazed: tuple[float, float, float, float],
    tall: float,
    kind: str,
) -> tuple[Floats, Floats]:
    """(F, 3) colours and (F,) gloss by place."""
    trunk, roof_rear, roof_front, hood = glazed
    x, y, z = middle.T
    coat = paint(rng)
    colours = np.tile(np.array(coat), (len(middle), 1))
    gloss = np.full(len(middle), rng.uniform(0.35, 0.75))
    dark, trim = np.array(grey(rng, 12, 45)), np.array(grey(rng, 18, 70))

    def glass(mask: NDArray[np.bool_]) -> None:
        colours[mask], gloss[mask] = dark, 1.0

    # how far up between belt and roof, following the slopes of the ends
    rise = (y - belt) / (tall - belt)
    rear_edge = trunk + (roof_rear - trunk) * np.clip(rise, 0, 1)
    front_edge = hood + (roof_front - hood) * np.clip(rise, 0, 1)
    along = (z - rear_edge) / np.maximum(front_edge - rear_edge, 1e-6)
    flank = (np.abs(section) > 0.22) & (rise > 0.1) & (rise < 0.86)
    pillars = [0.0, 0.33, 0.62, 1.0] if kind in ("estate", "off-road", "van") else [0.0, 0.48, 1.0]
    panelled = kind == "van" and rng.random() < 0.5
    for first, last in pairwise(pillars):
        if panelled and last < 1:
            continue
        glass(flank & (along > first + 0.035) & (along < last - 0.035))
    ends = (np.abs(section) < 0.27) & (np.abs(x) < width * 0.42)
    glass(ends & (z > roof_front + 0.04) & (z < hood - 0.06) & (y > belt * 1.01))
    glass(ends & (z < roof_rear - 0.04) & (z > trunk + 0.02) & (y > belt * 1.03))
    sill = y < belt * 0.36
    colours[sill] = trim if rng.random() < 0.6 else colours[sill] * 0.6
    gloss[sill] = 0.15
    nose, tail = z > half - 0.32, z < -half + 0.3
    lamp_row = (y > belt * 0.6) & (y < belt * 0.8) & (np.abs(x) > width * 0.26)
    lit = rng.random() < 0.3
    colours[nose & lamp_row] = (252, 250, 235) if lit else (190, 195, 200)
    colours[tail & lamp_row] = (230, 40, 30) if lit else (120, 18, 20)
    grille = (z > half - 0.16) & (y > belt * 0.38) & (y < belt * 0.6) & (np.abs(x) < width * 0.3)
    colours[grille], gloss[grille] = dark, 0.2
    for end in (z > half - 0.12, z < -half + 0.12):
        plate = end & (np.abs(x) < 0.26) & (y > belt * 0.5) & (y < belt * 0.62)
        colours[plate], gloss[plate] = (225, 224, 215), 0.0
    seams = flank | ((rise <= 0.1) & (y > belt * 0.36) & (np.abs(section) > 0.3))
    for cut in pillars:
        door = seams & (np.abs(along - cut) < 0.004) & (rise < 0.1)
        colours[door] = colours[door] * 0.5
    handle_row = (np.abs(y - belt * 0.9) < 0.02) & (np.abs(section) > 0.3)
    for cut in pillars[1:-1]:
        grip = handle_row & (np.abs(along - cut - 0.03) < 0.018)
        colours[grip] = trim
    return colours.astype(np.float64), gloss


def _underside(half: float, width: float, floor: float, radius: float) -> Surface:
    """The dark below: a box that keeps one from seeing through the wheel arches."""
    low, high, wide = floor, radius * 2.1, width * 0.4
    corners = np.array(
        [
            [sx * wide, y, sz * half * 0.93]
            for y in (low, high)
            for sx, sz in ((1, 1), (-1, 1), (-1, -1), (1, -1))
        ]
    )
    faces = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]])
    points, quads = _divided(corners, faces, 14)
    return Surface(points, quads, np.full((len(quads), 3), 14.0), False)


def _divided(corners: Floats, faces: NDArray[np.int64], count: int) -> tuple[Floats, NDArray[np.int64]]:
    """Each quad cut into count × count."""
    points: list[Floats] = []
    quads: list[NDArray[np.int64]] = []
    part = np.linspace(0, 1, count + 1)
    u, v = np.meshgrid(part, part, indexing="ij")
    for face in faces:
        a, b, c, d = corners[face]
        uu, vv = u[..., None], v[..., None]
        points.append(
            ((1 - uu) * (1 - vv) * a + uu * (1 - vv) * b + uu * vv * c + (1 - uu) * vv * d).reshape(-1, 3)
        )
        quads.append(grid_quads(count + 1, count + 1) + (count + 1) ** 2 * len(quads))
    return np.concatenate(points), np.concatenate(quads)


def _wheel(
    axle: float, x: float, radius: float, side: float, tyre: tuple[float, ...], rim: tuple[float, ...]
) -> Surface:
    """A disc with a rim and the tread behind it."""
    rings = radius * np.array([0.0, 0.16, 0.4, 0.66, 0.72, 0.98, 1.0])
    depth = side * np.array([-0.02, -0.02, -0.05, -0.03, 0.0, 0.0, -0.2])
    angles = np.linspace(0, 2 * math.pi, _SPOKES, endpoint=False)
    points = np.stack(
        (
            np.broadcast_to((x + depth)[:, None], (len(rings), _SPOKES)),
            radius + rings[:, None] * np.sin(angles),
            axle + rings[:, None] * np.cos(angles),
        ),
        axis=-1,
    ).reshape(-1, 3)
    colours = np.empty((len(rings) - 1, _SPOKES, 3))
    colours[:3], colours[3:] = rim, tyre
    colours[1:3, 1::4] = np.array(tyre) * 1.2
    faces = grid_quads(len(rings), _SPOKES, round_columns=True)
    return Surface(points, faces, colours.reshape(-1, 3), False)
