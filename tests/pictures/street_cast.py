"""Who is in the clip that ships, what they wear and where they go. Source: ours."""

from __future__ import annotations

import math
from typing import NamedTuple

from model.training.data.meshes.outfits import Outfit


class Somebody(NamedTuple):
    """A person or car and its way: waypoints (seconds, s, t) in street coordinates."""

    seed: int
    way: tuple[tuple[float, float, float], ...]
    outfit: Outfit | None = None
    """None: a car."""
    heading: float = 0.0
    """While it stands: radians from the street's direction to the left."""


def outfit(**changes: object) -> Outfit:
    """Jeans, a shirt with long sleeves and short dark hair, but for the changes."""
    plain = {
        "skin": (206, 158, 128),
        "hair": (46, 34, 26),
        "top": (96, 104, 116),
        "bottom": (48, 58, 84),
        "shoes": (38, 36, 36),
        "second": (70, 62, 58),
        "sleeves": 1.0,
        "legs": 1.0,
        "skirt": 0.0,
        "skirt_of_top": False,
        "hem": 0.03,
        "loose_top": 0.012,
        "loose_bottom": 0.012,
        "long_hair": 0.0,
        "bald": False,
        "hat": False,
        "backpack": False,
        "handbag": False,
        "stripes": 0,
        "pattern": "plain",
    }
    return Outfit(**(plain | changes))


CAST = (
    # two who meet on the crossing, one before the other
    Somebody(
        3,
        ((-1.0, 10.9, -7.0), (12.0, 10.9, 9.2)),
        outfit(top=(142, 44, 46), backpack=True, second=(40, 52, 48)),
    ),
    Somebody(
        8,
        ((-1.0, 10.0, 7.2), (12.0, 10.1, -9.4)),
        outfit(
            top=(222, 214, 198),
            bottom=(36, 36, 40),
            skin=(120, 82, 62),
            hair=(24, 20, 18),
            long_hair=0.4,
            handbag=True,
            second=(104, 66, 44),
        ),
    ),
    # a pair that comes along the left pavement, and who walks away on it
    Somebody(
        12,
        ((-1.0, 22.0, -5.4), (12.0, 7.2, -5.3)),
        outfit(top=(44, 74, 112), bottom=(150, 138, 118), skin=(224, 178, 150), hair=(120, 84, 48)),
    ),
    Somebody(
        21,
        ((-1.0, 22.3, -4.75), (12.0, 7.5, -4.65)),
        outfit(
            top=(58, 84, 66),
            skirt=0.5,
            skirt_of_top=True,
            bottom=(30, 30, 34),
            long_hair=0.5,
            hair=(70, 44, 26),
        ),
    ),
    Somebody(
        30,
        ((-1.0, 6.8, -6.3), (12.0, 22.0, -6.1)),
        outfit(
            top=(190, 156, 66), bottom=(56, 62, 78), hair=(28, 24, 24), backpack=True, second=(34, 40, 60)
        ),
    ),
    # the right pavement
    Somebody(
        41,
        ((-1.0, 29.0, 4.6), (12.0, 12.5, 4.5)),
        outfit(
            top=(36, 38, 44),
            bottom=(74, 74, 80),
            skin=(160, 112, 86),
            hair=(22, 20, 20),
            skirt=0.4,
            skirt_of_top=True,
        ),
    ),
    Somebody(
        52,
        ((-1.0, 13.0, 5.4), (12.0, 29.5, 5.3)),
        outfit(top=(208, 120, 96), bottom=(40, 48, 70), sleeves=0.35),
    ),
)
CARS = (
    # one waits before the crossing and goes on, one drives away, two are parked
    Somebody(
        38,
        ((-2.0, 62.0, -1.0), (4.2, 16.2, -1.0), (7.4, 15.8, -1.0), (9.0, 12.6, -1.0), (12.0, 1.2, -1.0)),
        heading=math.pi,
    ),
    Somebody(15, ((-1.0, 13.0, 1.9), (1.0, 21.0, 1.9), (12.0, 110.0, 1.9))),
    Somebody(35, ((0.0, 18.5, -3.25),), heading=math.pi),
    Somebody(8, ((0.0, 25.0, -3.2),), heading=math.pi),
)
