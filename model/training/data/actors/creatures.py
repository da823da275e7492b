"""Four-legged animals, and blobs: textured shapes of no kind that deform while they move. Source: ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.canvas import Colour, Shape, capsule, polygon, tint
from model.training.data.draw.palette import any_colour, cloth, fur
from model.training.data.scene.geometry import Pose, Projector, body_points

__all__ = ["animal_shapes", "blob_shapes"]

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Animal:
    """Lengths in shoulder heights."""

    coat: Colour
    patch: Colour
    spotted: bool
    length: float
    girth: float
    leg: float
    neck: float
    neck_angle: float
    muzzle: float
    tail: float
    ears: float
    phase: float


@lru_cache(maxsize=512)
def animal(seed: int) -> Animal:
    """The looks that a seed stands for."""
    rng = np.random.default_rng(seed)
    return Animal(
        coat=fur(rng),
        patch=fur(rng),
        spotted=bool(rng.random() < 0.35),
        length=float(rng.uniform(0.85, 1.3)),
        girth=float(rng.uniform(0.14, 0.24)),
        leg=float(rng.uniform(0.45, 0.62)),
        neck=float(rng.uniform(0.15, 0.5)),
        neck_angle=float(rng.uniform(0.1, 1.2)),
        muzzle=float(rng.uniform(0.12, 0.3)),
        tail=float(rng.uniform(0.1, 0.6)),
        ears=float(rng.uniform(0.04, 0.14)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


def animal_shapes(
    seed: int, *, height: float, pose: Pose, seconds: float, to_pixels: Projector, pixels_per_metre: float
) -> list[Shape]:
    """A dog, horse or what has four legs, `height` metres at the shoulder."""
    looks = animal(seed)
    unit = height * pixels_per_metre
    pace = min(1.0, pose.speed / 0.3)
    phase = looks.phase + 2 * math.pi * pose.distance / (1.1 * height)
    amplitude = pace * min(0.7, 0.3 + 0.12 * pose.speed)
    bob = 0.02 * pace * math.sin(2 * phase)
    half, hang = looks.length / 2, looks.leg
    rear, front = (
        np.array([-half, 0.0, 0.92 - looks.girth + bob]),
        np.array([half, 0.0, 1.0 - looks.girth - bob]),
    )
    raise_head = looks.neck_angle + 0.15 * math.sin(seconds * 0.8 + looks.phase)
    head = front + looks.neck * np.array([math.cos(raise_head), 0.0, math.sin(raise_head)])
    nose = head + looks.muzzle * np.array([math.cos(0.25), 0.0, -math.sin(0.35)])
    wag = 0.15 * math.sin(seconds * 6 + looks.phase)
    tail = rear + looks.tail * np.array([-0.7, wag, -0.4])
    legs = []
    for end, side, offset in (
        (rear, 1, 0.0),
        (front, 1, math.pi * 0.55),
        (rear, -1, math.pi),
        (front, -1, math.pi * 1.55),
    ):
        swing = amplitude * math.sin(phase + offset)
        bend = 0.15 + pace * 0.7 * max(0.0, math.cos(phase + offset))
        hip = end + np.array([0.0, side * 0.1, -0.05])
        reach = float(hip[2]) / 2
        knee = hip + reach * np.array([math.sin(swing), 0.0, -math.cos(swing)])
        foot = knee + reach * np.array([math.sin(swing - bend), 0.0, -math.cos(swing - bend)])
        legs.append(np.array((hip, knee, foot)))
    points = np.concatenate((*legs, np.array((rear, front, head, nose, tail, (rear + front) / 2))))
    pixels = to_pixels(body_points(points * height, pose))
    limbs = [pixels[3 * index : 3 * index + 3] for index in range(4)]
    rear_at, front_at, head_at, nose_at, tail_at, middle = pixels[12:18]
    left_is_far = math.cos(pose.heading) > 0
    far, near = ((0, 1), (2, 3)) if left_is_far else ((2, 3), (0, 1))
    girth = looks.girth * unit

    def leg_shapes(which: tuple[int, int], light: float) -> list[Shape]:
        found = []
        for index in which:
            hip, knee, foot = limbs[index]
            found.append(
                capsule(knee, foot, hang * 0.1 * unit, hang * 0.075 * unit, tint(looks.coat, light * 0.95))
            )
            found.append(capsule(hip, knee, hang * 0.17 * unit, hang * 0.1 * unit, tint(looks.coat, light)))
        return found

    shapes = [
        capsule(rear_at, tail_at, 0.04 * unit, 0.025 * unit, tint(looks.coat, 0.85)),
        *leg_shapes(far, 0.7),
    ]
    front_parts = [
        capsule(front_at, head_at, girth * 0.75, girth * 0.5, tint(looks.coat, 0.97)),
        capsule(head_at, nose_at, girth * 0.55, girth * 0.3, looks.coat),
        capsule(
            head_at,
            head_at - np.array([0.0, girth * 0.5 + looks.ears * unit]),
            girth * 0.2,
            girth * 0.08,
            tint(looks.coat, 0.7),
        ),
    ]
    trunk = [capsule(rear_at, front_at, girth * 0.9, girth, looks.coat)]
    if looks.spotted:
        trunk.append(
            capsule(middle, middle + (rear_at - front_at) * 0.2, girth * 0.6, girth * 0.5, looks.patch)
        )
    facing_away = math.sin(pose.heading) > 0.3
    shapes += front_parts + trunk if facing_away else trunk + front_parts
    return shapes + leg_shapes(near, 1.0)


@lru_cache(maxsize=512)
def _blob(seed: int) -> tuple[Points, Points, Points, tuple[Colour, ...], int, float]:
    """Amplitudes, phases and rates of the outline's waves, colours, corners (0 round), breadth."""
    rng = np.random.default_rng(seed)
    order = np.arange(1, 6)
    amplitudes = rng.uniform(0.0, 0.28, 5) / np.sqrt(order)
    corners = int(rng.choice([0, 0, 0, 3, 4, 4, 5, 6]))
    return (
        amplitudes,
        rng.uniform(0, 2 * math.pi, 5),
        rng.normal(0, 1.6, 5).round(4),
        tuple(any_colour(rng) if rng.random() < 0.5 else cloth(rng) for _ in range(3)),
        corners,
        float(rng.uniform(0.5, 1.6)),
    )


