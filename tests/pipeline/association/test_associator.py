"""The life of tracks: what keeps an id, what must not get one, what ends one. Scenes with known masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from support.truth import CLASSES, Corruption, Mover, Oracle, Path, Scene, count_switches, ids_of, run, script

from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig
from pipeline.inference.window import Windower
from pipeline.types import FrameResult

T = 5
HEAVY = Corruption(
    jitter=1,
    shrink=2.0,
    miss=0.08,
    drop_score=0.1,
    duplicates=1,
    noise=4,
    class_flicker=0.2,
    embedding_noise=0.5,
)


def make(emission: Any = "first", *, num_frames: int = T, stride: int = 1, **config: Any) -> Associator:
    return Associator(
        AssociationConfig(**{"birth_score": 0.5, "gate_embedding": 0.6, **config}),
        emission=emission,
        classes=CLASSES,
        num_frames=num_frames,
        stride=stride,
    )


def line(start: tuple[float, float], step: tuple[float, float], frames: range | None = None) -> Path:
    def path(number: int) -> tuple[float, float] | None:
        if frames is not None and number not in frames:
            return None
        return start[0] + step[0] * number, start[1] + step[1] * number

    return path


def states(results: list[FrameResult], track_id: int) -> list[tuple[int, str]]:
    """Return (frame, state) of a track's rows where the state differs from the row before."""
    rows = [
        (result.frame.index, row.state)
        for result in results
        for row in result.instances
        if row.track_id == track_id
    ]
    return [row for place, row in enumerate(rows) if place == 0 or rows[place - 1][1] != row[1]]


def all_ids(results: list[FrameResult]) -> set[int]:
    return {row.track_id for result in results for row in result.instances}


def crossing() -> Scene:
    """Two objects cross; the front one hides the other wholly for a few frames."""
    return script(
        [
            Mover(line((0.1, 0.5), (0.02, 0.0)), radii=(0.05, 0.12), output=1),
            Mover(line((0.9, 0.5), (-0.02, 0.0)), radii=(0.08, 0.2), output=2),
        ],
        41,
    )


def crowd(num_frames: int = 50) -> Scene:
    """Five objects on curves that touch, enter and leave."""

    def curve(phase: float, speed: float) -> Path:
        return lambda number: (
            0.5 + 0.38 * math.sin(phase + speed * number),
            0.5 + 0.33 * math.cos(1.7 * phase + 0.7 * speed * number),
        )

    movers = [Mover(curve(1.3 * each, 0.05), radii=(0.08, 0.14), output=1 + each % 4) for each in range(4)]
    return script([*movers, Mover(line((-0.2, 0.15), (0.03, 0.01)), output=3)], num_frames)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_moving_objects_keep_their_ids_at_every_stride(stride: int) -> None:
    scene = script([Mover(line((0.2, 0.3), (0.008, 0))), Mover(line((0.8, 0.7), (-0.008, 0)), output=2)], 43)
    results = run(Oracle(scene), make(stride=stride), num_frames=T, stride=stride)
    assert [result.frame.index for result in results] == list(range(43))
    ids = ids_of(results, scene)
    assert {name: (len(each), len(set(each))) for name, each in ids.items()} == {0: (43, 1), 1: (43, 1)}
    assert all_ids(results) == {1, 2}


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("num_frames", [1, 5])
def test_windows_that_share_no_frame_keep_slow_objects(num_frames: int, embeddings: bool) -> None:
    scene = script([Mover(line((0.2, 0.3), (0.008, 0))), Mover(line((0.8, 0.7), (-0.008, 0)))], 40)
    associator = make(num_frames=num_frames, stride=num_frames)
    results = run(Oracle(scene, embeddings=embeddings), associator, num_frames=num_frames, stride=num_frames)
    assert count_switches(ids_of(results, scene)) == 0
    assert all_ids(results) == {1, 2}


@pytest.mark.parametrize("embeddings", [True, False])
def test_one_frame_windows_survive_a_miss(embeddings: bool) -> None:
    scene = script([Mover(line((0.3, 0.5), (0.005, 0)))], 20)
    oracle = Oracle(scene, embeddings=embeddings, hide=lambda name, newest: newest == 10)
    results = run(oracle, make(num_frames=1), num_frames=1)
    assert states(results, 1) == [(0, "confirmed"), (10, "lost"), (11, "confirmed")]
    assert all_ids(results) == {1}


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("matching", ["hungarian", "greedy"])
def test_crossing_objects_do_not_swap(matching: str, embeddings: bool) -> None:
    scene = crossing()
    hidden = [number for number in range(41) if 0 not in scene.masks[number]]
    assert hidden
    results = run(Oracle(scene, embeddings=embeddings), make(matching=matching), num_frames=T)
    ids = ids_of(results, scene)
    assert len(ids[0]) >= 41 - len(hidden) - 4
    assert [set(ids[0]) & set(ids[1]), len(set(ids[0])), len(set(ids[1]))] == [set(), 1, 1]


