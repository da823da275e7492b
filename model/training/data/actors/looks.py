"""What people look like: clothes, hair, bags and hats, drawn from a seed. Source: ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from model.training.data.draw.canvas import Colour
from model.training.data.draw.palette import any_colour, cloth, grey, hair, skin

__all__ = ["Person", "person"]


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
