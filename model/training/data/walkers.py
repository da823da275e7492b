"""People: an articulated skeleton walking, standing or riding, as shapes in the picture.

The skeleton is built in metres in the body's own axes (forward u, left v, up w), turned by the heading, put on
the ground and projected, so side, front and back views, near and far, come from one body. Source: ours; the
gait is two sines per leg.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.training.data.canvas import Colour, Shape, capsule, polygon, stroke, tint
from model.training.data.geometry import Pose
from model.training.data.palette import any_colour, cloth, grey, hair, skin

__all__ = ["Projector", "body_points", "cyclist_shapes", "walker_shapes"]

Points = NDArray[np.float64]
Projector = Callable[[Points], Points]
"""(n, 3) metres (X, up, Z) → (n, 2) pixels."""


@dataclass(frozen=True)
class Person:
    """One person's looks, for a height of one metre (all lengths scale with the height)."""

    stout: float
    head: float
    top: Colour
    bottom: Colour
    shoes: Colour
    skin: Colour
    hair: Colour
    long_hair: bool
    sleeves: bool
    shorts: bool
    coat: float
    """How far the coat or skirt reaches down the legs, 0 for none."""
    stripes: int
    stripe: Colour
    logo: bool
    vest: bool
    open_jacket: bool
    bag: str
    bag_colour: Colour
    hat: str
    hat_colour: Colour
    umbrella: bool
    stride: float
    swing: float
    lean: float
    phase: float
    frame: Colour
    """Of the bicycle or scooter."""
    rider_lean: float
    basket: bool


