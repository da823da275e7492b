"""Colours of real streets: mostly dark and grey clothes, mostly grey, black and white cars.

RGB 0..255. Source: ours, by eye.
"""

from __future__ import annotations

import colorsys

import numpy as np

from model.training.data.draw.canvas import Colour

__all__ = ["any_colour", "cloth", "fur", "grey", "hair", "paint", "skin"]

Rng = np.random.Generator


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue, saturation and value in 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(
        hue % 1.0, min(1.0, max(0.0, saturation)), min(1.0, max(0.0, value))
    )
    return red * 255, green * 255, blue * 255


def grey(rng: Rng, low: float, high: float) -> Colour:
    """Nearly neutral, brightness between low and high of 255."""
    return hsv(rng.random(), rng.uniform(0.0, 0.12), rng.uniform(low, high) / 255)


def any_colour(rng: Rng) -> Colour:
    """Any hue, neither black nor white."""
    return hsv(rng.random(), rng.uniform(0.1, 0.95), rng.uniform(0.15, 0.95))


def cloth(rng: Rng) -> Colour:
    """A colour of clothing: mostly dark, blue or earthen, at times bright."""
    draw = rng.random()
    if draw < 0.40:
        return grey(rng, 12, 75)
    if draw < 0.52:
        return hsv(rng.uniform(0.57, 0.66), rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.5))
    if draw < 0.64:
        return hsv(rng.uniform(0.04, 0.13), rng.uniform(0.15, 0.5), rng.uniform(0.25, 0.75))
    if draw < 0.78:
        return grey(rng, 75, 250)
    return any_colour(rng)


def skin(rng: Rng) -> Colour:
    """A colour of skin, from light to dark."""
    depth = rng.random()
    return hsv(rng.uniform(0.03, 0.075), 0.25 + 0.4 * depth, 0.92 - 0.65 * depth)


def hair(rng: Rng) -> Colour:
    """A colour of hair, from black to fair, or grey."""
    if rng.random() < 0.15:
        return grey(rng, 120, 230)
    return hsv(rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.7), rng.uniform(0.04, 0.55) ** 1.3)


def fur(rng: Rng) -> Colour:
    """A colour of an animal's coat."""
    if rng.random() < 0.4:
        return grey(rng, 15, 245)
    return hsv(rng.uniform(0.04, 0.11), rng.uniform(0.2, 0.65), rng.uniform(0.15, 0.8))


def paint(rng: Rng) -> Colour:
    """A colour of a vehicle: black, white and silver most often."""
    draw = rng.random()
    if draw < 0.28:
        return grey(rng, 12, 60)
    if draw < 0.52:
        return grey(rng, 85, 180)
    if draw < 0.74:
        return grey(rng, 195, 252)
    return hsv(rng.random(), rng.uniform(0.35, 0.95), rng.uniform(0.2, 0.85))
