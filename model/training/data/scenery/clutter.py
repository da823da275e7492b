"""Static things that belong to the scenery and may hide actors: poles, trees, fences, signs, bins, bushes.

Drawn as shapes in the reference picture, once a scene. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.canvas import Colour, Shape, capsule, polygon, stroke, tint
from model.training.data.draw.palette import any_colour, grey, hsv
from model.training.data.scene.geometry import project
from model.training.data.scene.scenes import Clutter, View

__all__ = ["clutter_shapes"]

Points = NDArray[np.float64]
Rng = np.random.Generator


class _Place(NamedTuple):
    """Where a thing stands, in pixels of the reference picture."""

    foot: Points
    """(2,)"""
    tall: float
    scale: float
    """Pixels a metre."""


_UP = np.array([0.0, -1.0])


def clutter_shapes(thing: Clutter, *, view: View, width: int) -> list[Shape]:
    """The thing's shapes in pixels of the reference picture."""
    rng = np.random.default_rng(thing.seed)
    if thing.kind == "fence":
        return _fence(thing, rng, view=view, width=width)
    scale = view.focal / max(thing.z, 0.3)
    foot = project(np.array([[thing.x, 0.0, thing.z]]), view=view, width=width)[0]
    return _UPRIGHT[thing.kind](rng, _Place(foot, thing.height * scale, scale))


def _pole(rng: Rng, place: _Place) -> list[Shape]:
    """A pole, some with an arm at the top."""
    foot, tall, scale = place
    radius = scale * float(rng.uniform(0.04, 0.14))
    colour = grey(rng, 25, 190)
    top = foot + _UP * tall
    shapes = [
        capsule(foot, top, radius, radius * 0.8, colour),
        stroke(np.array((foot, top)) + np.array([radius * 0.5, 0]), tint(colour, 0.75), radius * 0.3),
    ]
    if rng.random() < 0.4:
        end = top + np.array([scale * rng.uniform(-2, 2), -0.2 * scale])
        shapes.append(stroke(np.array((top, end)), colour, radius * 0.6))
    return shapes


def _bollard(rng: Rng, place: _Place) -> list[Shape]:
    foot, tall, scale = place
    radius, colour = scale * float(rng.uniform(0.06, 0.13)), grey(rng, 25, 160)
    top, knob = foot + _UP * tall, foot + _UP * (tall + radius * 0.5)
    return [
        capsule(foot, top, radius, radius * 0.9, colour),
        capsule(top, knob, radius * 1.25, radius * 1.25, tint(colour, 1.1)),
    ]


def _sign(rng: Rng, place: _Place) -> list[Shape]:
    """A framed board on a post."""
    foot, tall, scale = place
    colour, wide = any_colour(rng), scale * float(rng.uniform(0.25, 0.9))
    high = wide * float(rng.uniform(0.5, 1.4))
    middle = foot + _UP * tall
    board = middle + np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]]) / 2
    return [
        stroke(np.array((foot, middle)), grey(rng, 70, 170), 0.04 * scale),
        polygon(board, colour),
        stroke(board, tint(colour, 0.6), 0.02 * scale, closed=True),
        polygon(middle + (board - middle) * 0.5, any_colour(rng)),
    ]


def _bin(rng: Rng, place: _Place) -> list[Shape]:
    """A bin, wider at its lid."""
    foot, tall, _ = place
    wide = tall * float(rng.uniform(0.25, 0.5))
    colour = any_colour(rng) if rng.random() < 0.4 else grey(rng, 25, 130)
    sides = foot + np.array([[-wide, 0], [wide, 0], [wide * 1.1, -tall], [-wide * 1.1, -tall]])
    lid, half = foot + _UP * tall, np.array([wide, 0.0])
    return [
        polygon(sides, colour),
        capsule(lid - half, lid + half, 0.06 * tall, 0.06 * tall, tint(colour, 0.7)),
    ]


