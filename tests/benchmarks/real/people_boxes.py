"""Boxes of every person in 15 frames of the pedestrians' clip (people_boxes.json), groups too.

The silhouettes of `pedestrians.py` leave out who touches another or stands behind the lamp post, and so say
nothing about what a crowd costs. These boxes were drawn by eye: each person on the frame enlarged five times with
axes in pixels, drawn back on it, looked at again and corrected. No detector was used. A box holds what is visible
of a person and what is carried. Ignored: the two parked vehicles, and what shows less than a third of a person.

A box is x0, y0, x1, y1 in pixels, right and lower edge outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOXES = Path(__file__).with_name("people_boxes.json")

TUNING_BEFORE = 398
"""The first half of the clip's 795 frames: labelled frames in it are for tuning, later ones are reported."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PeopleBoxes:
    """One labelled frame."""

    index: int
    """In the clip."""
    people: tuple[Box, ...]
    ignore: tuple[Box, ...]
    """What lies in one of these is ignored; the parked vehicles are among them."""
    for_tuning: bool
    """Numbers may be chosen on it; its metrics are not the reported ones."""


def load(path: Path = BOXES) -> list[PeopleBoxes]:
    """The labelled frames, in order."""
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    parked = _boxes(tree["parked"])
    return [
        PeopleBoxes(
            index=int(index),
            people=_boxes(people),
            ignore=(*_boxes(tree["ignore"].get(index, [])), *parked),
            for_tuning=int(index) < TUNING_BEFORE,
        )
        for index, people in tree["people"].items()
    ]


def parked_vehicles(path: Path = BOXES) -> tuple[Box, ...]:
    """The two vehicles that stand there from the first frame to the last, and are ignored."""
    return _boxes(json.loads(path.read_text(encoding="utf-8"))["parked"])


def _boxes(rows: list[list[int]]) -> tuple[Box, ...]:
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in rows)
