"""The boxes of every person in some frames of the pedestrians' clip, as far as they can be checked without it."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from benchmarks.real import people_boxes, runs
from benchmarks.real.pedestrians import LABELS
from benchmarks.real.people_boxes import BOXES, Box, PeopleBoxes


@pytest.fixture(scope="module")
def frames() -> list[PeopleBoxes]:
    return people_boxes.load()


def iou(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, wide) * max(0, tall)
    areas = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
    return shared / (areas - shared)


def test_fifteen_frames_lie_evenly_over_the_labelled_ones(frames: list[PeopleBoxes]) -> None:
    (video,) = runs.load_labels(LABELS)["videos"]
    indices = [each.index for each in frames]
    assert len(indices) == 15
    assert set(indices) <= set(video["frame_indices"])
    assert (indices[0], indices[-1]) == (video["frame_indices"][0], video["frame_indices"][-1])
    assert set(np.diff(indices)) <= {50, 60}


def test_boxes_lie_in_the_picture_and_are_shaped_like_people(frames: list[PeopleBoxes]) -> None:
    assert sum(len(each.people) for each in frames) > 80
    for frame in frames:
        for x0, y0, x1, y1 in (*frame.people, *frame.ignore):
            assert 0 <= x0 < x1 <= 768
            assert 0 <= y0 < y1 <= 576
        for x0, y0, x1, y1 in frame.people:
            assert 24 <= y1 - y0 <= 170
            assert 0.15 < (x1 - x0) / (y1 - y0) < 1
        assert all(iou(*pair) < 0.7 for pair in combinations(frame.people, 2)), frame.index


def test_every_silhouette_of_a_whole_person_has_its_box(frames: list[PeopleBoxes]) -> None:
    labels = runs.load_labels(LABELS)
    (video,) = labels["videos"]
    num_silhouettes = 0
    for frame in frames:
        place = video["frame_indices"].index(frame.index)
        for each in labels["annotations"]:
            if each["iscrowd"] or each["bboxes"][place] is None:
                continue
            x, y, wide, tall = each["bboxes"][place]
            best = max(iou((x, y, x + wide, y + tall), box) for box in frame.people)
            assert best > 0.65, (frame.index, x, y)
            num_silhouettes += 1
    assert num_silhouettes > 40


def test_what_cannot_be_decided_and_what_is_parked_is_ignored(frames: list[PeopleBoxes]) -> None:
    tree: dict[str, Any] = json.loads(BOXES.read_text(encoding="utf-8"))
    assert len(tree["parked"]) == 2
    by_index = {each.index: each for each in frames}
    assert {int(index) for index in tree["ignore"]} <= set(by_index)
    assert len(by_index[460].ignore) == 3, "somebody who is cut off by the border"
    assert len(by_index[30].ignore) == 2