def blob_shapes(
    seed: int, *, height: float, pose: Pose, seconds: float, to_pixels: Projector, pixels_per_metre: float
) -> list[Shape]:
    """A shape `height` metres tall; round ones wobble, cornered ones turn and sway."""
    amplitudes, phases, rates, colours, corners, breadth = _blob(seed)
    middle = to_pixels(np.array([[pose.x, height / 2, pose.z]]))[0]
    radius = height * pixels_per_metre / 2
    angles = (
        np.linspace(0.0, 2 * math.pi, 40, endpoint=False)
        if not corners
        else (
            phases[0] * 0.1
            + 0.25 * math.sin(rates[1] * seconds + phases[1])
            + np.arange(corners) * 2 * math.pi / corners
        )
    )
    order = np.arange(1, 6)[:, None]
    waves = amplitudes[:, None] * np.cos(order * angles + (phases + rates * seconds)[:, None])
    reach = radius * (1.0 + (waves.sum(0) if not corners else 0.3 * np.cos(phases[2] * np.arange(corners))))
    outline = np.stack(
        (np.cos(angles) * reach * min(1.3, breadth), np.sin(angles) * reach / max(1.0, breadth)), axis=1
    )
    shapes = [polygon(middle + outline, colours[0])]
    for index, colour in enumerate(colours[1:]):
        shift = np.array([math.cos(phases[index]), math.sin(phases[index])]) * radius * 0.22
        shapes.append(polygon(middle + shift + outline * (0.42 - 0.12 * index), colour))
    return shapes
