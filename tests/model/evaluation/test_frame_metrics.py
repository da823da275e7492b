"""Metrics of single frames and identities, by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from support.ytvis import Box, annotation, dataset, result

from model.evaluation.frame_metrics import frame_metrics, frame_tallies
from model.evaluation.frame_tallies import metrics_of_frames
from model.evaluation.identity import correspond, identity_hits_by_frame

LEFT, RIGHT = (2, 5, 12, 35), (40, 5, 50, 15)
"""30 and 10 pixels high."""


def walkers(length: int = 4) -> dict[str, object]:
    return dataset([annotation(1, [LEFT] * length), annotation(2, [RIGHT] * length)], length=length)


def test_perfect_results() -> None:
    metrics = frame_metrics(walkers(), [result([LEFT] * 4), result([RIGHT] * 4)])
    assert metrics["AP50"] == pytest.approx(1)
    assert (metrics["recall"], metrics["precision"]) == (1, 1)
    assert (metrics["IDF1"], metrics["num_id_switches"]) == (1, 0)
    assert (metrics["num_tracks"], metrics["num_object_frames"]) == (2, 8)


def test_swapped_ids_cost_identity_and_no_mask() -> None:
    swapped = [result([LEFT, LEFT, LEFT, RIGHT]), result([RIGHT, RIGHT, RIGHT, LEFT])]
    metrics = frame_metrics(walkers(), swapped)
    assert metrics["AP50"] == pytest.approx(1)
    assert metrics["recall"] == 1
    assert metrics["num_id_switches"] == 2
    assert metrics["IDF1"] == metrics["id_recall"] == pytest.approx(6 / 8)


def test_tallies_of_all_frames_give_the_metrics_and_some_frames_their_own() -> None:
    swapped = [result([LEFT, LEFT, LEFT, RIGHT]), result([RIGHT, None, RIGHT, LEFT])]
    metrics, tallies = frame_metrics(walkers(), swapped), frame_tallies(walkers(), swapped)
    assert [each.place for each in tallies] == [0, 1, 2, 3]
    assert metrics_of_frames(tallies).items() <= metrics.items()
    assert metrics["recall"] == 7 / 8
    one = metrics_of_frames(tallies[1:2])
    assert (one["recall"], one["precision"], one["id_recall"]) == (0.5, 1, 0.5)
    assert metrics_of_frames(tallies[3:])["IDF1"] == 0, "both ids serve the other one best"
    assert metrics_of_frames(tallies[:1] * 3) == metrics_of_frames(tallies[:1])


def test_tallies_say_which_result_covers_which_annotation() -> None:
    tallies = frame_tallies(walkers(), [result([RIGHT] * 4), result([LEFT, None, LEFT, LEFT])])
    assert [sorted(each.pairs) for each in tallies] == [[(1, 2), (2, 1)], [(2, 1)], *[[(1, 2), (2, 1)]] * 2]


def test_recall_by_object_height() -> None:
    # The small one is missed in three of four frames.
    found = [result([LEFT] * 4), result([RIGHT, None, None, None])]
    ranges = frame_metrics(walkers(), found, heights=(0, 24))["recall_by_height"]
    assert [(each["min"], each["max"]) for each in ranges] == [(0, 24), (24, None)]
    assert [each["recall"] for each in ranges] == [0.25, 1]
    assert [each["num_frames"] for each in ranges] == [4, 4]
    with pytest.raises(ValueError, match="must rise"):
        frame_metrics(walkers(), [], heights=(24, 12))


def test_height_is_the_mean_over_the_frames_that_show_the_object() -> None:
    boxes: list[Box] = [(0, 0, 5, 10), None, (0, 0, 5, 30)]
    metrics = frame_metrics(dataset([annotation(1, boxes)], length=3), [], heights=(0, 19, 21))
    assert [each["num_tracks"] for each in metrics["recall_by_height"]] == [0, 1, 0]
    assert [each["recall"] for each in metrics["recall_by_height"]] == [-1, 0, -1]


def test_an_object_below_all_ranges_still_counts_in_total() -> None:
    metrics = frame_metrics(walkers(), [result([LEFT] * 4), result([RIGHT] * 4)], heights=(24,))
    assert metrics["recall_by_height"][0]["num_frames"] == 4
    assert metrics["id_recall"] == 1


def test_one_detection_covers_one_object() -> None:
    truth = dataset([annotation(1, [LEFT]), annotation(2, [LEFT])], length=1)
    metrics = frame_metrics(truth, [result([LEFT])])
    assert (metrics["recall"], metrics["precision"]) == (0.5, 1)


def test_nothing_found_and_nothing_to_find() -> None:
    metrics = frame_metrics(walkers(), [])
    assert (metrics["AP50"], metrics["recall"], metrics["IDF1"]) == (0, 0, 0)
    assert metrics["precision"] == -1
    empty = frame_metrics(dataset([], length=2), [])
    assert (empty["AP50"], empty["recall"], empty["IDF1"]) == (-1, -1, -1)


def test_weak_detections_count_for_the_ranking_alone() -> None:
    noise = result([(20, 0, 30, 30)] * 4, score=0.1)
    found = [result([LEFT] * 4), result([RIGHT] * 4), noise]
    assert frame_metrics(walkers(), found)["precision"] == pytest.approx(8 / 12)
    metrics = frame_metrics(walkers(), found, min_score=0.5)
    assert (metrics["precision"], metrics["IDF1"], metrics["num_detected_tracks"]) == (1, 1, 2)
    assert metrics["AP50"] == pytest.approx(1)


def test_categories_part_objects_unless_told_otherwise() -> None:
    truth = dataset([annotation(1, [LEFT])], length=1, num_categories=2)
    other = [result([LEFT], category_id=2)]
    assert frame_metrics(truth, other)["recall"] == 0
    metrics = frame_metrics(truth, other, use_categories=False)
    assert (metrics["recall"], metrics["AP50"], metrics["IDF1"]) == (1, pytest.approx(1), 1)


def test_detections_in_a_crowd_count_for_nobody() -> None:
    crowd = annotation(2, [(30, 0, 60, 40)], iscrowd=1)
    truth = dataset([annotation(1, [LEFT]), crowd], length=1)
    metrics = frame_metrics(truth, [result([LEFT]), result([RIGHT])])
    assert (metrics["precision"], metrics["IDF1"], metrics["num_tracks"]) == (1, 1, 1)


def test_a_sure_detection_in_a_large_crowd_costs_no_average_precision() -> None:
    crowd = annotation(2, [(20, 0, 60, 40)], iscrowd=1)
    truth = dataset([annotation(1, [LEFT]), crowd], length=1)
    sure = {**result([(40, 0, 46, 12)]), "score": 0.99}
    metrics = frame_metrics(truth, [result([LEFT]), sure])
    assert metrics["AP50"] == pytest.approx(1)
    outside = {**result([(0, 30, 6, 40)]), "score": 0.99}
    assert frame_metrics(truth, [result([LEFT]), outside])["AP50"] == pytest.approx(0.5)


def test_who_was_matched_stays_matched_while_it_overlaps() -> None:
    # In the second frame another track overlaps better, but the first one still does.
    ious = np.array([[[0.9], [0.0]], [[0.6], [0.8]], [[0.0], [0.8]]])
    matching = correspond(ious, least_iou=0.5)
    assert matching.detection.ravel().tolist() == [0, 0, 1]
    assert matching.num_switches == 1


def test_a_break_without_another_id_is_no_switch() -> None:
    ious = np.array([[[0.9]], [[0.0]], [[0.9]]])
    assert correspond(ious, least_iou=0.5).num_switches == 0


def test_as_many_objects_as_can_be_are_covered() -> None:
    # Best first would give the first object the only track that the second one can have.
    ious = np.array([[[0.9, 0.6], [0.5, 0.0]]])
    assert correspond(ious, least_iou=0.5).detection.tolist() == [[1, 0]]


def test_identity_hits_are_the_best_of_all_assignments() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        near = rng.random((6, 4, 3)) < 0.4
        frames = near.sum(0)
        best = max(
            sum(frames[row, column] for column, row in enumerate(p)) for p in permutations(range(4), 3)
        )
        assert identity_hits_by_frame(near).sum() == best
