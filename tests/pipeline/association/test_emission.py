"""What is published of a frame, and when: revisions, finals, fusion, held frames, rows without a mask."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.truth import CLASSES, Corruption, Mover, Oracle, Scene, run, script

from ops.masks import crop_masks
from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig
from pipeline.inference.window import Windower
from pipeline.types import FrameResult, Window, WindowPrediction

T = 5
EMISSIONS = ("first", "final", "both")


def make(emission: Any, *, num_frames: int = T, stride: int = 1, **config: Any) -> Associator:
    return Associator(
        AssociationConfig(**config), emission=emission, classes=CLASSES, num_frames=num_frames, stride=stride
    )


def one_mover(num_frames: int = 23) -> Scene:
    return script([Mover(lambda number: (0.2 + 0.02 * number, 0.4))], num_frames)


def account(results: list[FrameResult]) -> list[tuple[int, int, bool]]:
    return [(result.frame.index, result.revision, result.final) for result in results]


@pytest.mark.parametrize("known_stride", [True, False])
@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize(("num_frames", "stride"), [(1, 1), (3, 2), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5)])
@pytest.mark.parametrize("length", [1, 2, 23])
def test_each_frame_is_published_once_and_finalised_once(
    length: int, num_frames: int, stride: int, emission: str, known_stride: bool
) -> None:
    associator = make(emission, num_frames=num_frames, stride=stride if known_stride else 1)
    results = run(Oracle(one_mover(length)), associator, num_frames=num_frames, stride=stride)
    rows = account(results)
    if emission == "both":
        assert [row for row in rows if row[1] == 0] == [(index, 0, False) for index in range(length)]
        assert [row for row in rows if row[1] != 0] == [(index, 1, True) for index in range(length)]
        for index in range(length):
            assert rows.index((index, 0, False)) < rows.index((index, 1, True))
    else:
        assert rows == [(index, 0, True) for index in range(length)]
    assert associator.flush() == []


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_frame_is_final_as_soon_as_no_later_window_can_hold_it(emission: str, stride: int) -> None:
    scene = one_mover(25)
    associator, oracle = make(emission, stride=stride), Oracle(scene)
    windower = Windower(num_frames=T, stride=stride)
    for index in range(25):
        window = windower.push(scene.frame(index))
        if window is None:
            continue
        results = associator.update(window, oracle.predict(window))
        new = [frame.index for frame in window.new]
        # The next window ends with frame index + stride and begins T − 1 before that.
        due = list(range(max(index - T + 1, 0), index - T + stride + 1))
        finals = [result.frame.index for result in results if result.final]
        if emission == "first":
            assert finals == new
        else:
            assert finals == due
        if emission == "both":
            assert [result.frame.index for result in results if not result.final] == new
        order = [(result.frame.index, result.revision) for result in results]
        assert order == sorted(order)
        assert {result.window for result in results} <= {(window.real[0].index, index)}


@pytest.mark.parametrize("emission", ["final", "both"])
def test_pending_finals_are_flushed_at_a_gap_and_no_frame_comes_again(emission: str) -> None:
    scene = one_mover(20)
    associator, oracle = make(emission), Oracle(scene)
    before = run(oracle, associator, num_frames=T, frames=range(10), flush=False)
    at_gap = associator.gap()
    assert [result.frame.index for result in at_gap] == [6, 7, 8, 9]
    assert all(result.final for result in at_gap)
    # Finals of the frames before the gap still show their tracks, alive.
    assert {(row.track_id, row.state) for result in at_gap for row in result.instances} == {(1, "confirmed")}
    after = run(oracle, associator, num_frames=T, frames=range(10, 20))
    finals = Counter(result.frame.index for result in before + at_gap + after if result.final)
    assert finals == Counter(range(20))


def record(
    oracle: Oracle, associator: Associator, *, stride: int = 1
) -> tuple[list[tuple[Window, WindowPrediction]], list[FrameResult]]:
    windower = Windower(num_frames=T, stride=stride)
    seen, results = [], []
    for index in range(len(oracle.scene)):
        window = windower.push(oracle.scene.frame(index))
        if window is not None:
            prediction = oracle.predict(window)
            seen.append((window, prediction))
            results += associator.update(window, prediction)
    return seen, results + associator.flush()


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_masks_are_the_mean_logits_of_the_windows_that_saw_the_frame(stride: int) -> None:
    scene = one_mover(20)
    oracle = Oracle(scene, Corruption(jitter=1), seed=3)
    seen, results = record(oracle, make("both"), stride=stride)
    rows = -(-oracle.fit.content_height // oracle.stride)
    fit = replace(oracle.fit, height=rows * oracle.stride)
    whole = np.array([[0, 0, scene.width, scene.height]], np.float32)
    changed = 0
    for result in results:
        index = result.frame.index
        votes = [
            prediction.mask_logits[0, position, :rows]
            for window, prediction in seen
            for position in range(window.first, window.last + 1)
            if window.frames[position].index == index
        ]
        used = votes if result.final else votes[:1]
        assert len(votes) == len([1 for window, _ in seen if index in {frame.index for frame in window.real}])
        expected = crop_masks(np.mean(used, axis=0)[None], whole, fit=fit, stride=oracle.stride)[0]
        (row,) = result.instances
        assert row.mask == expected
        assert row.box_xyxy == expected.box_xyxy
        assert all(isinstance(value, int) for value in row.box_xyxy)
        changed += result.final and expected != crop_masks(votes[0][None], whole, fit=fit, stride=4)[0]
    assert changed > 5 or stride == 5


def test_nothing_is_read_from_padding_or_repeated_frames() -> None:
    """The oracle fills both with logits of +9 (a mask of the whole picture)."""
    scene = one_mover(8)
    for result in run(Oracle(scene), make("both"), num_frames=T):
        truth = scene.masks[result.frame.index][0]
        (row,) = result.instances
        assert row.mask is not None
        mask = row.mask.decode(scene.height, scene.width)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.85


@pytest.mark.parametrize("seed", range(3))
def test_a_confirmed_id_never_changes_between_revisions(seed: int) -> None:
    scene = script(
        [
            Mover(lambda number: (0.1 + 0.02 * number, 0.35), output=1),
            Mover(lambda number: (0.9 - 0.02 * number, 0.55), output=2),
            Mover(lambda number: (0.5, -0.1 + 0.03 * number), output=3),
        ],
        40,
    )
    oracle = Oracle(scene, Corruption(jitter=1, miss=0.1, drop_score=0.1, duplicates=1, noise=3), seed=seed)
    results = run(oracle, make("both", lost_seconds=0.0), num_frames=T)
    finals = {result.frame.index: result for result in results if result.final}
    compared = 0
    for result in results:
        if result.final:
            continue
        later = {row.track_id: row for row in finals[result.frame.index].instances}
        for row in result.instances:
            if row.state != "confirmed" or row.mask is None:
                continue
            # It may have faded in the mean, but nobody else has taken its id or place.
            if row.track_id in later and later[row.track_id].mask is not None:
                assert later[row.track_id].state == "confirmed"
                one, two = row.dense_mask(180, 320), later[row.track_id].dense_mask(180, 320)
                assert (one & two).any()
                compared += 1
    assert compared > 80


def test_a_lost_row_stays_in_the_final_unless_a_later_window_saw_the_track_there() -> None:
    scene = one_mover(20)
    missed = Oracle(scene, hide=lambda name, newest: newest == 10)
    rows = {
        (result.frame.index, result.revision): [row.state for row in result.instances]
        for result in run(missed, make("both"), num_frames=T)
    }
    assert rows[10, 0] == ["lost"]
    assert rows[10, 1] == ["confirmed"]
    gone = Oracle(scene, hide=lambda name, newest: newest >= 10)
    results = run(gone, make("both", lost_seconds=0.1), num_frames=T)
    rows = {
        (result.frame.index, result.revision): [(row.state, row.mask is None) for row in result.instances]
        for result in results
    }
    assert rows[10, 0] == rows[10, 1] == [("lost", True)]
    # Final rows of frames that it was seen in stay, although it is lost by then, and it ends after them.
    assert rows[9, 1] == [("confirmed", False)]
    ended = [
        result.frame.index for result in results if any(row.state == "ended" for row in result.instances)
    ]
    assert ended == [14, 14]


def test_finals_leave_out_tracks_that_proved_to_be_nothing() -> None:
    scene = one_mover(20)
    once = Oracle(scene, score=0.7, hide=lambda name, newest: newest != 8)
    rows = [
        (result.frame.index, result.revision, row.state)
        for result in run(once, make("both"), num_frames=T)
        for row in result.instances
    ]
    # Frame 4 fell due in the very window that saw it; 5 to 8 were still open when the next one did not.
    assert rows == [(4, 1, "tentative"), (8, 0, "tentative"), (9, 0, "ended"), (9, 1, "ended")]


@pytest.mark.parametrize("emission", EMISSIONS)
def test_held_frames_show_the_newest_masks_and_nothing_else(emission: str) -> None:
    scene = one_mover(30)
    associator = make(emission)
    oracle = Oracle(scene, hide=lambda name, newest: newest >= 12)
    early = associator.hold(scene.frame(0))
    assert (early.instances, early.held, early.window) == ((), True, (0, 0))
    results = run(oracle, associator, num_frames=T, frames=range(10), flush=False)
    held = associator.hold(scene.frame(10))
    assert (held.held, held.revision, held.final, held.window) == (True, 0, True, (5, 9))
    assert held.frame.index == 10
    assert [(row.track_id, row.state) for row in held.instances] == [(1, "confirmed")]
    if emission != "final":
        newest = next(each for each in results if each.frame.index == 9 and each.revision == 0)
        assert held.instances == newest.instances
    assert associator.hold(scene.frame(10)).instances == held.instances
    windower = Windower(num_frames=T, stride=1)
    for index in range(5, 14):
        window = windower.push(scene.frame(index))
        if index >= 10 and window is not None:
            associator.update(window, oracle.predict(window))
    # The lost row was said once, in its frame, and is not held.
    assert associator.hold(scene.frame(14)).instances == ()


def test_scores_are_running_means_of_the_class_and_ids_are_sorted() -> None:
    scene = script([Mover(lambda number: (0.2, 0.5)), Mover(lambda number: (0.7, 0.5), output=2)], 6)

    class Ramp(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            self.score = 0.5 + 0.05 * window.real[-1].index
            return super().predict(window)

    results = run(Ramp(scene), make("first"), num_frames=T)
    for number, result in enumerate(results):
        assert [row.track_id for row in result.instances] == [1, 2]
        expected = np.mean([0.5 + 0.05 * each for each in range(number + 1)])
        assert [row.score for row in result.instances] == pytest.approx([expected] * 2, abs=1e-6)
    forgetful = run(Ramp(scene), make("first", class_memory=1), num_frames=T)
    assert [result.instances[0].score for result in forgetful] == pytest.approx(
        [0.5 + 0.05 * number for number in range(6)], abs=1e-6
    )
