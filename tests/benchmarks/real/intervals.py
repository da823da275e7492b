"""95 % intervals of the real benchmark's metrics: frames drawn again, in blocks.

Moving-block bootstrap (Künsch 1989): a video of n frames is put together again from blocks of consecutive frames, each
begun at a frame drawn at random, the end going on at the start. Neighbouring frames show the same people at almost the
same places, so frames drawn one by one would promise too much. What an interval says: how much a metric hangs on
which frames of these very shots were labelled. It says nothing about another street.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

BLOCK_FRAMES = 5
"""Labelled frames of a block: half a second of the street clip, five seconds of the pedestrians'."""
NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)

Tally = TypeVar("Tally")


def intervals(
    videos: Sequence[Sequence[Tally]],
    metrics: Callable[[Sequence[Tally]], Mapping[str, float]],
    *,
    block_frames: int = BLOCK_FRAMES,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, list[float] | None]:
    """Return for each metric its interval [low, high]; `videos` are tallies, one a labelled frame, in order.

    A draw that holds nothing to be found (a metric below 0) says nothing; None where no draw says anything.
    """
    chance = np.random.default_rng(0)
    told: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        drawn = [video[place] for video in videos for place in _draw(len(video), block_frames, chance)]
        for name, value in metrics(drawn).items():
            told.setdefault(name, [])
            if value >= 0:
                told[name].append(value)
    return {
        name: [float(each) for each in np.percentile(values, PERCENTILES)] if values else None
        for name, values in told.items()
    }


def _draw(num_frames: int, block_frames: int, chance: np.random.Generator) -> list[int]:
    """As many places of frames as there are, in blocks."""
    starts = chance.integers(num_frames, size=-(-num_frames // block_frames))
    places = (starts[:, None] + np.arange(block_frames)) % num_frames
    return [int(place) for place in places.ravel()[:num_frames]]