def test_an_object_hidden_for_longer_than_a_window_comes_back_by_its_appearance() -> None:
    path: Path = lambda number: None if 12 <= number < 24 else (0.2 + 0.01 * number, 0.5)  # noqa: E731
    scene = script([Mover(path), Mover(line((0.5, 0.15), (0, 0)), output=2)], 36)
    results = run(Oracle(scene), make(lost_seconds=2.0), num_frames=T)
    mine = ids_of(results, scene)[0]
    assert len(set(mine)) == 1
    track = mine[0]
    # The last windows that still hold frame 11 keep it; the first one without it says lost.
    assert states(results, track) == [(0, "confirmed"), (16, "lost"), (24, "confirmed")]
    assert not any(
        row.mask is not None
        for result in results
        if 12 <= result.frame.index < 24
        for row in result.instances
        if row.track_id == track
    )


def test_another_appearance_in_the_same_place_is_another_object() -> None:
    scene = script(
        [
            Mover(line((0.5, 0.5), (0, 0), range(12))),
            Mover(line((0.5, 0.5), (0, 0), range(24, 36))),
        ],
        36,
    )
    ids = ids_of(run(Oracle(scene), make(), num_frames=T), scene)
    assert len(set(ids[0])) == len(set(ids[1])) == 1
    assert not set(ids[0]) & set(ids[1])


def test_a_lost_track_ends_after_lost_seconds_of_stream_time_and_its_id_stays_unused() -> None:
    path: Path = lambda number: None if 10 <= number < 40 else (0.5, 0.5)  # noqa: E731
    scene = script([Mover(path), Mover(line((0.15, 0.15), (0, 0)), output=2)], 50)
    results = run(Oracle(scene), make(lost_seconds=1.5), num_frames=T)
    first, second = dict.fromkeys(ids_of(results, scene)[0])
    # Last seen in frame 9 = 0.9 s; 2.4 s is not later than 1.5 s after that, 2.5 s is.
    assert states(results, first) == [(0, "confirmed"), (14, "lost"), (25, "ended")]
    assert second == 3
    lost_rows = [
        row
        for result in results
        for row in result.instances
        if row.track_id == first and row.state in ("lost", "ended")
    ]
    assert [(row.state, row.mask, row.box_xyxy) for row in lost_rows] == [
        ("lost", None, (0, 0, 0, 0)),
        ("ended", None, (0, 0, 0, 0)),
    ]


def test_entering_and_leaving_objects_get_one_id_each() -> None:
    scene = script(
        [
            Mover(line((-0.15, 0.3), (0.04, 0)), output=1),
            Mover(line((1.15, 0.75), (-0.04, 0)), output=2),
            Mover(line((0.5, -0.5), (0, 0.04)), radii=(0.05, 0.1), output=3),
        ],
        40,
    )
    results = run(Oracle(scene), make(), num_frames=T)
    ids = ids_of(results, scene, least_iou=0.3)
    assert count_switches(ids) == 0
    assert all(len(set(each)) == 1 for each in ids.values())


def test_duplicates_of_an_object_make_one_track() -> None:
    scene = crowd()
    results = run(Oracle(scene, Corruption(duplicates=3)), make(), num_frames=T)
    assert len(all_ids(results)) == len(scene.outputs)
    for result in results:
        shown = [row for row in result.instances if row.mask is not None]
        assert len(shown) <= len(scene.masks[result.frame.index])


def test_partial_duplicates_are_not_born_beside_the_track() -> None:
    """Two candidates that overlap by less than the NMS threshold, but by more than a birth may."""
    scene = script(
        [
            Mover(line((0.5, 0.5), (0, 0)), radii=(0.15, 0.3)),
            Mover(line((0.58, 0.5), (0, 0)), radii=(0.15, 0.3)),
        ],
        10,
    )
    for masks in scene.masks:
        masks[0] = masks[0] | (np.roll(masks[1], -26, axis=1) & ~masks[0])
    results = run(Oracle(scene, embeddings=False), make(nms_iou=1.0, birth_max_iou=0.01), num_frames=T)
    # Full sight of both: each overlaps the other by a third.
    assert len(all_ids(results)) == 1


