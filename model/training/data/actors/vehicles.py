"""Vehicles seen from any side, with windows, wheels and lights.

A part's profile is extruded to both sides. Faces turned away are left out, and the others are filled in the
light of their normal. Source: ours.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.training.data.actors.vehicle_looks import Part, Rectangle, Vehicle, vehicle
from model.training.data.draw.canvas import Shape, polygon, stroke, tint
from model.training.data.scene.geometry import Pose, Projector, body_points

__all__ = ["vehicle_shapes"]

Points = NDArray[np.float64]

_SILL = (0.0, 1.0, 0.0, 0.3)
_BELT = (0.0, 1.0, 0.8, 0.9)
"""The shoulder of a body's side, which catches the light."""


def vehicle_shapes(
    seed: int, *, kind: str, height: float, pose: Pose, to_pixels: Projector, pixels_per_metre: float
) -> list[Shape]:
    """A car, van, bus or truck standing on the ground."""
    made = vehicle(seed, kind, height)

    def pixels(own: Points) -> Points:
        return to_pixels(body_points(own, pose))

    shapes: list[Shape] = []
    base = _box_base(made)
    shapes.append(polygon(pixels(base), (14.0, 14.0, 16.0)))
    lefts = [
        side for side in (1.0, -1.0) if _faces_camera(pixels(_disc(0.0, side * made.width / 2, 0.5)), side)
    ]
    parts = sorted(made.parts, key=lambda part: _mean_depth(part, pose), reverse=True)
    if (
        made.parts[-1].glass
        and len(made.parts) == 2
        and made.parts[1].profile[0][1] > made.wheel_radius * 1.5
    ):
        parts = list(made.parts)  # a cabin stands on its body
    for part in parts:
        shapes += _part_shapes(part, made, pixels, lefts, pixels_per_metre)
        if part is made.parts[0] or len(made.parts) == 2:
            shapes += _wheels(made, part, pixels, lefts)
    return shapes + _lights(made, pixels, pose)


def _disc(u: float, v: float, radius: float, *, count: int = 16) -> Points:
    angles = np.linspace(0.0, 2 * math.pi, count, endpoint=False)
    return np.stack(
        (u + radius * np.cos(angles), np.full(count, v), radius + radius * np.sin(angles)), axis=1
    )


def _area(points: Points) -> float:
    """Signed area, positive where the points go round from x to y."""
    total, (x0, y0) = 0.0, points[-1].tolist()
    for x1, y1 in points.tolist():
        total += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return total / 2


def _faces_camera(ring: Points, side: float) -> bool:
    """Whether the left (side 1) or right (-1) of a ring going from forward to up is seen."""
    return _area(ring) * side > 0


def _mean_depth(part: Part, pose: Pose) -> float:
    return float(np.mean([u for u, _ in part.profile])) * math.sin(pose.heading)


def _box_base(made: Vehicle) -> Points:
    half, wide = made.length * 0.46, made.width * 0.44
    return np.array([[-half, -wide, 0.12], [half, -wide, 0.12], [half, wide, 0.12], [-half, wide, 0.12]])


def _part_shapes(
    part: Part, made: Vehicle, pixels: Projector, sides: list[float], pixels_per_metre: float
) -> list[Shape]:
    profile, halves = np.array(part.profile), np.array(part.half_widths)
    left = pixels(np.stack((profile[:, 0], halves, profile[:, 1]), axis=1))
    right = pixels(np.stack((profile[:, 0], -halves, profile[:, 1]), axis=1))
    shapes: list[Shape] = []
    count = len(profile)
    for edge in range(count):
        after = (edge + 1) % count
        face = np.array((left[edge], left[after], right[after], right[edge]))
        if _area(face) * _turn(profile) >= 0:
            continue
        du, dw = profile[after] - profile[edge]
        upward = -du / max(1e-6, math.hypot(du, dw)) * _turn(profile)
        colour = tint(part.colour, 0.8 + 0.3 * upward)
        shapes.append(polygon(face, colour))
        if edge in part.glass:
            shapes.append(polygon(_inset(face, 0.1), tint(made.glass, 0.9 + 0.5 * max(0.0, upward))))
    for side in sides:
        outline = left if side > 0 else right
        shapes.append(polygon(outline, tint(part.colour, 0.95)))
        if made.stripe is not None and not part.glass:
            shapes.append(polygon(pixels(_side_quad(part, side, (0.0, 1.0, 0.3, 0.55))), made.stripe))
        if not part.side_windows or len(made.parts) == 1:
            shapes.append(polygon(pixels(_side_quad(part, side, _SILL)), tint(part.colour, 0.78)))
            shapes.append(polygon(pixels(_side_quad(part, side, _BELT)), tint(part.colour, 1.12)))
        for rectangle in part.side_windows:
            shapes.append(polygon(pixels(_side_quad(part, side, rectangle)), made.glass))
            u0, u1, _, top = rectangle
            gleam = (u0 + 0.1 * (u1 - u0), u0 + made.gleam * (u1 - u0), top - 0.3, top)
            shapes.append(polygon(pixels(_side_quad(part, side, gleam)), tint(made.glass, 1.0 + made.gleam)))
        shapes.append(stroke(outline, tint(part.colour, 0.7), 0.012 * pixels_per_metre, closed=True))
    return shapes


