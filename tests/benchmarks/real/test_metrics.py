"""Names, boxes of everybody, halves and intervals, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from benchmarks.real import runs
from benchmarks.real.intervals import intervals
from benchmarks.real.metrics import box_metrics, mask_metrics, name_metrics
from benchmarks.real.people_boxes import Box, PeopleBoxes
from benchmarks.real.runs import Found, FoundMask


@pytest.fixture(scope="module")
def labels() -> dict[str, Any]:
    """The first frames of the roof (a bus and later a car) and of a waiting rider and a car."""
    labels = runs.load_labels()
    kept = [video for video in labels["videos"] if video["name"] in ("roof", "waiting")]
    return runs.cut(
        runs.select(labels, {video["id"] for video in kept}), {each["id"]: slice(8) for each in kept}
    )


def of_shot(labels: dict[str, Any], name: str) -> dict[str, Any]:
    return runs.select(labels, {video["id"] for video in labels["videos"] if video["name"] == name})


def renamed(found: dict[int, Found], names: dict[str, str | None]) -> dict[int, Found]:
    return {
        video: {
            index: [each._replace(name=names.get(each.name or "", each.name)) for each in rows]
            for index, rows in by_frame.items()
        }
        for video, by_frame in found.items()
    }


def test_a_rider_is_right_as_a_person_and_as_a_bicycle_and_not_as_a_car(labels: dict[str, Any]) -> None:
    waiting = of_shot(labels, "waiting")
    found = runs.perfect(waiting)
    assert name_metrics(waiting, found) == {"right": 1.0, "num_named": 10}
    assert name_metrics(waiting, renamed(found, {"person": "bicycle"}))["right"] == 1.0
    assert name_metrics(waiting, renamed(found, {"person": "car"}))["right"] == 0.2
    assert name_metrics(waiting, renamed(found, {"car": "bicycle"}))["right"] == 0.8
    assert name_metrics(waiting, renamed(found, {"car": "object"}))["right"] == 0.8


def test_names_of_the_roof_shot_stand_apart(labels: dict[str, Any]) -> None:
    found = renamed(runs.perfect(labels), {"bus": "refrigerator"})
    assert name_metrics(labels, found) == {"right": 1.0, "num_named": 10}
    assert name_metrics(of_shot(labels, "roof"), found)["right"] < 0.5


def test_who_names_nothing_has_no_share_of_right_names(labels: dict[str, Any]) -> None:
    nameless = renamed(runs.perfect(labels), {"person": None, "car": None, "bus": None})
    assert name_metrics(labels, nameless) == {"right": -1.0, "num_named": 0}
    assert mask_metrics(labels, nameless)["recall"] == 1.0, "masks are compared whatever their name"


def test_a_mask_that_covers_nobody_has_no_name_to_judge(labels: dict[str, Any]) -> None:
    waiting = of_shot(labels, "waiting")
    found = runs.perfect(waiting)
    (video,) = waiting["videos"]
    corner = np.zeros((video["height"], video["width"]), np.bool_)
    corner[:20, :20] = True
    for rows in found[video["id"]].values():
        rows.append(FoundMask(99, 0.9, corner, "toaster"))
    assert name_metrics(waiting, found)["right"] == 1.0


def test_halves_share_the_frames_out_and_drop_what_has_none() -> None:
    labels = runs.load_labels()
    tuning, reported = (runs.half(labels, for_tuning=each) for each in (True, False))
    assert {video["name"] for video in tuning["videos"]} == {"roof", "waiting"}
    assert {video["name"] for video in reported["videos"]} == {
        *("traffic", "crossing", "walker", "walker held still")
    }
    assert len(tuning["annotations"]) + len(reported["annotations"]) == len(labels["annotations"])


def test_a_cut_keeps_columns_in_step() -> None:
    labels = runs.load_labels()
    video = next(each for each in labels["videos"] if each["camera"] == "held still")
    places = slice(4, 9)
    one = runs.cut(runs.select(labels, {video["id"]}), {video["id"]: places})
    (kept,) = one["videos"]
    assert kept["length"] == len(kept["frame_indices"]) == len(kept["transforms"]) == 5
    assert kept["frame_indices"] == video["frame_indices"][places]
    assert kept["num_tuning_frames"] == 0
    assert mask_metrics(one, runs.perfect(one))["recall"] == 1.0


def masks(*boxes: Box) -> list[FoundMask]:
    rows = []
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        mask = np.zeros((100, 200), np.bool_)
        mask[y0:y1, x0:x1] = True
        rows.append(FoundMask(number, 0.5, mask, "person"))
    return rows


LEFT, RIGHT, CAR = (10, 20, 30, 80), (30, 20, 50, 80), (120, 10, 190, 60)


def everybody(index: int) -> PeopleBoxes:
    return PeopleBoxes(index, people=(LEFT, RIGHT), ignore=(CAR,), for_tuning=False)


def shares(found: Found, *indices: int) -> tuple[float, float]:
    metrics = box_metrics([everybody(index) for index in indices], found)
    return metrics["recall"], metrics["precision"]


def test_boxes_of_people_are_those_of_the_masks() -> None:
    metrics = box_metrics([everybody(7)], {7: masks(LEFT, RIGHT), 8: masks(CAR)})
    assert (metrics["recall"], metrics["precision"], metrics["num_people"]) == (1.0, 1.0, 2)
    assert shares({}, 7) == (0.0, -1.0)


def test_two_people_in_one_mask_are_found_at_most_once() -> None:
    both = (10, 20, 50, 80)
    assert shares({7: masks(both)}, 7) == (0.5, 1.0), "at an IoU of exactly a half"
    assert shares({7: masks((10, 20, 54, 80))}, 7) == (0.0, 0.0)


def test_what_is_parked_counts_for_nobody_and_what_stands_elsewhere_is_wrong() -> None:
    assert shares({7: masks(LEFT, RIGHT, CAR)}, 7) == (1.0, 1.0)
    assert shares({7: masks(LEFT, RIGHT, (60, 10, 100, 90))}, 7) == (1.0, pytest.approx(2 / 3))
    assert shares({7: masks(LEFT, LEFT, RIGHT)}, 7) == (1.0, pytest.approx(2 / 3))


def test_intervals_of_boxes_come_of_the_frames() -> None:
    metrics = box_metrics(
        [everybody(index) for index in range(8)], {index: masks(LEFT) for index in range(8)}
    )
    assert metrics["intervals"] == {"recall": [0.5, 0.5], "precision": [1.0, 1.0]}


def mean(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values))}


def width(videos: list[list[float]], *, block_frames: int) -> float:
    interval = intervals(videos, mean, block_frames=block_frames)["mean"]
    assert interval is not None
    return interval[1] - interval[0]


def test_an_interval_covers_the_metric_and_is_the_same_every_time() -> None:
    values = np.random.default_rng(3).random(60).tolist()
    first, second = (intervals([values], mean)["mean"] for _ in range(2))
    assert first == second
    assert first is not None
    assert first[0] < np.mean(values) < first[1]
    assert width([values], block_frames=1) == pytest.approx(4 * np.std(values) / np.sqrt(60), rel=0.15)


def test_blocks_widen_the_interval_where_neighbours_are_alike() -> None:
    alike = np.repeat(np.random.default_rng(3).random(12), 5).tolist()
    assert width([alike], block_frames=5) > 1.5 * width([alike], block_frames=1)


def test_every_video_gives_as_many_frames_as_it_has() -> None:
    def count(drawn: Sequence[str]) -> dict[str, float]:
        return {name: float(list(drawn).count(name)) for name in "ab"}

    told = intervals([["a"] * 7, ["b"] * 13], count, num_resamples=20)
    assert told == {"a": [7.0, 7.0], "b": [13.0, 13.0]}


def test_draws_that_say_nothing_are_left_out() -> None:
    def known(drawn: Sequence[int]) -> dict[str, float]:
        return {"some": 0.5 if 1 in drawn else -1.0, "none": -1.0}

    told = intervals([[0, 1, 0, 0]], known, block_frames=1)
    assert told == {"some": [0.5, 0.5], "none": None}
