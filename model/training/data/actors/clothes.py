"""Skin and clothes on a skeleton: limbs, torso, head, bags, the hidden ones first. Source: ours."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.actors.looks import Person
from model.training.data.draw.canvas import Shape, capsule, polygon, stroke, tint
from model.training.data.scene.geometry import Pose, Projector, body_points

__all__ = ["dress"]

Points = NDArray[np.float64]


def dress(
    looks: Person,
    *,
    legs: list[Points],
    arms: list[Points],
    pelvis: Points,
    chest: Points,
    height: float,
    pose: Pose,
    to_pixels: Projector,
    pixels_per_metre: float,
) -> list[Shape]:
    """Skin and clothes on a skeleton given for a height of one metre."""
    unit = height * pixels_per_metre
    up = (chest - pelvis) / np.linalg.norm(chest - pelvis)
    head = chest + up * 0.095 + np.array([0.012, 0.0, 0.0])
    own = np.concatenate((*legs, *arms, np.array((pelvis, chest, head, head + up * 0.05, chest + up * 0.03))))
    pixels = to_pixels(body_points(own * height, pose))
    leg_pixels, arm_pixels = [pixels[0:4], pixels[4:8]], [pixels[8:11], pixels[11:14]]
    pelvis_at, chest_at, head_at, crown_at, neck_at = pixels[14:19]
    # how much of the shoulders' line is seen across: 1 from the front, 0 from the side
    frontal = abs(math.sin(pose.heading))
    seen_from_front = math.sin(pose.heading) < 0
    left_is_far = math.cos(pose.heading) > 0
    far, near = (0, 1) if left_is_far else (1, 0)
    half = [
        unit * looks.stout * math.hypot(wide * frontal, deep * math.sqrt(1 - min(1.0, frontal) ** 2))
        for wide, deep in ((0.118, 0.068), (0.10, 0.066), (0.088, 0.07))
    ]
    shapes: list[Shape] = []
    bag_behind, bag_front = _bags(looks, unit, chest_at, pelvis_at, arm_pixels[near], pose, frontal)
    carried_in_front = bag_behind if not seen_from_front else []
    if seen_from_front or frontal < 0.5:
        shapes += bag_behind
        carried_in_front = []
    shapes += _arm(looks, arm_pixels[far], unit, 0.8)
    for index, light in ((far, 0.78), (near, 1.0)):
        shapes += _leg_shapes(looks, leg_pixels[index], unit, light)
    if looks.coat:
        shapes.append(_coat(looks, pelvis_at, leg_pixels, half[2]))
    shapes.append(polygon(_torso(neck_at, chest_at, pelvis_at, half), looks.top))
    shapes += _pattern(looks, chest_at, pelvis_at, half, frontal=frontal, from_front=seen_from_front)
    shapes += _head(looks, neck_at, head_at, crown_at, unit, pose, frontal, from_front=seen_from_front)
    shapes += carried_in_front
    shapes += _arm(looks, arm_pixels[near], unit, 0.95 if frontal > 0.7 else 1.08)
    return shapes + bag_front


def _coat(looks: Person, pelvis: Points, legs: list[Points], hips: float) -> Shape:
    """A coat or skirt from the hips down, as wide as the step; `hips` is half their width in pixels."""
    across = np.array([1.0, 0.0])
    knees = (legs[0][1] + legs[1][1]) / 2
    hem = pelvis + (knees - pelvis) * 2 * looks.coat
    spread = max(hips * 1.15, abs(legs[0][1][0] - legs[1][1][0]) * looks.coat + hips * 0.7)
    colour = looks.top if looks.coat < 0.5 else tint(looks.bottom, 1.1)
    corners = (pelvis - across * hips, pelvis + across * hips, hem + across * spread, hem - across * spread)
    return polygon(np.array(corners), colour)


def _torso(neck: Points, chest: Points, pelvis: Points, half: list[float]) -> Points:
    """(10, 2) its outline; `half` widths of shoulders, waist and hips in pixels."""
    axis, across = chest - pelvis, np.array([1.0, 0.0])
    waist = pelvis + axis * 0.4
    return np.stack(
        (
            neck - across * half[0] * 0.35,
            neck + across * half[0] * 0.35,
            chest + across * half[0] * 0.9,
            chest - axis * 0.12 + across * half[0],
            waist + across * half[1],
            pelvis - axis * 0.1 + across * half[2],
            pelvis - axis * 0.1 - across * half[2],
            waist - across * half[1],
            chest - axis * 0.12 - across * half[0],
            chest - across * half[0] * 0.9,
        )
    )


def _leg_shapes(looks: Person, leg: Points, unit: float, light: float) -> list[Shape]:
    wide = unit * looks.stout
    calf = looks.skin if looks.shorts else looks.bottom
    return [
        capsule(leg[2], leg[3], 0.021 * unit, 0.017 * unit, tint(looks.shoes, light)),
        capsule(leg[1], leg[2], 0.036 * wide, 0.026 * wide, tint(calf, light)),
        capsule(leg[0], leg[1], 0.05 * wide, 0.038 * wide, tint(looks.bottom, light)),
    ]


def _arm(looks: Person, arm: Points, unit: float, light: float) -> list[Shape]:
    wide = unit * looks.stout
    lower = looks.top if looks.sleeves else looks.skin
    return [
        capsule(
            arm[2], arm[2] + (arm[2] - arm[1]) * 0.2, 0.018 * unit, 0.016 * unit, tint(looks.skin, light)
        ),
        capsule(arm[1], arm[2], 0.025 * wide, 0.02 * wide, tint(lower, light)),
        capsule(arm[0], arm[1], 0.032 * wide, 0.026 * wide, tint(looks.top, light)),
    ]


def _pattern(
    looks: Person, chest: Points, pelvis: Points, half: list[float], *, frontal: float, from_front: bool
) -> list[Shape]:
    shapes: list[Shape] = []
    axis, across = pelvis - chest, np.array([1.0, 0.0])
    if looks.vest:
        shapes.append(
            polygon(
                np.array(
                    (
                        chest - across * half[0] * 0.8,
                        chest + across * half[0] * 0.8,
                        chest + axis * 0.85 + across * half[1],
                        chest + axis * 0.85 - across * half[1],
                    )
                ),
                (215.0, 235.0, 40.0),
            )
        )
    for index in range(looks.stripes):
        middle = chest + axis * ((index + 0.6) / looks.stripes)
        reach = half[0] * 0.93
        shapes.append(
            stroke(
                np.array((middle - across * reach, middle + across * reach)),
                looks.stripe,
                float(np.linalg.norm(axis)) * 0.2 / looks.stripes,
            )
        )
    if looks.open_jacket and from_front and frontal > 0.5:
        shapes.append(
            polygon(
                np.array((chest - across * half[0] * 0.2, chest + across * half[0] * 0.2, pelvis)),
                looks.stripe,
            )
        )
    if looks.logo and frontal > 0.4:
        middle = chest + axis * 0.35
        shapes.append(
            capsule(
                middle - across * half[0] * 0.3,
                middle + across * half[0] * 0.3,
                half[0] * 0.18,
                half[0] * 0.22,
                looks.stripe,
            )
        )
    return shapes


class _Skull(NamedTuple):
    """Where a head is and how it is turned, in pixels."""

    neck: Points
    middle: Points
    radius: float
    forward: Points
    """(2,) towards the nose, shorter the more it is seen from the front."""
    up: Points
    """(2,) unit."""
    face_back: bool
    """Turned away: only hair is seen."""


def _head(
    looks: Person,
    neck: Points,
    head: Points,
    crown: Points,
    unit: float,
    pose: Pose,
    frontal: float,
    *,
    from_front: bool,
) -> list[Shape]:
    skull = _Skull(
        neck,
        head,
        0.05 * unit * looks.head,
        np.array([math.cos(pose.heading), 0.0]),
        (crown - head) / max(1e-6, float(np.linalg.norm(crown - head))),
        frontal > 0.5 and not from_front,
    )
    throat = capsule(neck, head, 0.032 * unit, 0.032 * unit, tint(looks.skin, 0.85))
    shapes = [throat, *_face_and_hair(looks, skull, frontal), *_hat(looks, skull)]
    return shapes + _umbrella(looks, skull, unit) if looks.umbrella else shapes


def _face_and_hair(looks: Person, skull: _Skull, frontal: float) -> list[Shape]:
    head, radius, forward, up = skull.middle, skull.radius, skull.forward, skull.up
    shapes = []
    if looks.long_hair:
        end = skull.neck - forward * radius * 0.4 - up * radius * 0.2
        shapes.append(capsule(head, end, radius * 1.12, radius * 0.9, looks.hair))
    colour = looks.hair if skull.face_back else looks.skin
    shapes.append(capsule(head - up * radius * 0.3, head + up * radius * 0.35, radius * 0.86, radius, colour))
    if not skull.face_back:
        back = -forward * radius * 0.3
        top, nape = head + up * radius * 0.75 + back, head + up * radius * 0.1 + back * 2.2
        shapes.append(capsule(top, nape, radius * 0.72, radius * 0.5, looks.hair))
        if frontal < 0.8:
            nose = head + forward * radius * 0.95
            shapes.append(capsule(nose, nose - up * radius * 0.2, radius * 0.18, radius * 0.2, looks.skin))
    return shapes


def _hat(looks: Person, skull: _Skull) -> list[Shape]:
    """A cap with its peak, a helmet, a hood, or nothing."""
    head, radius, forward, up = skull.middle, skull.radius, skull.forward, skull.up
    if looks.hat == "hood":
        back = -forward * radius * 0.3
        top = head + back * 1.4 + up * radius * 0.4
        return [capsule(top, skull.neck + back, radius * 1.1, radius * 1.05, looks.top)]
    if looks.hat not in ("cap", "helmet"):
        return []
    grow = 1.08 if looks.hat == "cap" else 1.25
    middle, reach = head + up * radius * 0.6, forward * radius * 0.2
    wide = radius * 0.85 * grow
    shapes = [capsule(middle - reach, middle + reach, wide, wide, looks.hat_colour)]
    if looks.hat == "cap" and not skull.face_back:
        start = head + up * radius * 0.45 + forward * radius * 0.6
        end = head + up * radius * 0.4 + forward * radius * 1.5
        shapes.append(capsule(start, end, radius * 0.25, radius * 0.18, tint(looks.hat_colour, 0.8)))
    return shapes


def _umbrella(looks: Person, skull: _Skull, unit: float) -> list[Shape]:
    head, radius, forward, up = skull.middle, skull.radius, skull.forward, skull.up
    top = head + up * radius * 4.2
    angles = np.linspace(math.pi, 0.0, 9)
    reach = 0.3 * unit
    dome = np.stack((top[0] + np.cos(angles) * reach, top[1] - np.sin(angles) * reach * 0.5), axis=1)
    stick = np.array((top, head - up * radius * 2.0 + forward * radius))
    return [stroke(stick, (40.0, 40.0, 40.0), 0.006 * unit), polygon(dome, looks.bag_colour)]


def _bags(
    looks: Person, unit: float, chest: Points, pelvis: Points, arm: Points, pose: Pose, frontal: float
) -> tuple[list[Shape], list[Shape]]:
    """(on the back, at the near side)."""
    if not looks.bag:
        return [], []
    forward, down = np.array([math.cos(pose.heading), 0.0]), pelvis - chest
    if looks.bag == "backpack":
        middle = chest - forward * 0.085 * unit
        wide = 0.05 + 0.035 * frontal
        return [
            capsule(
                middle + down * 0.2, middle + down * 0.72, wide * unit, (wide + 0.01) * unit, looks.bag_colour
            )
        ], []
    if looks.bag == "shoulder":
        middle = pelvis - forward * 0.05 * unit
        return [], [
            stroke(
                np.array((chest + forward * 0.04 * unit, middle)), tint(looks.bag_colour, 0.8), 0.009 * unit
            ),
            capsule(
                middle - forward * 0.03 * unit,
                middle + forward * 0.05 * unit,
                0.045 * unit,
                0.05 * unit,
                looks.bag_colour,
            ),
        ]
    hand = arm[2]
    if looks.bag == "case":
        ground = hand - forward * 0.16 * unit + np.array([0.0, 0.24 * unit])
        return [], [
            stroke(np.array((hand, ground - np.array([0.0, 0.2 * unit]))), (50.0, 50.0, 50.0), 0.007 * unit),
            capsule(
                ground - np.array([0.0, 0.17 * unit]),
                ground - np.array([0.0, 0.05 * unit]),
                0.06 * unit,
                0.06 * unit,
                looks.bag_colour,
            ),
        ]
    low = hand + np.array([0.0, 0.1 * unit])
    return [], [capsule(hand + (low - hand) * 0.5, low, 0.03 * unit, 0.05 * unit, looks.bag_colour)]
