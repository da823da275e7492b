"""Whether a track has ever moved: still and moving objects of known masks, also before moving cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.truth import CLASSES, Corruption, Mover, Oracle, Path, Scene, run, script

from model.cues.flow import scale_motion
from model.cues.state import CueState
from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig
from pipeline.inference.window import Windower
from pipeline.types import FrameResult, Window, WindowPrediction

T = 5
H, W = 180, 320
Image = NDArray[np.uint8]


def make(emission: Any = "first", *, stride: int = 1, **config: Any) -> Associator:
    return Associator(
        AssociationConfig(**{"birth_score": 0.5, **config}),
        emission=emission,
        classes=CLASSES,
        num_frames=T,
        stride=stride,
    )


def at(x: float, y: float, *, frames: range | None = None) -> Path:
    return lambda number: (x, y) if frames is None or number in frames else None


def moving(x: float, y: float, step: float) -> Path:
    return lambda number: (x + step * number, y)


def moved_from(results: Sequence[FrameResult]) -> dict[int, int | None]:
    """Track id → the first frame that says it has moved, None: none does; a track that has moved stays so."""
    first: dict[int, int | None] = {}
    for result in results:
        for row in result.instances:
            assert row.moved is not None
            before = first.setdefault(row.track_id, None)
            assert row.moved or before is None, "never goes back"
            if row.moved and before is None:
                first[row.track_id] = result.frame.index
    return first


@pytest.mark.parametrize("stride", [1, 3, 5])
@pytest.mark.parametrize("emission", ["first", "final", "both"])
def test_a_moving_object_has_moved_and_a_still_one_has_not(emission: str, stride: int) -> None:
    # Radii of 29 pixels each way: half of a box's shorter side is 29 pixels, of which it makes 3.2 a frame.
    radii = (0.09, 0.16)
    scene = script([Mover(moving(0.2, 0.3, 0.01), radii), Mover(at(0.8, 0.7), radii, output=2)], 40)
    results = run(Oracle(scene), make(emission, stride=stride), num_frames=T, stride=stride)
    begun = moved_from([each for each in results if each.revision == 0 or emission == "final"])
    dog = next(row.track_id for row in results[-1].instances if row.class_name == "dog")
    person = next(row.track_id for row in results[-1].instances if row.class_name == "person")
    assert begun[dog] is None
    # Cells are 8 source pixels wide, so that a box is as exact as that; masks of later revisions know more.
    when = begun[person]
    assert when is not None
    assert 9 - 3 - T * (emission == "final") <= when <= 9 + 3 + stride


def test_what_has_moved_stays_moved_when_it_stands_and_when_it_comes_back() -> None:
    path: Path = lambda number: (  # noqa: E731
        None if 25 <= number < 32 else (0.2 + 0.01 * min(number, 15), 0.5)
    )
    scene = script([Mover(path)], 45)
    results = run(Oracle(scene), make(), num_frames=T)
    assert moved_from(results).keys() == {1}
    gone = [row for result in results for row in result.instances if row.state == "lost"]
    assert [row.moved for row in gone] == [True]
    assert all(row.moved for result in results[30:] for row in result.instances)
    # And back at the very place where it began.
    there_and_back: Path = lambda number: (0.2 + 0.012 * min(number, 40 - number), 0.5)  # noqa: E731
    results = run(Oracle(script([Mover(there_and_back)], 41)), make(), num_frames=T)
    assert results[-1].instances[0].moved


def test_jitter_and_small_shifts_are_no_motion() -> None:
    movers = [Mover(at(0.2 + 0.3 * k, 0.3 + 0.2 * k), radii=(0.12, 0.22), output=1 + k) for k in range(3)]
    scene = script(movers, 120)
    wrong = Corruption(jitter=1, shrink=2.0, duplicates=1, noise=2, embedding_noise=0.3)
    results = run(Oracle(scene, wrong, seed=3), make(), num_frames=T)
    assert len(moved_from(results)) >= 3
    assert not [name for name, when in moved_from(results).items() if when is not None]
    # A fifth of its width, back and forth.
    swaying: Path = lambda number: (0.5 + 0.018 * np.sin(number), 0.5)  # noqa: E731
    results = run(Oracle(script([Mover(swaying)], 60)), make(), num_frames=T)
    assert moved_from(results) == {1: None}


def test_small_objects_must_move_by_three_pixels_of_the_models_input() -> None:
    """6 source pixels here: objects 12 pixels wide at a sixth of a cell's width per frame."""

    class Exact(Oracle):
        """Boxes of any precision that go right by `shift` a frame."""

        def __init__(self, shift: float) -> None:
            super().__init__(scene)
            self.shift = shift

        def predict(self, window: Window) -> WindowPrediction:
            found = super().predict(window)
            centres = np.array([self.shift * frame.index for frame in window.frames], np.float32) + 100
            boxes = np.stack((centres - 2, 0 * centres + 88, centres + 2, 0 * centres + 92), axis=-1)
            return replace(found, boxes_xyxy=np.broadcast_to(boxes, found.boxes_xyxy.shape))

    scene = script([Mover(at(0.32, 0.5), radii=(0.05, 0.09))], 12)
    for shift, expected in ((0.5, None), (1.0, 7)):
        oracle = Exact(shift)
        assert oracle.fit.scale_x == 0.5
        assert moved_from(run(oracle, make(), num_frames=T)) == {1: expected}


