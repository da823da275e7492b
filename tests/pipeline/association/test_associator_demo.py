"""The demo clip's true masks, sampled at 10 frames a second as live, right and corrupted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.truth import CLASSES, Corruption, Oracle, Scene, count_switches, ids_of, run

from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig
from pipeline.sources.demo import FPS, NUM_FRAMES, demo_frame

RATE = 10.0
HEAVY = Corruption(
    shrink=2.0,
    miss=0.08,
    drop_score=0.1,
    duplicates=1,
    noise=6,
    class_flicker=0.2,
    embedding_noise=0.5,
)


@cache
def demo_scene() -> Scene:
    """The clip as the cadence samples it."""
    numbers = [round(each * FPS / RATE) for each in range(int(NUM_FRAMES * RATE / FPS))]
    drawn = [demo_frame(number) for number in numbers]
    masks = [dict(zip(frame.track_ids, frame.masks, strict=True)) for frame in drawn]
    names = sorted({name for each in masks for name in each})
    height, width = drawn[0].rgb.shape[:2]
    return Scene(height, width, masks, {name: 1 + name % len(CLASSES) for name in names}, RATE)


def track(
    corruption: Corruption, *, seed: int = 0, stride: int = 1, embeddings: bool = True, **config: Any
) -> Any:
    scene = demo_scene()
    associator = Associator(
        AssociationConfig(**{"birth_score": 0.5, **config}),
        emission="first",
        classes=CLASSES,
        num_frames=5,
        stride=stride,
    )
    oracle = Oracle(scene, corruption, seed=seed, embeddings=embeddings, input_size=(192, 320))
    return scene, run(oracle, associator, num_frames=5, stride=stride)


@pytest.mark.parametrize(("matching", "stride"), [("hungarian", 1), ("hungarian", 5), ("greedy", 3)])
def test_every_object_keeps_its_id_through_the_clip(matching: str, stride: int) -> None:
    scene, results = track(Corruption(), matching=matching, stride=stride)
    ids = ids_of(results, scene, least_iou=0.3)
    assert count_switches(ids) == 0
    firsts = [each[0] for each in ids.values()]
    assert len(set(firsts)) == len(scene.outputs)
    num_shown = sum(mask.sum() >= 64 for each in scene.masks for mask in each.values())
    assert sum(map(len, ids.values())) >= 0.95 * num_shown


@pytest.mark.parametrize("seed", range(2))
def test_corrupted_predictions_of_the_clip_keep_the_ids(seed: int) -> None:
    scene, results = track(HEAVY, seed=seed)
    ids = ids_of(results, scene, least_iou=0.3)
    assert count_switches(ids) == 0
    assert len({row.track_id for result in results for row in result.instances}) <= len(scene.outputs) + 2


@pytest.mark.parametrize("seed", range(2))
def test_masks_that_jump_by_a_cell_each_window_cost_few_ids(seed: int) -> None:
    """An object that enters is a few cells at first: moved by one, it need not overlap its own votes."""
    scene, results = track(replace(HEAVY, jitter=1), seed=seed)
    assert count_switches(ids_of(results, scene, least_iou=0.3, least_area=2500)) <= 1


def test_masks_in_source_pixels_follow_the_truth() -> None:
    scene, results = track(Corruption())
    overlaps = []
    for result in results:
        found = [
            row.dense_mask(scene.height, scene.width) for row in result.instances if row.mask is not None
        ]
        for mask in scene.masks[result.frame.index].values():
            if mask.sum() >= 1000:
                overlaps.append(max((mask & each).sum() / (mask | each).sum() for each in found))  # noqa: PERF401
    assert np.mean(overlaps) > 0.9
