"""The parts of matching, each against its formula: soft IoU, suppression, halving, assignment, gates."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.truth import CLASSES, Corruption, Mover, Oracle, run, script

from pipeline.association.associator import Associator
from pipeline.association.candidates import (
    box_overlap,
    halve,
    inner_products,
    select_candidates,
    sigmoid,
    soft_iou,
    suppress,
    unit_length,
)
from pipeline.association.mask_sums import cell_boxes
from pipeline.association.matching import assign
from pipeline.association.tracks import TrackTable
from pipeline.config import AssociationConfig
from pipeline.inference.window import Windower
from pipeline.types import Window


def floats(*values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_soft_iou_of_hard_masks_is_their_iou_and_of_equal_soft_masks_one() -> None:
    rng = np.random.default_rng(0)
    hard = (rng.random((4, 200)) < 0.4).astype(np.float32)
    energy = (hard * hard).sum(1)
    iou = soft_iou(hard @ hard.T, energy, energy)
    for one in range(4):
        for two in range(4):
            a, b = hard[one] > 0, hard[two] > 0
            assert iou[one, two] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    blurred = floats([0.5] * 8, [0.1] * 8)
    energy = (blurred * blurred).sum(1)
    assert np.diag(soft_iou(blurred @ blurred.T, energy, energy)) == pytest.approx([1, 1], abs=1e-6)
    nothing = np.zeros((1, 8), np.float32)
    assert soft_iou(nothing @ nothing.T, nothing.sum(1), nothing.sum(1)) == 0


@pytest.mark.parametrize(("num", "other", "width"), [(3, 4, 5), (30, 30, 4500), (0, 4, 900), (30, 64, 900)])
def test_inner_products_do_not_depend_on_how_they_are_cut(num: int, other: int, width: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.random((2, num, width), np.float32)
    b = rng.random((2, other, width), np.float32)
    expected = np.einsum("knp,kmp->knm", a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(inner_products(a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(inner_products(a[0], b[0]), expected[0], rtol=1e-5)


def test_a_slot_that_is_used_again_and_a_ring_place_begin_without_votes() -> None:
    table = TrackTable(max_tracks=2, num_frames=3, num_classes=1, embedding_memory=1)
    table.allocate(cells=(2, 2), num_halved=1, embedding_width=None)
    first, second = table.add(), table.add()
    table.sums.logits[:], table.prob_sum[:], table.weight[:] = np.inf, 1, 1
    table.clear_frames(np.array([2]))
    assert not table.sums.logits[:, 2].any()
    assert not table.prob_sum[:, 2].any()
    assert table.prob_sum[:, :2].all()
    table.remove(first)
    again = table.add()
    assert again.slot == first.slot
    assert not table.sums.logits[again.slot].any()
    assert not table.prob_sum[again.slot].any()
    assert table.weight[second.slot].tolist() == [1, 1, 0]


def test_a_track_is_expected_where_its_way_leads() -> None:
    table = TrackTable(max_tracks=3, num_frames=3, num_classes=1, embedding_memory=1)
    table.allocate(cells=(2, 2), num_halved=1, embedding_width=None)
    walks, stands = table.add(), table.add()
    for number, x in enumerate((0.0, 4.0, 6.0)):
        for track in (walks, stands):
            track.num_windows += 1
            track.last_seconds = 0.1 * number
        boxes = floats([x, 0, x + 10, 20], [50, 0, 60, 20])
        table.move([walks, stands], boxes, floats(*[0.1 if number else np.inf] * 2))
    # 40 pixels a second count half, then with 20 half again: 20, 20.
    assert table.velocity[:2].tolist() == pytest.approx(floats([20, 0], [0, 0]))
    ahead = table.predicted_boxes(0.7)
    assert ahead.tolist() == pytest.approx(floats([16, 0, 26, 20], [50, 0, 60, 20]), abs=1e-4)
    # Seen again in the same frame: no time, no step.
    walks.num_windows += 1
    table.move([walks], floats([8, 0, 18, 20]), floats(0.0))
    assert table.velocity[0].tolist() == [20, 0]
    # Another track in the same slot begins at rest.
    table.remove(walks)
    again = table.add()
    again.num_windows = 1
    table.move([again], floats([80, 0, 90, 20]), floats(np.inf))
    assert table.velocity[again.slot].tolist() == [0, 0]


def test_sigmoid_is_exact_at_the_ends_and_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = sigmoid(floats(-1000, -90, 0, 3, 90, 1000))
    assert values == pytest.approx([0, 0, 0.5, 1 / (1 + np.exp(-3)), 1, 1], abs=1e-6)
    assert values.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1), (1, 8), (3, 1)])
def test_halving_takes_means_of_two_by_two_cells(height: int, width: int) -> None:
    logits = np.random.default_rng(1).standard_normal((2, 3, height, width)).astype(np.float32)
    padded = np.pad(logits, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    expected = padded.reshape(2, 3, padded.shape[2] // 2, 2, padded.shape[3] // 2, 2).mean((3, 5))
    np.testing.assert_allclose(halve(logits), expected.reshape(2, 3, -1), atol=1e-6)
    assert halve(logits[:0]).shape == (0, 3, expected[0, 0].size)


def test_a_mask_of_two_cells_is_the_same_one_in_the_next_window() -> None:
    """Someone far away: two cells inside, wherever they lie; those outside differ a little each time."""
    rng = np.random.default_rng(3)
    for top, left in [(4, 6), (5, 6), (4, 7), (5, 7)]:
        windows = []
        for _ in range(2):
            logits = rng.normal(-5, 1.5, (1, 1, 16, 24)).astype(np.float32)
            logits[0, 0, top : top + 2, left] = rng.uniform(0.5, 2.0, 2)
            windows.append(halve(sigmoid(logits))[0, 0])
        here, there = windows
        elsewhere = np.roll(here.reshape(8, 12), 2, axis=1).ravel()
        overlaps = [
            float(
                soft_iou(inner_products(here[None], other[None]), here[None] @ here, other[None] @ other)[
                    0, 0
                ]
            )
            for other in (there, elsewhere)
        ]
        assert overlaps[0] > 0.6
        assert overlaps[1] < 0.2


def test_suppression_keeps_the_stronger_of_two_and_what_only_a_suppressed_one_covers() -> None:
    overlap = floats([1, 0.7, 0.1], [0.7, 1, 0.7], [0.1, 0.7, 1])
    everyone = np.ones(3, np.bool_)
    assert suppress(overlap, everyone, 0.6).tolist() == [0, 2]
    assert suppress(overlap, everyone, 0.71).tolist() == [0, 1, 2]
    assert suppress(overlap, np.array([False, True, True]), 0.6).tolist() == [1]


def test_unit_length_leaves_zero_alone() -> None:
    np.testing.assert_allclose(unit_length(floats([3, 4], [0, 0])), [[0.6, 0.8], [0, 0]], atol=1e-6)


def test_cell_boxes_are_tight_and_nan_without_cells() -> None:
    logits = np.full((2, 4, 6), -1, np.float32)
    logits[0, 1, 2], logits[0, 2, 4] = 1, 1
    boxes = cell_boxes(logits)
    assert boxes[0].tolist() == [2, 1, 5, 3]
    assert np.isnan(boxes[1]).all()


@pytest.mark.parametrize("seed", range(20))
def test_hungarian_is_the_best_sum_of_all_and_never_takes_what_is_not_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.random((4, 5)).astype(np.float32)
    allowed = rng.random((4, 5)) < 0.5
    pairs = assign(similarity, allowed, method="hungarian")
    assert all(allowed[pair] for pair in pairs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    value = np.where(allowed, similarity, 0)
    best = max(
        sum(value[row, column] for row, column in enumerate(each)) for each in permutations(range(5), 4)
    )
    assert sum(value[pair] for pair in pairs) == pytest.approx(best, abs=1e-6)


def test_greedy_takes_the_best_pair_first_where_hungarian_takes_the_best_sum() -> None:
    similarity = floats([0.9, 0.8], [0.85, 0.1])
    allowed = np.ones((2, 2), np.bool_)
    assert assign(similarity, allowed, method="greedy") == [(0, 0), (1, 1)]
    assert assign(similarity, allowed, method="hungarian") == [(0, 1), (1, 0)]
    allowed[1, 1] = False
    assert assign(similarity, allowed, method="greedy") == [(0, 0)]
    for method in ("greedy", "hungarian"):
        assert assign(similarity, np.zeros((2, 2), np.bool_), method=method) == []  # type: ignore[arg-type]
        assert assign(similarity[:0], allowed[:0], method=method) == []  # type: ignore[arg-type]


def window_of(oracle: Oracle, last: int, *, num_frames: int = 5) -> Window:
    windower = Windower(num_frames=num_frames, stride=1)
    windows = [windower.push(oracle.scene.frame(index)) for index in range(last + 1)]
    window = windows[-1]
    assert window is not None
    return window


def test_candidates_are_the_best_scores_without_duplicates_and_without_what_is_no_class() -> None:
    movers = [
        Mover(lambda number, each=each: (0.1 + 0.2 * each, 0.5), radii=(0.07, 0.2)) for each in range(5)
    ]
    oracle = Oracle(script(movers, 6), Corruption(duplicates=1, noise=2), seed=5)
    window = window_of(oracle, 5)
    prediction = oracle.predict(window)
    config = AssociationConfig()
    candidates = select_candidates(window, prediction, config, sorted(CLASSES))
    assert sorted(candidates.best[:5].tolist(), reverse=True) == candidates.best[:5].tolist()
    assert candidates.best[:5] == pytest.approx([0.9] * 5)
    assert len(candidates) <= 7
    assert (candidates.best[5:] < 0.5).all()
    assert candidates.scores.shape[1] == len(CLASSES)
    few = select_candidates(window, prediction, replace_config(config, max_candidates=3), sorted(CLASSES))
    assert len(few) == 3
    strict = select_candidates(window, prediction, replace_config(config, min_score=0.95), sorted(CLASSES))
    assert len(strict) == 0
    # Garbage in the padding and in repeated frames is cut away: 23 of 24 rows are picture.
    assert candidates.logits.shape[1:] == (5, 23 * 40)
    start = window_of(oracle, 1)
    assert select_candidates(start, oracle.predict(start), config, sorted(CLASSES)).logits.shape[1] == 2


def test_boxes_overlap_by_the_mean_of_their_ious() -> None:
    still = floats([0, 0, 10, 10], [0, 0, 10, 10])
    moving = floats([0, 5, 10, 15], [20, 20, 30, 30])  # 50 of 150 shared, then nothing
    nothing = floats([5, 5, 5, 9], [0, 0, 0, 0])
    overlap = box_overlap(np.stack((still, moving, nothing)))
    expected = [[1, 1 / 6, 0], [1 / 6, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(overlap, expected, atol=1e-6)
    assert box_overlap(np.zeros((0, 3, 4), np.float32)).shape == (0, 0)


@pytest.mark.parametrize(("beside", "kept"), [(0.0, 1), (2.0, 2)])
def test_two_who_share_a_mask_stay_two_where_their_boxes_are_apart(beside: float, kept: int) -> None:
    """People who touch: one network gives both the mask of the pair."""
    oracle = Oracle(script([Mover(lambda number: (0.5, 0.5))], 6))
    window = window_of(oracle, 5)
    one = oracle.predict(window)
    boxes = np.concatenate((one.boxes_xyxy, one.boxes_xyxy))
    width = boxes[0, 0, 2] - boxes[0, 0, 0]
    boxes[1, :, 0::2] += beside * width
    assert one.embeddings is not None
    both = replace(
        one,
        scores=np.concatenate((one.scores, one.scores * np.float32(0.9))),
        boxes_xyxy=boxes,
        mask_logits=np.concatenate((one.mask_logits, one.mask_logits)),
        embeddings=np.concatenate((one.embeddings, one.embeddings)),
    )
    config = AssociationConfig(nms_iou=0.6)
    assert len(select_candidates(window, both, config, sorted(CLASSES))) == kept


@pytest.mark.parametrize("field", ["boxes_xyxy", "mask_logits", "embeddings"])
def test_what_is_not_finite_is_no_candidate_and_takes_nobody_with_it(field: str) -> None:
    oracle = Oracle(script([Mover(lambda _: (0.25, 0.5)), Mover(lambda _: (0.75, 0.5), output=2)], 6))
    window = window_of(oracle, 5)
    prediction = oracle.predict(window)
    first = int(prediction.scores.max(axis=1).argmax())
    scores = prediction.scores.copy()
    scores[first] += np.float32(0.05)  # it is compared with the others first
    values = getattr(prediction, field).copy()
    values[first, window.first if values.ndim > 2 else 0] = np.nan
    whole = replace(prediction, scores=scores)
    outputs = sorted(CLASSES)
    both = select_candidates(window, whole, AssociationConfig(), outputs)
    left = select_candidates(window, replace(whole, **{field: values}), AssociationConfig(), outputs)
    assert len(both) == 2
    assert left.labels.tolist() == both.labels[1:].tolist()


def test_masks_are_compared_by_the_mean_of_their_probabilities() -> None:
    oracle = Oracle(script([Mover(lambda number: (0.5, 0.5))], 3))
    window = window_of(oracle, 2)
    candidates = select_candidates(window, oracle.predict(window), AssociationConfig(), sorted(CLASSES))
    wanted = halve(sigmoid(candidates.logits.reshape(*candidates.logits.shape[:2], 23, 40)))
    np.testing.assert_allclose(candidates.probs, wanted, atol=1e-6)
    assert candidates.energy[0, 0] == pytest.approx((wanted[0, 0] ** 2).sum(), rel=1e-5)


def replace_config(config: AssociationConfig, **change: Any) -> AssociationConfig:
    return config.model_copy(update=change)


def test_quality_is_the_mean_probability_inside() -> None:
    oracle = Oracle(script([Mover(lambda number: (0.5, 0.5))], 3))
    window = window_of(oracle, 2)
    prediction = oracle.predict(window)
    candidates = select_candidates(window, prediction, AssociationConfig(), sorted(CLASSES))
    logits = prediction.mask_logits[0, 2:, :23].astype(np.float64)
    assert candidates.quality(0) == pytest.approx((1 / (1 + np.exp(-logits[logits > 0]))).mean(), abs=1e-5)


class Jumping(Oracle):
    """From frame `at` on, a window no longer shows the object in the frames before."""

    at = 10

    def predict(self, window: Window) -> Any:
        prediction = super().predict(window)
        newest = window.real[-1].index
        if newest >= self.at:
            for position in range(window.first, window.last + 1):
                if window.frames[position].index < self.at:
                    prediction.mask_logits[:, position] = -8
        return prediction


@pytest.mark.parametrize(
    ("embeddings", "step", "max_speed", "same"),
    [
        (True, 0.05, 1.0, True),
        (True, 0.5, 1.0, False),
        (True, 0.5, 10.0, True),
        (False, 0.05, 1.0, True),
        (False, 0.5, 10.0, False),
    ],
    ids=["near", "out_of_reach", "fast_enough", "near_by_mask_only", "no_evidence"],
)
def test_without_overlap_area_a_like_appearance_within_reach_continues_a_track(
    embeddings: bool, step: float, max_speed: float, same: bool
) -> None:
    """The object jumps by `step` of the width between two frames, and its masks share no area any more."""
    scene = script([Mover(lambda number: (0.2 + (step if number >= 10 else 0.0), 0.5))], 20)
    associator = Associator(
        AssociationConfig(max_speed=max_speed), emission="first", classes=CLASSES, num_frames=5
    )
    results = run(Jumping(scene, embeddings=embeddings), associator, num_frames=5)
    ids = {row.track_id for result in results for row in result.instances if row.mask is not None}
    assert ids == ({1} if same else {1, 2})


def test_the_class_is_no_hard_gate() -> None:
    scene = script([Mover(lambda number: (0.3 + 0.01 * number, 0.5), output=1)], 20)

    class Renamed(Oracle):
        def predict(self, window: Window) -> Any:
            prediction = super().predict(window)
            if window.real[-1].index < 10:
                return prediction
            scores = prediction.scores.copy()
            scores[:, [1, 4]] = scores[:, [4, 1]]
            return replace(prediction, scores=scores)

    associator = Associator(AssociationConfig(), emission="first", classes=CLASSES, num_frames=5)
    results = run(Renamed(scene), associator, num_frames=5)
    assert {row.track_id for result in results for row in result.instances} == {1}
