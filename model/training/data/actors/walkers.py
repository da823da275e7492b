"""People on foot: an articulated skeleton walking, running or standing, as shapes in the picture.

The skeleton is built for a height of one metre in the body's own axes (forward u, left v, up w), turned by
the heading, put on the ground and projected: side, front and back views, near and far, come from one body.
Source: ours; the gait is two sines a leg.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model.training.data.actors.clothes import dress
from model.training.data.actors.looks import person
from model.training.data.draw.canvas import Shape
from model.training.data.scene.geometry import Pose, Projector

__all__ = ["walker_shapes"]

Points = NDArray[np.float64]


def _leg(angle: float, bend: float, *, hip: Points, thigh: float, shin: float, foot: float) -> Points:
    """Hip, knee, ankle, toe; angles from straight down, forward positive."""
    knee = hip + thigh * np.array([math.sin(angle), 0.0, -math.cos(angle)])
    lower = angle - bend
    ankle = knee + shin * np.array([math.sin(lower), 0.0, -math.cos(lower)])
    pitch = 0.5 * lower - 0.15
    toe = ankle + foot * np.array([math.cos(pitch), 0.0, math.sin(pitch) - 0.1])
    return np.array((hip, knee, ankle, toe))


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
    return dress(
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
