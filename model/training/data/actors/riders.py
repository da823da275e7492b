"""Riders of bicycles and motor scooters: one instance of person and machine. Source: ours."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.actors.clothes import dress
from model.training.data.actors.looks import Person, person
from model.training.data.draw.canvas import Shape, capsule, polygon, stroke, tint
from model.training.data.scene.geometry import Pose, Projector, body_points

__all__ = ["rider_shapes"]

Points = NDArray[np.float64]


class _Machine(NamedTuple):
    """What somebody sits on; points (3,) forward, left, up in metres."""

    shapes: list[Shape]
    saddle: Points
    bar: Points
    """Between the hands."""
    feet: list[Points]
    """Where the left and the right foot stand."""


_CRANK = np.array([0.0, 0.0, 0.29])
_BAR = np.array([0.42, 0.0, 1.0])
_REAR, _FRONT = -0.52, 0.55
"""Forward places of the axles."""
_TYRE = (28.0, 28.0, 30.0)


def rider_shapes(
    seed: int, *, height: float, pose: Pose, to_pixels: Projector, pixels_per_metre: float, motor: bool
) -> list[Shape]:
    """A rider on a bicycle or on a motor scooter: one instance, wheels' discs counted."""
    looks = person(seed)

    def pixels(own: Points) -> Points:
        return to_pixels(body_points(own, pose))

    if motor:
        machine = _scooter(looks, pixels, pixels_per_metre)
    else:
        machine = _bicycle(looks, looks.phase + pose.distance * 2.1, pixels, pixels_per_metre)
    hip = (machine.saddle + np.array([-0.02, 0.0, 0.06])) / height
    lean = looks.rider_lean * (0.35 if motor else 1.0)
    chest = hip + 0.3 * np.array([math.sin(lean), 0.0, math.cos(lean)])
    legs, arms = [], []
    for side, foot in ((1.0, machine.feet[0]), (-1.0, machine.feet[1])):
        ankle = foot / height + np.array([-0.02, 0.0, 0.045])
        limb = _bent_limb(hip + np.array([0.0, side * 0.05, 0.0]), ankle, 0.245, 0.245, forward=1.0)
        legs.append(np.concatenate((limb, limb[2:] + np.array([[0.09, 0.0, -0.02]]))))
        hand = machine.bar / height + np.array([-0.02, side * 0.13, 0.02])
        arms.append(_bent_limb(chest + np.array([0.0, side * 0.1, -0.01]), hand, 0.165, 0.165, forward=-1.0))
    rider = dress(
        looks,
        legs=legs,
        arms=arms,
        pelvis=hip,
        chest=chest,
        height=height,
        pose=pose,
        to_pixels=to_pixels,
        pixels_per_metre=pixels_per_metre,
    )
    return machine.shapes + rider


def _scooter(looks: Person, pixels: Projector, scale: float) -> _Machine:
    """A motor scooter: solid wheels and a hull."""
    shapes: list[Shape] = []
    for centre in (_REAR, _FRONT):
        ring = pixels(_wheel(centre, 0.24))
        shapes += [polygon(ring, _TYRE), stroke(ring, _TYRE, 0.05 * scale, closed=True)]
    hull = np.array(
        [
            [-0.75, 0.0, 0.75],
            [-0.2, 0.0, 0.72],
            [0.05, 0.0, 0.35],
            [0.3, 0.0, 0.32],
            [0.38, 0.0, 1.0],
            [0.5, 0.0, 0.95],
            [0.55, 0.0, 0.3],
            [-0.5, 0.0, 0.25],
            [-0.8, 0.0, 0.5],
        ]
    )
    shapes += [
        polygon(pixels(hull + np.array([0.0, lateral, 0.0])), tint(looks.frame, light))
        for lateral, light in ((0.16, 0.8), (-0.16, 0.8), (0.0, 1.0))
    ]
    board = [np.array([0.2, side * 0.14, 0.28]) for side in (1.0, -1.0)]
    return _Machine(shapes, np.array([-0.2, 0.0, 0.76]), _BAR, board)


def _bicycle(looks: Person, turn: float, pixels: Projector, scale: float) -> _Machine:
    """A bicycle whose crank stands at `turn` radians: spokes that one sees through, a frame, baskets."""
    radius = 0.34
    shapes: list[Shape] = []
    for centre in (_REAR, _FRONT):
        ring = pixels(_wheel(centre, radius))
        shapes += [Shape(ring, _TYRE, mask_only=True), stroke(ring, _TYRE, 0.024 * scale, closed=True)]
    saddle = np.array([-0.2, 0.0, 0.96])
    pedals = [
        _CRANK
        + 0.17 * np.array([math.cos(turn + half), 0.0, math.sin(turn + half)])
        + np.array([0.0, side * 0.1, 0.0])
        for side, half in ((1.0, 0.0), (-1.0, math.pi))
    ]
    joints = pixels(
        np.array(
            (
                np.array([_REAR, 0.0, radius]),
                np.array([_FRONT, 0.0, radius]),
                _CRANK,
                saddle,
                _BAR,
                np.array([0.36, 0.0, 0.8]),
                _BAR + np.array([0.0, 0.25, 0.0]),
                _BAR - np.array([0.0, 0.25, 0.0]),
                *pedals,
            )
        )
    )
    for first, second in ((0, 2), (0, 3), (2, 3), (2, 5), (3, 5), (5, 1), (5, 4), (6, 7), (8, 9)):
        shapes.append(stroke(joints[[first, second]], looks.frame, 0.018 * scale))
    seat = joints[[3, 3]] + np.array([[-0.1 * scale, 0], [0.1 * scale, 0]])
    shapes.append(stroke(seat, (20.0, 20.0, 20.0), 0.035 * scale))
    if looks.basket:
        places = pixels(np.array([[_FRONT + 0.05, 0.0, 0.85], [_REAR - 0.05, 0.0, 0.72]]))
        low = np.array([0.0, 0.12 * scale])
        shapes += [
            capsule(middle, middle + low, 0.13 * scale, 0.12 * scale, looks.bag_colour)
            for middle in places[: 1 + int(looks.phase > 3)]
        ]
    return _Machine(shapes, saddle, _BAR, pedals)


def _wheel(centre: float, radius: float) -> Points:
    angles = np.linspace(0.0, 2 * math.pi, 20, endpoint=False)
    return np.stack(
        (centre + radius * np.cos(angles), np.zeros(20), radius + radius * np.sin(angles)), axis=1
    )


def _bent_limb(root: Points, tip: Points, upper: float, lower: float, *, forward: float) -> Points:
    """Root, joint, tip with the joint pushed forward (or back) in the u-w plane; a two-link chain."""
    gap = tip - root
    length = float(np.linalg.norm(gap))
    reach = min(length, 0.999 * (upper + lower))
    along = (upper**2 - lower**2 + reach**2) / (2 * max(reach, 1e-6))
    out = math.sqrt(max(0.0, upper**2 - along**2))
    direction = gap / max(length, 1e-6)
    normal = np.array([-direction[2], 0.0, direction[0]]) * (1.0 if -direction[2] * forward > 0 else -1.0)
    return np.array((root, root + direction * along + normal * out, tip))