def test_what_is_uncovered_or_hidden_at_one_side_has_not_moved() -> None:
    """A parked car, half hidden by one that drives by slowly, both ways."""
    parked = Mover(at(0.4, 0.5), radii=(0.15, 0.12), output=3)
    passing = Mover(moving(0.15, 0.5, 0.006), radii=(0.12, 0.3), output=1)
    scene = script([parked, passing], 90)
    shown = [scene.masks[number][0].sum() for number in range(90)]
    assert min(shown) < 0.5 * max(shown)
    results = run(Oracle(scene), make(), num_frames=T)
    names = {row.track_id: row.class_name for result in results for row in result.instances}
    assert {names[each]: when is None for each, when in moved_from(results).items()} == {
        "car": True,
        "person": False,
    }


# The camera moves.


def texture(height: int, width: int) -> Image:
    """A picture with something to see everywhere, and smooth enough that a shift is no cut."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(40, 216, (height // 24 + 1, width // 24 + 1, 3), dtype=np.uint8)
    large = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, dtype=np.uint8)


class Watched(Oracle):
    """A truth whose pictures are looked at by the flow cue, as the network's predictor does."""

    def watch(self, picture: Callable[[int], Image]) -> Watched:
        self.cues, self.picture = CueState(("flow",)), picture
        self.looked: list[Any] = []
        return self

    def predict(self, window: Window) -> WindowPrediction:
        fit, camera = self.fit, []
        for frame in window.new:
            self.cues.update(self.picture(frame.index), frame.seconds)
            motion = self.cues.camera
            camera.append(
                None if motion is None else scale_motion(motion, (1 / fit.scale_x, 1 / fit.scale_y))
            )
        self.looked += camera
        return replace(super().predict(window), camera=tuple(camera))


def panned(step: float, num_frames: int) -> tuple[Scene, Callable[[int], Image]]:
    """A camera that turns right by `step` source pixels a frame, before a thing that stands on the ground (a
    dog) and one that keeps up with the camera (a person); and its pictures, of the model's size."""
    shift = step / W
    movers = [
        Mover(moving(0.85, 0.6, -shift), radii=(0.07, 0.15), output=2),
        Mover(at(0.3, 0.25), radii=(0.07, 0.15), output=1),
    ]
    scene = script(movers, num_frames)
    ground = texture(H, round(W + step * num_frames) + 1)

    def picture(number: int) -> Image:
        left = np.float64([[1, 0, -step * number], [0, 1, 0]])
        seen = cv2.warpAffine(ground, left, (W, H), flags=cv2.INTER_LINEAR)
        for name, colour in ((0, 40), (1, 220)):
            seen[scene.masks[number].get(name, np.zeros((H, W), np.bool_))] = colour
        return np.asarray(cv2.resize(seen, (160, 90), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return scene, picture


@pytest.mark.parametrize("stride", [1, 2])
def test_before_a_panning_camera_the_ground_stands_still(stride: int) -> None:
    scene, picture = panned(6.0, 32)
    results = run(Watched(scene).watch(picture), make(stride=stride), num_frames=T, stride=stride)
    names = {row.track_id: row.class_name for result in results for row in result.instances}
    assert {names[each]: when is None for each, when in moved_from(results).items()} == {
        "dog": True,
        "person": False,
    }
    # Where nobody tells of the camera, the picture's own coordinates count: it is the other way round.
    plain = moved_from(run(Oracle(scene), make(stride=stride), num_frames=T, stride=stride))
    assert {names[each]: when is None for each, when in plain.items()} == {"dog": False, "person": True}


def test_the_cameras_motion_is_told_in_source_pixels_and_is_none_before_a_still_one() -> None:
    scene, picture = panned(6.0, 12)
    oracle = Watched(scene).watch(picture)
    run(oracle, make(), num_frames=T)
    assert oracle.looked[0] is None, "no frame before it"
    for motion in oracle.looked[1:]:
        corners = np.array([[0, 0], [W, 0], [0, H], [W, H]], np.float64)
        shifts = corners @ motion[:, :2].T + motion[:, 2] - corners
        assert np.abs(shifts - (-6, 0)).max() < 1.5
    scene, picture = panned(0.0, 12)
    oracle = Watched(scene).watch(lambda number: picture(number) + np.uint8(number % 2))
    run(oracle, make(), num_frames=T)
    assert all((motion == np.eye(2, 3)).all() for motion in oracle.looked[1:])


def test_a_camera_that_turns_and_zooms_at_once_moves_nobody() -> None:
    """Known maps, no pictures: each frame the camera zooms in by 1.5 %, turns by 0.5° and goes left."""
    turn = np.deg2rad(0.5)
    linear = 1.015 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([W / 2, H / 2])
    motion = np.column_stack((linear, middle + np.array([3, 0]) - linear @ middle))
    places = [np.array([0.3 * W, 0.4 * H])]
    for _ in range(24):
        places.append(linear @ places[-1] + motion[:, 2])
    scene = script(
        [Mover(lambda number: (places[number][0] / W, places[number][1] / H), radii=(0.05, 0.09))], 25
    )

    class Told(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            return replace(super().predict(window), camera=(motion,) * window.num_new)

    assert np.hypot(*(places[-1] - places[0])) > 40
    assert moved_from(run(Told(scene), make(), num_frames=T)) == {1: None}
    assert moved_from(run(Oracle(scene), make(), num_frames=T)) != {1: None}


def test_motions_that_do_not_fit_the_window_are_refused() -> None:
    scene = script([Mover(at(0.5, 0.5))], 3)

    class Wrong(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            return replace(super().predict(window), camera=(None,) * (window.num_new + 1))

    with pytest.raises(ValueError, match=r"motion at 2 frames.*1 new"):
        run(Wrong(scene), make(), num_frames=T)
    window = Windower(num_frames=T, stride=1).push(scene.frame(0))
    assert window is not None
    found = Oracle(scene).predict(window)
    with pytest.raises(ValueError, match=r"camera \(3, 3\) must be \(2, 3\)"):
        replace(found, camera=(np.eye(3),))
