"""What has no name must move: it is shown from when it does, and the cues must see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.small_models import small_config
from support.truth import CLASSES, Mover, Oracle, Scene, run, script

from model.network import build_model
from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig
from pipeline.inference.moving import LEAST, motion_map, without_still
from pipeline.inference.network_predictor import NetworkPredictor
from pipeline.inference.window import Windower
from pipeline.types import FrameResult, Window, WindowPrediction

T = 3
DOG = 2


def follow(oracle: Oracle, *, emission: Any = "first", **config: Any) -> list[FrameResult]:
    associator = Associator(
        AssociationConfig(**config), emission=emission, classes=CLASSES, num_frames=T, unnamed={DOG}
    )
    return run(oracle, associator, num_frames=T)


def rows(results: list[FrameResult]) -> list[tuple[int, str, str]]:
    """Frame, class and state of all rows."""
    return [(each.frame.index, row.class_name, row.state) for each in results for row in each.instances]


def scene_of(dog: Mover, *others: Mover, num_frames: int = 24) -> Scene:
    return script([dog, *others], num_frames)


@pytest.mark.parametrize("emission", ["first", "final", "both"])
def test_what_stands_still_without_a_name_is_never_told_of(emission: str) -> None:
    gone_later = Mover(lambda number: (0.25, 0.5) if number < 14 else None, output=DOG)
    results = follow(Oracle(scene_of(gone_later, Mover(lambda _: (0.75, 0.5)))), emission=emission)
    assert {name for _, name, _ in rows(results)} == {"person"}


def test_it_is_shown_from_when_it_moves_and_stays_when_it_stands_again() -> None:
    walks = Mover(lambda number: (0.2 + 0.03 * min(max(number - 6, 0), 6), 0.5), output=DOG)
    results = follow(Oracle(scene_of(walks)))
    shown = [index for index, _, _ in rows(results)]
    # Half of its shorter side, 29 pixels of 9.6 a frame: within the fourth frame of its way.
    assert 7 < shown[0] <= 11
    assert shown == list(range(shown[0], 24))
    assert {row.track_id for each in results for row in each.instances} == {1}
    assert all(row.moved for each in results for row in each.instances)


def test_who_gets_a_name_is_shown_at_once_under_it() -> None:
    class Named(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            found = super().predict(window)
            if window.real[-1].index >= 15:
                found.scores[:, 1] = found.scores[:, DOG]
                found.scores[:, DOG] = 0.0
            return found

    results = follow(Named(scene_of(Mover(lambda _: (0.5, 0.5), output=DOG))))
    assert rows(results) == [(index, "person", "confirmed") for index in range(15, 24)]


def test_with_a_name_nothing_has_to_move() -> None:
    still = Oracle(scene_of(Mover(lambda _: (0.5, 0.5), output=DOG)))
    associator = Associator(AssociationConfig(), emission="first", classes=CLASSES, num_frames=T)
    assert [index for index, _, _ in rows(run(still, associator, num_frames=T))] == list(range(24))


def test_the_map_is_the_strongest_cue_in_its_own_unit() -> None:
    planes = np.zeros((3, 10, 8), np.float32)
    planes[0, :4, :4] = -LEAST["background"]
    planes[1:, 4:8, 4:] = LEAST["flow"] * np.array([3, 4], np.float32)[:, None, None]
    planes[0, 8:, :4] = 2 * LEAST["background"]
    cells = motion_map(planes, ["background", "flow"], stride=4)
    assert cells.shape == (3, 2)
    even = motion_map(planes[:, :8], ["background", "flow"], stride=4)
    np.testing.assert_allclose(even, [[1, 0], [0, 5]], atol=1e-6)
    flow_alone = motion_map(planes[1:, :8], ["flow"], stride=4)
    np.testing.assert_allclose(flow_alone, [[0, 0], [0, 5]], atol=1e-6)


def test_scores_without_a_name_go_where_the_cues_see_nothing_inside_of_the_mask() -> None:
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.7], [0.1, 0.9]], np.float32)
    logits = np.full((4, 3, 4), -5.0, np.float32)
    logits[0, 0, 0] = logits[1, 0, 1] = logits[2, 0, 1] = 5.0  # the last is empty
    logits[:, 2] = 5.0  # padding below the map
    cells = np.array([[1.5, 0.5, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]], np.float32)
    kept = without_still(scores, logits, cells, {1})
    assert kept[:, 0].tolist() == scores[:, 0].tolist()
    assert kept[:, 1] == pytest.approx([0.9, 0.0, 0.7, 0.0])  # a name that leads is left alone
    assert scores[1, 1] == np.float32(0.9)


def picture(number: int, *, moving: bool) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    image = np.asarray(rng.integers(60, 120, (64, 96, 3)), np.uint8)
    if moving:
        left = 4 * number % 64
        image[16:48, left : left + 32] = 250
    return image


@pytest.mark.parametrize(("moving", "cues"), [(True, True), (False, True), (False, False)])
def test_a_network_beside_a_detector_names_nothing_that_stands(moving: bool, cues: bool) -> None:
    config = small_config(
        backbone="csp",
        query_selection="detector",
        class_list="coco_and_object",
        mask_source="picture",
        mask_coordinates="box",
        num_queries=10,
        num_motion_queries=6,
        num_proposals=12,
        cues=("background", "flow"),
        height=64,
        width=96,
        num_frames=T,
    )
    predictor = NetworkPredictor(build_model(config, seed=0), config, name="small", cues=cues)
    (output,) = predictor.facts.unnamed
    assert predictor.facts.classes[output][1] == "object"
    windower = Windower(num_frames=T, stride=1)
    black = script([], 0, height=64, width=96)
    best = []
    for number in range(30):
        window = windower.push(replace(black.frame(number), picture=picture(number, moving=moving)))
        assert window is not None
        scores = predictor.predict(window).scores
        leads = scores.argmax(axis=1) == output
        best.append(float(scores[leads, output].max(initial=0.0)))
    # Once the cues know something, what they see decides; without cues nothing is left out.
    assert (max(best[20:]) > 0) == (moving or not cues)


def test_of_other_class_lists_everything_has_a_name() -> None:
    config = small_config(class_list="object", height=64, width=96, num_frames=T)
    assert NetworkPredictor(build_model(config, seed=0), config, name="x").facts.unnamed == frozenset()
