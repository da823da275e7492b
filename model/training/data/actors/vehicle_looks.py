"""What vehicles look like: the parts, colours and wheels of a kind, drawn from a seed.

A part is a profile in the u-w plane (u forward, w up), extruded to both sides. Lengths are metres. Ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from model.training.data.draw.canvas import Colour
from model.training.data.draw.palette import any_colour, grey, paint

__all__ = ["Part", "Rectangle", "Vehicle", "vehicle"]

Rng = np.random.Generator
Rectangle = tuple[float, float, float, float]
"""(u0, u1, w0, w1) in parts of a profile's length and height."""


@dataclass(frozen=True)
class Part:
    """An extruded profile, counter-clockwise seen from the left side (u to the left is forward there)."""

    profile: tuple[tuple[float, float], ...]
    """(u, w) in metres, going round from the rear bottom over the front and the top."""
    half_widths: tuple[float, ...]
    colour: Colour
    glass: tuple[int, ...] = ()
    """Edges of the profile that are windows."""
    side_windows: tuple[Rectangle, ...] = ()
    """On both sides, narrowing with the profile."""


@dataclass(frozen=True)
class Vehicle:
    parts: tuple[Part, ...]
    wheels: tuple[float, ...]
    wheel_radius: float
    length: float
    width: float
    glass: Colour
    hub: Colour
    trim: Colour
    lights_on: bool
    gleam: float
    """How much of a window mirrors the sky."""
    stripe: Colour | None


class Build(NamedTuple):
    """What the kind says of a vehicle; in metres."""

    parts: tuple[Part, ...]
    wheels: tuple[float, ...]
    """u of the axles."""
    wheel_radius: float
    length: float
    width: float


@lru_cache(maxsize=512)
def vehicle(seed: int, kind: str, height: float) -> Vehicle:
    """The looks that a seed stands for. Raises KeyError for an unknown kind."""
    rng = np.random.default_rng(seed)
    colour = paint(rng)
    built = _KINDS[kind](rng, height, colour)
    return Vehicle(
        parts=built.parts,
        wheels=tuple(float(u) for u in built.wheels),
        wheel_radius=float(built.wheel_radius),
        length=float(built.length),
        width=float(built.width),
        glass=grey(rng, 18, 80),
        hub=grey(rng, 70, 200),
        trim=grey(rng, 12, 60),
        lights_on=bool(rng.random() < 0.35),
        gleam=float(rng.uniform(0.2, 0.95)),
        stripe=any_colour(rng) if rng.random() < 0.15 else None,
    )


def _car(rng: Rng, h: float, colour: Colour) -> Build:
    """A cabin on a body."""
    length, width = h * rng.uniform(2.5, 3.1), h * rng.uniform(1.12, 1.25)
    hood, trunk = rng.uniform(0.2, 0.3), rng.uniform(0.02, 0.2)
    belt, floor = h * rng.uniform(0.56, 0.62), h * 0.16
    rear, front = -length / 2, length / 2
    body = Part(
        (
            (rear, floor),
            (front - 0.02 * length, floor),
            (front, belt * 0.62),
            (front - 0.03 * length, belt * 0.82),
            (front - hood * length, belt),
            (rear + 0.04 * length, belt * 1.02),
            (rear, belt * 0.8),
        ),
        (width * 0.47, width * 0.47, width * 0.46, width * 0.46, width * 0.48, width * 0.48, width * 0.48),
        colour,
    )
    low_front, low_rear = front - hood * length, rear + max(0.03, trunk) * length
    top_front = low_front - rng.uniform(0.10, 0.17) * length
    top_rear = low_rear + rng.uniform(0.03, 0.12) * length
    cabin = Part(
        ((low_rear, belt), (low_front, belt), (top_front, h), (top_rear, h)),
        (width * 0.47, width * 0.47, width * 0.37, width * 0.37),
        colour,
        (1, 3),
        ((0.06, 0.47, 0.1, 0.86), (0.52, 0.94, 0.1, 0.86)),
    )
    wheels = (rear + 0.19 * length, front - 0.18 * length)
    return Build((body, cabin), wheels, h * 0.215, length, width)


def _van(rng: Rng, h: float, colour: Colour) -> Build:
    """One body with a short nose, and windows at the driver's alone or all along."""
    length, width = h * rng.uniform(2.1, 2.7), h * rng.uniform(0.85, 0.98)
    rear, front, floor = -length / 2, length / 2, h * 0.12
    nose, belt = rng.uniform(0.06, 0.16) * length, h * 0.52
    windows: tuple[Rectangle, ...] = (
        ((0.7, 0.86, 0.5, 0.85),)
        if rng.random() < 0.5
        else ((0.06, 0.3, 0.5, 0.87), (0.34, 0.6, 0.5, 0.87), (0.66, 0.85, 0.5, 0.87))
    )
    body = Part(
        (
            (rear, floor),
            (front, floor),
            (front, belt * 0.8),
            (front - nose, belt),
            (front - nose - 0.1 * length, h * 0.97),
            (rear + 0.02 * length, h),
        ),
        (width / 2,) * 4 + (width * 0.45,) * 2,
        colour,
        (3,),
        windows,
    )
    wheels = (rear + 0.2 * length, front - 0.18 * length)
    return Build((body,), wheels, h * 0.16, length, width)


def _bus(rng: Rng, h: float, colour: Colour) -> Build:
    """A box with a row of windows."""
    length, width = h * rng.uniform(3.2, 4.2), h * 0.83
    rear, front, floor = -length / 2, length / 2, h * 0.1
    count = int(rng.integers(5, 9))
    windows = tuple(
        (0.03 + i * 0.95 / count, 0.03 + (i + 0.88) * 0.95 / count, 0.42, 0.84) for i in range(count)
    )
    body = Part(
        (
            (rear, floor),
            (front, floor),
            (front, h * 0.38),
            (front - 0.01 * length, h * 0.9),
            (front - 0.02 * length, h),
            (rear, h),
            (rear, h * 0.5),
        ),
        (width / 2,) * 7,
        colour if rng.random() < 0.4 else any_colour(rng),
        (2, 5),
        windows,
    )
    wheels = (rear + 0.24 * length, front - 0.2 * length)
    return Build((body,), wheels, h * 0.15, length, width)


def _truck(rng: Rng, h: float, colour: Colour) -> Build:
    """A load behind a cab."""
    length, width = h * rng.uniform(2.2, 3.3), h * rng.uniform(0.68, 0.8)
    rear, front, floor = -length / 2, length / 2, h * 0.16
    cab = h * rng.uniform(0.55, 0.7)
    tall = h * rng.uniform(0.72, 0.9)
    load = Part(
        ((rear, floor), (front - cab * 1.02, floor), (front - cab * 1.02, h), (rear, h)),
        (width / 2,) * 4,
        grey(rng, 170, 250) if rng.random() < 0.5 else any_colour(rng),
    )
    head = Part(
        (
            (front - cab, floor),
            (front, floor),
            (front, tall * 0.55),
            (front - cab * 0.12, tall),
            (front - cab, tall),
        ),
        (width * 0.48,) * 5,
        colour,
        (2,),
        ((0.3, 0.86, 0.55, 0.88),),
    )
    wheels = (rear + 0.16 * length, rear + 0.29 * length, front - 0.55 * cab)
    return Build((load, head), wheels, h * 0.155, length, width)


_KINDS: dict[str, Callable[[Rng, float, Colour], Build]] = {
    "car": _car,
    "van": _van,
    "bus": _bus,
    "truck": _truck,
}
"""Kind → what builds it from random numbers, its height in metres and its colour."""