@pytest.mark.parametrize(("jump", "same"), [(0.0, True), (0.2, False)])
def test_without_embeddings_who_is_missed_comes_back_where_its_way_leads(jump: float, same: bool) -> None:
    """Half a second unseen and 1.7 times its width on: no overlap with the last mask is left."""

    def way(number: int) -> tuple[float, float]:
        return 0.1 + 0.03 * number, 0.5 + (jump if number >= 10 else 0.0)

    scene = script([Mover(way, radii=(0.045, 0.16))], 24)
    oracle = Oracle(scene, embeddings=False, hide=lambda name, newest: 9 <= newest < 14)
    results = run(oracle, make(num_frames=3), num_frames=3)
    assert (len(all_ids(results)) == 1) == same


@pytest.mark.parametrize(
    "corruption",
    [
        Corruption(jitter=1),
        Corruption(shrink=4.0),
        Corruption(drop_score=0.3),
        Corruption(miss=0.1),
        Corruption(embedding_noise=1.0),
        Corruption(class_flicker=0.3),
        HEAVY,
    ],
    ids=["jitter", "shrink", "drop_score", "miss", "embedding_noise", "class_flicker", "all"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_corrupted_predictions_do_not_change_ids(corruption: Corruption, seed: int) -> None:
    scene = crowd()
    results = run(Oracle(scene, corruption, seed=seed), make(), num_frames=T)
    # The last object is wholly in from frame 10 on; as a sliver of a cell, jitter may give it two ids.
    ids = ids_of([result for result in results if result.frame.index >= 10], scene, least_iou=0.3)
    assert count_switches(ids) == 0
    assert len(all_ids(results)) <= len(scene.outputs) + 1
    assert sum(map(len, ids.values())) >= 0.75 * sum(map(len, scene.masks[10:]))


def test_a_miss_makes_a_confirmed_track_lost_and_the_next_window_brings_it_back() -> None:
    scene = script([Mover(line((0.3, 0.5), (0.01, 0)))], 20)
    for embeddings in (True, False):
        oracle = Oracle(scene, embeddings=embeddings, hide=lambda name, newest: newest == 10)
        results = run(oracle, make(), num_frames=T)
        assert states(results, 1) == [(0, "confirmed"), (10, "lost"), (11, "confirmed")]
        assert all_ids(results) == {1}


def test_a_weak_candidate_keeps_a_confirmed_track_alive() -> None:
    scene = script([Mover(line((0.3, 0.5), (0.01, 0)))], 20)

    class Weak(Oracle):
        def predict(self, window: Any) -> Any:
            prediction = super().predict(window)
            if window.real[-1].index < 10:
                return prediction
            return replace(prediction, scores=prediction.scores * np.float32(0.25))

    results = run(Weak(scene), make(), num_frames=T)
    assert states(results, 1) == [(0, "confirmed")]
    assert len(ids_of(results, scene)[0]) == 20


@pytest.mark.parametrize("score", [0.05, 0.49])
def test_candidates_below_the_birth_score_start_no_track(score: float) -> None:
    scene = crowd(20)
    associator = make()
    results = run(Oracle(scene, score=score), associator, num_frames=T)
    assert all_ids(results) == set()
    assert associator.num_tracks == 0


def test_noise_starts_no_track_and_breaks_none() -> None:
    scene = crowd(30)
    results = run(Oracle(scene, Corruption(noise=15)), make(), num_frames=T)
    assert len(all_ids(results)) == len(scene.outputs)
    assert count_switches(ids_of(results, scene)) == 0


def test_a_track_is_tentative_until_two_windows_saw_it_and_removed_on_its_first_miss() -> None:
    scene = script([Mover(line((0.3, 0.5), (0.01, 0)))], 12)
    slow = run(Oracle(scene, score=0.7), make(), num_frames=T)
    assert states(slow, 1) == [(0, "tentative"), (1, "confirmed")]
    third = run(Oracle(scene, score=0.7), make(confirm_windows=3), num_frames=T)
    assert states(third, 1) == [(0, "tentative"), (2, "confirmed")]

    once = Oracle(scene, score=0.7, hide=lambda name, newest: newest != 4)
    associator = make()
    results = run(once, associator, num_frames=T)
    assert states(results, 1) == [(4, "tentative"), (5, "ended")]
    assert associator.num_tracks == 0


def test_tentative_tracks_can_be_kept_to_oneself() -> None:
    scene = script([Mover(line((0.3, 0.5), (0.01, 0)))], 12)
    results = run(Oracle(scene, score=0.7), make(show_tentative=False), num_frames=T)
    assert states(results, 1) == [(1, "confirmed")]
    once = Oracle(scene, score=0.7, hide=lambda name, newest: newest != 4)
    assert all_ids(run(once, make(show_tentative=False), num_frames=T)) == set()


def test_class_flicker_does_not_change_the_class_and_a_lasting_change_does() -> None:
    scene = script([Mover(line((0.5, 0.5), (0, 0)), output=2)], 60)
    results = run(Oracle(scene, Corruption(class_flicker=0.3), seed=4), make(), num_frames=T)
    assert {row.class_name for result in results for row in result.instances} == {"dog"}

    class Turning(Oracle):
        def predict(self, window: Any) -> Any:
            prediction = super().predict(window)
            if window.real[-1].index >= 20:
                prediction.scores[:, [2, 3]] = prediction.scores[:, [3, 2]]
            return prediction

    results = run(Turning(scene), make(), num_frames=T)
    names = [(result.instances[0].class_id, result.instances[0].class_name) for result in results]
    turn = names.index((3, "car"))
    assert 25 < turn < 60
    assert names == [(2, "dog")] * turn + [(3, "car")] * (60 - turn)
    assert all_ids(results) == {1}


@pytest.mark.parametrize(("hysteresis", "name"), [(0.1, "dog"), (0.01, "car")])
def test_another_class_must_lead_by_the_hysteresis(hysteresis: float, name: str) -> None:
    scene = script([Mover(line((0.5, 0.5), (0, 0)), output=2)], 40)

    class Close(Oracle):
        """From frame 5 on the car leads the dog by 0.05."""

        def predict(self, window: Any) -> Any:
            prediction = super().predict(window)
            if window.real[-1].index >= 5:
                prediction.scores[:, [2, 3]] = (0.6, 0.65)
            return prediction

    associator = make(class_hysteresis=hysteresis, class_memory=5)
    assert run(Close(scene), associator, num_frames=T)[-1].instances[0].class_name == name


def test_a_blurred_mask_does_not_confirm_at_once_whatever_its_score() -> None:
    scene = script([Mover(line((0.5, 0.5), (0, 0)))], 6)

    class Blurred(Oracle):
        def predict(self, window: Any) -> Any:
            prediction = super().predict(window)
            return replace(prediction, mask_logits=prediction.mask_logits * np.float32(0.05))

    # Probability 0.6 inside: 0.95 · 0.6 < 0.8.
    results = run(Blurred(scene, score=0.95), make(), num_frames=T)
    assert states(results, 1) == [(0, "tentative"), (1, "confirmed")]
    assert states(run(Oracle(scene, score=0.95), make(), num_frames=T), 1) == [(0, "confirmed")]


def test_what_shows_in_no_new_frame_is_not_born() -> None:
    """An object that the model finds only after it has left."""
    scene = script([Mover(line((0.3, 0.5), (0.01, 0), range(10)))], 20)
    late = Oracle(scene, hide=lambda name, newest: newest < 10)
    associator = make("both")
    assert all_ids(run(late, associator, num_frames=T)) == set()
    assert associator.num_tracks == 0


def test_outputs_that_are_no_class_never_win() -> None:
    """The oracle gives outputs 0 and 5 a score of 0.99 everywhere."""
    results = run(Oracle(crowd(10)), make(), num_frames=T)
    assert {row.class_id for result in results for row in result.instances} <= {1, 2, 3, 4}
    assert max(row.score for result in results for row in result.instances) == pytest.approx(0.9)


def test_gap_ends_all_tracks_and_ids_go_on() -> None:
    scene = script([Mover(line((0.3, 0.5), (0.0, 0))), Mover(line((0.7, 0.5), (0.0, 0)), output=2)], 20)
    associator = make()
    oracle = Oracle(scene)
    before = run(oracle, associator, num_frames=T, frames=range(10), flush=False)
    assert associator.gap() == []
    assert associator.num_tracks == 0
    assert associator.hold(scene.frame(10)).instances == ()
    after = run(oracle, associator, num_frames=T, frames=range(10, 20))
    assert all_ids(before) == {1, 2}
    assert {(row.track_id, row.state) for row in after[0].instances if row.mask is None} == {
        (1, "ended"),
        (2, "ended"),
    }
    assert {row.track_id for result in after for row in result.instances if row.mask is not None} == {3, 4}
    assert not {1, 2} & all_ids(after[1:])


def test_another_size_after_a_gap_is_taken_and_without_a_gap_refused() -> None:
    mover = Mover(line((0.5, 0.5), (0, 0)))
    small, large = script([mover], 20), script([mover], 20, height=240, width=320)
    associator = make()
    run(Oracle(small), associator, num_frames=T, frames=range(5))
    windower = Windower(num_frames=T, stride=1)
    window = windower.push(large.frame(5))
    assert window is not None
    prediction = Oracle(large).predict(window)
    with pytest.raises(ValueError, match=r"call gap\(\)"):
        associator.update(window, prediction)
    associator.gap()
    assert len(associator.update(window, prediction)) == 1


def test_windows_that_do_not_continue_each_other_are_refused() -> None:
    scene = crowd(20)
    oracle, associator = Oracle(scene), make()
    run(oracle, associator, num_frames=T, frames=range(5))
    windower = Windower(num_frames=T, stride=1)
    windower.push(scene.frame(11))
    window = windower.push(scene.frame(12))
    assert window is not None
    with pytest.raises(ValueError, match=r"\[11\].*call gap\(\)"):
        associator.update(window, oracle.predict(window))


def test_a_window_of_another_length_and_classes_beyond_the_outputs_are_refused() -> None:
    scene = crowd(5)
    window = Windower(num_frames=3, stride=1).push(scene.frame(0))
    assert window is not None
    with pytest.raises(ValueError, match="num_frames = 5"):
        make().update(window, Oracle(scene).predict(window))
    associator = Associator(AssociationConfig(), emission="first", classes={9: (9, "x")}, num_frames=3)
    with pytest.raises(ValueError, match="output 9"):
        associator.update(window, Oracle(scene).predict(window))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emission": "last"}, "first, final, both"),
        ({"classes": {}}, "classes is empty"),
        ({"stride": 6}, r"1\.\.5"),
        ({"stride": 0}, r"1\.\.5"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"emission": "first", "classes": CLASSES, "num_frames": T, "stride": 1}
    with pytest.raises(ValueError, match=message):
        Associator(AssociationConfig(), **(arguments | change))


def test_a_window_without_candidates_is_no_error() -> None:
    scene = script([Mover(lambda number: None)], 8)
    results = run(Oracle(scene), make("both"), num_frames=T)
    assert len(results) == 16
    assert all_ids(results) == set()


@pytest.mark.parametrize("what", ["mask_logits", "embeddings", "scores", "boxes_xyxy"])
def test_values_that_are_not_numbers_cost_one_candidate_at_most(what: str) -> None:
    scene = script([Mover(line((0.3, 0.5), (0, 0))), Mover(line((0.7, 0.5), (0, 0)))], 12)

    class Broken(Oracle):
        def predict(self, window: Any) -> Any:
            prediction = super().predict(window)
            if window.real[-1].index == 6:
                getattr(prediction, what)[0, ..., 3] = np.nan
            return prediction

    results = run(Broken(scene), make("both"), num_frames=T)
    assert all_ids(results) == {1, 2}
    assert count_switches(ids_of(results, scene)) == 0
    for result in results:
        for row in result.instances:
            assert math.isfinite(row.score)


@pytest.mark.parametrize("num_frames", [1, 5, 36])
@pytest.mark.parametrize("emission", ["first", "final", "both"])
def test_whatever_a_model_says_the_results_keep_their_rules(emission: str, num_frames: int) -> None:
    """Predictions of pure noise, as from a model that was never trained, with blurred and torn masks."""
    rng = np.random.default_rng(num_frames)
    scene = script([Mover(lambda number: None)], 120, height=90, width=160)
    oracle = Oracle(scene, input_size=(48, 96))
    stride = min(3, num_frames)
    associator = make(emission, num_frames=num_frames, stride=stride, max_tracks=8)
    windower = Windower(num_frames=num_frames, stride=stride)
    ended: set[int] = set()
    num_masks = 0

    def check(results: list[FrameResult]) -> int:
        shown = 0
        for result in results:
            ids = [row.track_id for row in result.instances]
            assert len(ids) == len(set(ids))
            for row in result.instances:
                assert 0 <= row.score <= 1
                assert (row.mask is None) == (row.state in ("lost", "ended"))
                if row.mask is not None:
                    x0, y0, x1, y1 = row.box_xyxy
                    assert 0 <= x0 < x1 <= 160
                    assert 0 <= y0 < y1 <= 90
                    shown += 1
                if result.revision == 0 and emission != "final":
                    assert row.track_id not in ended
                    if row.state == "ended":
                        ended.add(row.track_id)
        return shown

    for index in range(120):
        window = windower.push(scene.frame(index))
        if window is None:
            continue
        num = int(rng.integers(0, 40))
        coarse = rng.standard_normal((num, num_frames, 3, 6)).astype(np.float32) * rng.choice([0.1, 5.0])
        prediction = replace(
            oracle.predict(window),
            scores=rng.random((num, 6), np.float32),
            boxes_xyxy=(rng.random((num, num_frames, 4)) * 90).astype(np.float32),
            mask_logits=np.kron(coarse, np.ones((4, 4), np.float32)),
            embeddings=rng.standard_normal((num, 32)).astype(np.float32),
        )
        num_masks += check(associator.update(window, prediction))
        assert associator.num_tracks <= 8
    num_masks += check(associator.flush())
    assert num_masks > 100


class Churn(Sequence[Mapping[int, Any]]):
    """Frames without end in which object k lives in frames 4k to 4k + 6, each in a place of its own."""

    num_frames = 1000

    def __len__(self) -> int:
        return self.num_frames

    @lru_cache(maxsize=8)  # noqa: B019
    def __getitem__(self, index: Any) -> Any:
        y, x = np.ogrid[:90, :160]
        masks = {}
        for name in range(max(index - 6, 0) // 4 + (index % 4 > 2 or index > 6), index // 4 + 1):
            if 4 * name <= index <= 4 * name + 6:
                left, top = 20 + (37 * name) % 120, 15 + (23 * name) % 60
                masks[name] = ((x - left) / 9) ** 2 + ((y - top) / 8) ** 2 <= 1
        return masks


def test_memory_is_bounded_and_ids_are_never_reused_over_1000_windows() -> None:
    masks = Churn()
    scene = Scene(90, 160, masks, {name: 1 + name % 4 for name in range(len(masks))})
    associator = make("both", max_tracks=12)
    oracle = Oracle(scene, Corruption(jitter=1, miss=0.1), input_size=(48, 80))
    windower = Windower(num_frames=T, stride=1)
    births: dict[int, int] = {}
    ended: dict[int, int] = {}
    for index in range(len(masks)):
        window = windower.push(scene.frame(index))
        assert window is not None
        for result in associator.update(window, oracle.predict(window)):
            for row in result.instances:
                births.setdefault(row.track_id, index)
                if row.state == "ended":
                    ended.setdefault(row.track_id, index)
                elif result.revision == 0:
                    assert row.track_id not in ended
        table = associator._table
        assert associator.num_tracks <= 12
        assert len(table.tracks) + len(table._free) == 12
        assert (table.sums.logits.shape, table.prob_sum.shape) == ((12, T, 240), (12, T, 60))
        assert len(associator._ring) <= T
        assert len(associator._emitter._pending) <= T
        assert len(associator._emitter._announced) == 0
    assert len(births) >= 250  # as many as there are objects
    assert len(ended) >= len(births) - 12


def test_more_objects_than_max_tracks_keep_the_tracks_that_are_there() -> None:
    scene = crowd(30)
    associator = make(max_tracks=3)
    results = run(Oracle(scene), associator, num_frames=T)
    assert associator.num_tracks == 3
    for result in results:
        assert len([row for row in result.instances if row.mask is not None]) <= 3
    assert count_switches(ids_of(results, scene)) == 0


def test_a_full_table_gives_up_the_track_lost_for_longest() -> None:
    scene = script(
        [
            Mover(line((0.2, 0.3), (0, 0), range(8))),
            Mover(line((0.8, 0.3), (0, 0), range(12)), output=2),
            Mover(line((0.5, 0.8), (0, 0), range(18, 30)), output=3),
        ],
        30,
    )
    results = run(Oracle(scene), make(max_tracks=2, lost_seconds=60.0), num_frames=T)
    ids = ids_of(results, scene)
    first, second = ids[0][0], ids[1][0]
    assert (18, "ended") in states(results, first)
    assert (18, "ended") not in states(results, second)
    assert set(ids[2]) == {3}