@lru_cache(maxsize=1024)
def person(seed: int) -> Person:
    """The looks that a seed stands for."""
    rng = np.random.default_rng(seed)
    top = cloth(rng)
    bottom = top if rng.random() < 0.08 else cloth(rng)
    return Person(
        stout=float(rng.uniform(0.85, 1.3)),
        head=float(rng.uniform(0.92, 1.15)),
        top=top,
        bottom=bottom,
        shoes=grey(rng, 10, 70) if rng.random() < 0.7 else grey(rng, 150, 245),
        skin=skin(rng),
        hair=hair(rng),
        long_hair=bool(rng.random() < 0.4),
        sleeves=bool(rng.random() < 0.65),
        shorts=bool(rng.random() < 0.18),
        coat=float(rng.uniform(0.15, 0.75)) if rng.random() < 0.35 else 0.0,
        stripes=int(rng.integers(2, 6)) if rng.random() < 0.15 else 0,
        stripe=cloth(rng),
        logo=bool(rng.random() < 0.2),
        vest=bool(rng.random() < 0.05),
        open_jacket=bool(rng.random() < 0.2),
        bag=str(rng.choice(["", "backpack", "hand", "shoulder", "case"], p=[0.5, 0.2, 0.15, 0.1, 0.05])),
        bag_colour=cloth(rng) if rng.random() < 0.7 else any_colour(rng),
        hat=str(rng.choice(["", "cap", "hood", "helmet"], p=[0.7, 0.15, 0.1, 0.05])),
        hat_colour=cloth(rng),
        umbrella=bool(rng.random() < 0.03),
        stride=float(rng.uniform(0.72, 0.9)),
        swing=float(rng.uniform(0.75, 1.2)),
        lean=float(rng.uniform(-0.03, 0.09)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        frame=any_colour(rng) if rng.random() < 0.5 else grey(rng, 15, 90),
        rider_lean=float(rng.uniform(0.15, 0.95)),
        basket=bool(rng.random() < 0.3),
    )


def body_points(own: Points, pose: Pose) -> Points:
    """(n, 3) forward, left, up in metres → (n, 3) X, up, Z of the scene."""
    cosine, sine = math.cos(pose.heading), math.sin(pose.heading)
    points = np.empty((len(own), 3))
    points[:, 0] = pose.x + own[:, 0] * cosine - own[:, 1] * sine
    points[:, 1] = own[:, 2]
    points[:, 2] = pose.z + own[:, 0] * sine + own[:, 1] * cosine
    return points


def _leg(angle: float, bend: float, *, hip: Points, thigh: float, shin: float, foot: float) -> Points:
    """Hip, knee, ankle, toe; angles from straight down, forward positive."""
    knee = hip + thigh * np.array([math.sin(angle), 0.0, -math.cos(angle)])
    lower = angle - bend
    ankle = knee + shin * np.array([math.sin(lower), 0.0, -math.cos(lower)])
    pitch = 0.5 * lower - 0.15
    toe = ankle + foot * np.array([math.cos(pitch), 0.0, math.sin(pitch) - 0.1])
    return np.array((hip, knee, ankle, toe))


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


def walker_shapes(
    seed: int, *, height: float, pose: Pose, seconds: float, to_pixels: Projector, pixels_per_metre: float
) -> list[Shape]:
    """A person on foot."""
    looks = person(seed)
    pace = min(1.0, pose.speed / 0.5)
    run = min(1.0, max(0.0, (pose.speed - 2.1) / 1.2))
    phase = looks.phase + 2 * math.pi * pose.distance / (looks.stride * height * (1.0 + 0.7 * run))
    amplitude = pace * (0.26 + 0.11 * min(pose.speed, 2.0) / 1.4 + 0.25 * run)
    idle = (1.0 - pace) * 0.03
    sway = idle * math.sin(seconds * 0.9 + looks.phase)
    legs = []
    for side, offset in ((1.0, 0.0), (-1.0, math.pi)):
        swing = math.sin(phase + offset)
        angle = amplitude * swing + 0.06 * pace + sway * 0.5 + 0.04 * (1 - pace) * side
        lift = max(0.0, math.sin(phase + offset + 0.9 + math.pi * 0.5))
        bend = pace * (0.12 + (0.75 + 0.8 * run) * lift) + 0.04
        hip = np.array([0.0, side * 0.05 * looks.stout, 0.0])
        legs.append(_leg(angle, bend, hip=hip, thigh=0.245, shin=0.245, foot=0.10))
    lowest = min(float(leg[:, 2].min()) for leg in legs)
    hip_height = 0.015 - lowest + run * 0.02 * abs(math.sin(phase))
    lean = looks.lean * (0.3 + pace) + 0.12 * run + sway
    chest = np.array([math.sin(lean) * 0.3, sway * 0.5, hip_height + 0.3 * math.cos(lean)])
    arms = []
    for side, offset in ((1.0, math.pi), (-1.0, 0.0)):
        swing = looks.swing * amplitude * math.sin(phase + offset) * 0.9 + sway * 2
        shoulder = chest + np.array([0.0, side * 0.105 * looks.stout, -0.012])
        bend = 0.15 + 0.25 * pace + 1.2 * run + (1.3 if looks.umbrella and side > 0 else 0.0)
        elbow = shoulder + 0.165 * np.array([math.sin(swing), side * 0.12, -math.cos(swing)])
        lower = swing + bend
        hand = elbow + 0.155 * np.array([math.sin(lower), 0.0, -math.cos(lower)])
        arms.append(np.array((shoulder, elbow, hand)))
    for leg in legs:
        leg[:, 2] += hip_height
    return _dress(
        looks,
        legs=legs,
        arms=arms,
        pelvis=np.array([0.0, 0.0, hip_height]),
        chest=chest,
        height=height,
        pose=pose,
        to_pixels=to_pixels,
        pixels_per_metre=pixels_per_metre,
    )


def _dress(
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
    axis = chest_at - pelvis_at
    across = np.array([1.0, 0.0])
    if looks.coat:
        knees = (leg_pixels[0][1] + leg_pixels[1][1]) / 2
        hem = pelvis_at + (knees - pelvis_at) * 2 * looks.coat
        spread = max(
            half[2] * 1.15, abs(leg_pixels[0][1][0] - leg_pixels[1][1][0]) * looks.coat + half[2] * 0.7
        )
        colour = looks.top if looks.coat < 0.5 else tint(looks.bottom, 1.1)
        shapes.append(
            polygon(
                np.array(
                    (
                        pelvis_at - across * half[2],
                        pelvis_at + across * half[2],
                        hem + across * spread,
                        hem - across * spread,
                    )
                ),
                colour,
            )
        )
    waist = pelvis_at + axis * 0.4
    torso = np.stack(
        (
            neck_at - across * half[0] * 0.35,
            neck_at + across * half[0] * 0.35,
            chest_at + across * half[0] * 0.9,
            chest_at - axis * 0.12 + across * half[0],
            waist + across * half[1],
            pelvis_at - axis * 0.1 + across * half[2],
            pelvis_at - axis * 0.1 - across * half[2],
            waist - across * half[1],
            chest_at - axis * 0.12 - across * half[0],
            chest_at - across * half[0] * 0.9,
        )
    )
    shapes.append(polygon(torso, looks.top))
    shapes += _pattern(looks, chest_at, pelvis_at, half, frontal=frontal, from_front=seen_from_front)
    shapes += _head(looks, neck_at, head_at, crown_at, unit, pose, frontal, from_front=seen_from_front)
    shapes += carried_in_front
    shapes += _arm(looks, arm_pixels[near], unit, 0.95 if frontal > 0.7 else 1.08)
    return shapes + bag_front


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
    radius = 0.05 * unit * looks.head
    forward = np.array([math.cos(pose.heading), 0.0])
    up = (crown - head) / max(1e-6, float(np.linalg.norm(crown - head)))
    shapes = [capsule(neck, head, 0.032 * unit, 0.032 * unit, tint(looks.skin, 0.85))]
    face_back = frontal > 0.5 and not from_front
    if looks.long_hair:
        shapes.append(
            capsule(
                head,
                neck - forward * radius * 0.4 - up * radius * 0.2,
                radius * 1.12,
                radius * 0.9,
                looks.hair,
            )
        )
    shapes.append(
        capsule(
            head - up * radius * 0.3,
            head + up * radius * 0.35,
            radius * 0.86,
            radius,
            looks.hair if face_back else looks.skin,
        )
    )
    back = -forward * radius * 0.3
    if not face_back:
        shapes.append(
            capsule(
                head + up * radius * 0.75 + back,
                head + up * radius * 0.1 + back * 2.2,
                radius * 0.72,
                radius * 0.5,
                looks.hair,
            )
        )
        if frontal < 0.8:
            nose = head + forward * radius * 0.95
            shapes.append(capsule(nose, nose - up * radius * 0.2, radius * 0.18, radius * 0.2, looks.skin))
    if looks.hat in ("cap", "helmet"):
        grow = 1.08 if looks.hat == "cap" else 1.25
        shapes.append(
            capsule(
                head + up * radius * 0.6 - forward * radius * 0.2,
                head + up * radius * 0.6 + forward * radius * 0.2,
                radius * 0.85 * grow,
                radius * 0.85 * grow,
                looks.hat_colour,
            )
        )
        if looks.hat == "cap" and not face_back:
            shapes.append(
                capsule(
                    head + up * radius * 0.45 + forward * radius * 0.6,
                    head + up * radius * 0.4 + forward * radius * 1.5,
                    radius * 0.25,
                    radius * 0.18,
                    tint(looks.hat_colour, 0.8),
                )
            )
    elif looks.hat == "hood":
        shapes.append(
            capsule(
                head + back * 1.4 + up * radius * 0.4, neck + back, radius * 1.1, radius * 1.05, looks.top
            )
        )
    if looks.umbrella:
        top = head + up * radius * 4.2
        angles = np.linspace(math.pi, 0.0, 9)
        reach = 0.3 * unit
        dome = np.stack((top[0] + np.cos(angles) * reach, top[1] - np.sin(angles) * reach * 0.5), axis=1)
        shapes.append(
            stroke(
                np.array((top, head - up * radius * 2.0 + forward * radius)), (40.0, 40.0, 40.0), 0.006 * unit
            )
        )
        shapes.append(polygon(dome, looks.bag_colour))
    return shapes


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


def _wheel(centre: float, radius: float, lean: float = 0.0) -> Points:
    angles = np.linspace(0.0, 2 * math.pi, 20, endpoint=False)
    return np.stack(
        (centre + radius * np.cos(angles), np.full(20, lean), radius + radius * np.sin(angles)), axis=1
    )


def cyclist_shapes(
    seed: int, *, height: float, pose: Pose, to_pixels: Projector, pixels_per_metre: float, motor: bool
) -> list[Shape]:
    """A rider on a bicycle or on a motor scooter: one instance, wheels' discs counted."""
    looks = person(seed)
    scale = pixels_per_metre
    radius = 0.24 if motor else 0.34
    rear, front = -0.52, 0.55

    def pixels(own: Points) -> Points:
        return to_pixels(body_points(own, pose))

    shapes: list[Shape] = []
    tyre = (28.0, 28.0, 30.0)
    for centre in (rear, front):
        ring = pixels(_wheel(centre, radius))
        if motor:
            shapes.append(polygon(ring, tyre))
        else:
            shapes.append(Shape(ring, tyre, mask_only=True))
        shapes.append(stroke(ring, tyre, (0.05 if motor else 0.024) * scale, closed=True))
    crank = np.array([0.0, 0.0, 0.29])
    saddle, bar = np.array([-0.2, 0.0, 0.76 if motor else 0.96]), np.array([0.42, 0.0, 1.0])
    turn = looks.phase + (0.0 if motor else pose.distance * 2.1)
    pedals = [
        crank
        + 0.17 * np.array([math.cos(turn + half), 0.0, math.sin(turn + half)])
        + np.array([0.0, side * 0.1, 0.0])
        for side, half in ((1.0, 0.0), (-1.0, math.pi))
    ]
    if motor:
        pedals = [np.array([0.2, side * 0.14, 0.28]) for side in (1.0, -1.0)]
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
        for lateral in (0.16, -0.16, 0.0):
            shapes.append(
                polygon(
                    pixels(hull + np.array([0.0, lateral, 0.0])),
                    tint(looks.frame, 1.0 if lateral == 0 else 0.8),
                )
            )
    else:
        joints = pixels(
            np.array(
                (
                    np.array([rear, 0.0, radius]),
                    np.array([front, 0.0, radius]),
                    crank,
                    saddle,
                    bar,
                    np.array([0.36, 0.0, 0.8]),
                    bar + np.array([0.0, 0.25, 0.0]),
                    bar - np.array([0.0, 0.25, 0.0]),
                    *pedals,
                )
            )
        )
        for first, second in ((0, 2), (0, 3), (2, 3), (2, 5), (3, 5), (5, 1), (5, 4), (6, 7), (8, 9)):
            shapes.append(stroke(joints[[first, second]], looks.frame, 0.018 * scale))
        shapes.append(
            stroke(
                joints[[3, 3]] + np.array([[-0.1 * scale, 0], [0.1 * scale, 0]]),
                (20.0, 20.0, 20.0),
                0.035 * scale,
            )
        )
        if looks.basket:
            place = pixels(np.array([[front + 0.05, 0.0, 0.85], [rear - 0.05, 0.0, 0.72]]))
            for middle in place[: 1 + int(looks.phase > 3)]:
                shapes.append(
                    capsule(
                        middle,
                        middle + np.array([0.0, 0.12 * scale]),
                        0.13 * scale,
                        0.12 * scale,
                        looks.bag_colour,
                    )
                )
    hip = (saddle + np.array([-0.02, 0.0, 0.06])) / height
    lean = looks.rider_lean * (0.35 if motor else 1.0)
    chest = hip + 0.3 * np.array([math.sin(lean), 0.0, math.cos(lean)])
    legs, arms = [], []
    for side, pedal in ((1.0, pedals[0]), (-1.0, pedals[1])):
        ankle = pedal / height + np.array([-0.02, 0.0, 0.045])
        limb = _bent_limb(hip + np.array([0.0, side * 0.05, 0.0]), ankle, 0.245, 0.245, forward=1.0)
        legs.append(np.concatenate((limb, limb[2:] + np.array([[0.09, 0.0, -0.02]]))))
        hand = bar / height + np.array([-0.02, side * 0.13, 0.02])
        arms.append(_bent_limb(chest + np.array([0.0, side * 0.1, -0.01]), hand, 0.165, 0.165, forward=-1.0))
    rider = _dress(
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
    return shapes + rider