def _turn(profile: Points) -> float:
    """+1 where the profile goes round from forward to up."""
    return math.copysign(1.0, _area(profile))


@lru_cache(maxsize=2048)
def _side_quad(part: Part, side: float, rectangle: Rectangle) -> Points:
    """A rectangle in parts of the profile's length and height, its ends following the profile's slopes."""
    profile, halves = np.array(part.profile), np.array(part.half_widths)
    u0, u1, w0, w1 = rectangle
    low, high = profile[:, 1].min(), profile[:, 1].max()
    corners = []
    for u_part, w_part in ((u0, w0), (u1, w0), (u1, w1), (u0, w1)):
        w = low + (high - low) * w_part
        crossings = _row(profile, w)
        u = crossings[0] + (crossings[1] - crossings[0]) * u_part
        half = float(np.interp(w, (low, high), (halves[0], halves[-1])))
        corners.append((u, side * half, w))
    return np.array(corners)


def _row(profile: Points, w: float) -> tuple[float, float]:
    """Where the profile begins and ends at height w."""
    found = []
    for (u0, w0), (u1, w1) in zip(profile, np.roll(profile, -1, axis=0), strict=True):
        if min(w0, w1) <= w <= max(w0, w1) and w0 != w1:
            found.append(u0 + (u1 - u0) * (w - w0) / (w1 - w0))
    return (min(found), max(found)) if found else (float(profile[:, 0].min()), float(profile[:, 0].max()))


def _inset(quad: Points, part: float) -> Points:
    inner: Points = quad.mean(0) * part + quad * (1 - part)
    return inner


def _wheels(made: Vehicle, part: Part, pixels: Projector, sides: list[float]) -> list[Shape]:
    shapes = []
    us = np.array([u for u, _ in part.profile])
    for side in sides:
        for u in made.wheels:
            if us.min() <= u <= us.max() and part.profile[0][1] < made.wheel_radius * 1.5:
                v = side * made.width * 0.485
                shapes.append(polygon(pixels(_disc(u, v, made.wheel_radius)), (24.0, 24.0, 26.0)))
                hub = _disc(u, v, made.wheel_radius * 0.58, count=12)
                hub[:, 2] += made.wheel_radius * 0.42
                shapes.append(polygon(pixels(hub), made.hub))
    return shapes


def _lights(made: Vehicle, pixels: Projector, pose: Pose) -> list[Shape]:
    """Head or tail lights, bumper and plate on the end that is seen."""
    head = max(made.parts, key=lambda part: max(u for u, _ in part.profile))
    body = head if math.sin(pose.heading) < 0 else made.parts[0]
    u = (
        max(u for u, _ in body.profile)
        if body is head and math.sin(pose.heading) < 0
        else min(u for u, _ in body.profile)
    )
    forward = math.sin(pose.heading) < 0
    wide, base = made.width * 0.47, made.wheel_radius * 1.9
    end = np.array([[u, -wide, base * 0.5], [u, wide, base * 0.5], [u, wide, base], [u, -wide, base]])
    if _area(pixels(end)) * (1.0 if forward else -1.0) >= 0:
        return []
    tall = base * 0.22
    lamp = (250.0, 248.0, 225.0) if made.lights_on else (205.0, 205.0, 200.0)
    if not forward:
        lamp = (235.0, 40.0, 35.0) if made.lights_on else (140.0, 25.0, 25.0)
    shapes = []
    for v0, v1 in ((-0.98, -0.66), (0.66, 0.98)):
        lit = np.array(
            [
                [u, wide * v0, base - tall],
                [u, wide * v1, base - tall],
                [u, wide * v1, base],
                [u, wide * v0, base],
            ]
        )
        shapes.append(polygon(pixels(lit), lamp))
    bumper = np.array(
        [[u, -wide, base * 0.42], [u, wide, base * 0.42], [u, wide, base * 0.52], [u, -wide, base * 0.52]]
    )
    plate = np.array(
        [
            [u, -wide * 0.25, base * 0.5],
            [u, wide * 0.25, base * 0.5],
            [u, wide * 0.25, base * 0.66],
            [u, -wide * 0.25, base * 0.66],
        ]
    )
    return [*shapes, polygon(pixels(bumper), made.trim), polygon(pixels(plate), (225.0, 222.0, 205.0))]