def _plant(rng: Rng, place: _Place, *, trunk: bool) -> list[Shape]:
    """Leaves over leaves around a middle; with a trunk a tree, and some of those are bare."""
    foot, tall, _ = place
    hue, dark = float(rng.uniform(0.17, 0.38)), float(rng.uniform(0.15, 0.5))
    shapes: list[Shape] = []
    middle, spread, height = foot - [0, tall * 0.4], tall * float(rng.uniform(0.4, 0.9)), tall * 0.45
    if trunk:
        bark = hsv(
            float(rng.uniform(0.04, 0.12)), float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.1, 0.45))
        )
        bare = rng.random() < 0.3
        crown = foot - [tall * float(rng.uniform(-0.06, 0.06)), tall * 0.75]
        shapes.append(capsule(foot, crown, tall * 0.028, tall * 0.016, bark))
        for _ in range(14 if bare else 5):
            start = foot + (crown - foot) * float(rng.uniform(0.5, 1.0))
            tip = start + np.array([rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.0)]) * tall
            shapes.append(stroke(np.array((start, tip)), bark, tall * 0.008))
        if bare:
            return shapes
        middle, spread, height = (
            crown,
            tall * float(rng.uniform(0.18, 0.35)),
            tall * float(rng.uniform(0.18, 0.3)),
        )
    leaf = max(1.2, tall * float(rng.uniform(0.02, 0.05)))
    for step in range(90):
        angle, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
        at = middle + np.array([math.cos(angle) * spread, math.sin(angle) * height]) * reach
        light = dark * (0.6 + 0.7 * step / 90) * (1.15 - 0.4 * (at[1] - middle[1]) / max(height, 1e-6))
        colour: Colour = hsv(hue + rng.normal(0, 0.02), float(rng.uniform(0.25, 0.65)), light)
        shapes.append(capsule(at, at + rng.normal(0, leaf, 2), leaf * 1.2, leaf * 0.8, colour))
    return shapes


_UPRIGHT: dict[str, Callable[[Rng, _Place], list[Shape]]] = {
    "pole": _pole,
    "bollard": _bollard,
    "sign": _sign,
    "bin": _bin,
    "bush": partial(_plant, trunk=False),
    "tree": partial(_plant, trunk=True),
}
"""Kind → its drawing; a fence has no one foot."""


def _fence(thing: Clutter, rng: Rng, *, view: View, width: int) -> list[Shape]:
    """Posts and rails across the picture, parallel to it."""
    colour = (
        grey(rng, 20, 120)
        if rng.random() < 0.6
        else hsv(float(rng.uniform(0.04, 0.4)), 0.5, float(rng.uniform(0.15, 0.6)))
    )
    scale = view.focal / max(thing.z, 0.3)
    step, count = float(rng.uniform(0.9, 2.4)), int(rng.integers(3, 9))
    xs = thing.x + step * (np.arange(count) - count / 2)
    posts = project(np.stack((xs, np.zeros(count), np.full(count, thing.z)), axis=1), view=view, width=width)
    tops = project(
        np.stack((xs, np.full(count, thing.height), np.full(count, thing.z)), axis=1), view=view, width=width
    )
    thick = scale * float(rng.uniform(0.02, 0.06))
    shapes = [stroke(np.array((tops[0], tops[-1])), colour, thick)]
    shapes += [
        stroke(np.array((low, high)), colour, thick * 1.3) for low, high in zip(posts, tops, strict=True)
    ]
    style = int(rng.integers(0, 3))
    for index in range(count - 1):
        low, high = posts[index : index + 2], tops[index : index + 2]
        if style == 0:
            shapes += [
                stroke(np.array((low[0], high[1])), colour, thick * 0.7),
                stroke(np.array((low[1], high[0])), colour, thick * 0.7),
            ]
        elif style == 1:
            for part in (0.33, 0.66):
                shapes.append(stroke(low + (high - low) * part, colour, thick * 0.7))
        else:
            for part in np.linspace(0.1, 0.9, 8):
                shapes.append(
                    stroke(
                        np.array((low[0] + (low[1] - low[0]) * part, high[0] + (high[1] - high[0]) * part)),
                        colour,
                        thick * 0.35,
                    )
                )
    return shapes
