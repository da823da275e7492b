"""Four kinds of model behind one protocol, each as small as its owner would write it, through a whole stream.

The picture is a bright square that wanders over a dark ground; the models find it, or two of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.streams import tiny_config

from ops.fit import fit_size
from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.annotated import open_annotated
from pipeline.evaluation.evaluate import evaluate_dataset
from pipeline.inference.predictor import Capabilities, Finish, ModelFacts, as_predictor
from pipeline.live.stream import Stream
from pipeline.types import Frame, FrameResult, Instance, Window, WindowPrediction

HEIGHT, WIDTH, SIDE = 96, 128, 24
NUM_FRAMES = 12


def facts(num_frames: int, **more: Any) -> ModelFacts:
    return ModelFacts(
        name="own",
        class_list="own",
        classes={0: (1, "square"), 1: (2, "circle")},
        trained=True,
        num_frames=num_frames,
        **more,
    )


def square(number: int) -> tuple[int, int, int, int]:
    """Where the square is in a frame, xyxy."""
    x, y = 8 + 5 * number, 20 + 2 * number
    return x, y, x + SIDE, y + SIDE


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(NUM_FRAMES):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        x1, y1, x2, y2 = square(number)
        image[y1:y2, x1:x2] = 255
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
    return folder


def seen(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A model's work on one picture: the box (4,) and mask logits (24, 32) of what is bright; no box:
    zeros."""
    bright = frame.rgb()[..., 0] > 128
    fit = fit_size(frame.height, frame.width, height=HEIGHT, width=WIDTH)
    content = (fit.content_width // 4, fit.content_height // 4)
    logits = np.full((HEIGHT // 4, WIDTH // 4), -8.0)
    logits[: content[1], : content[0]][cv2.resize(bright.astype(np.uint8), content) > 0] = 8.0
    ys, xs = np.nonzero(bright)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    return np.array(box, np.float32), logits.astype(np.float32)


def prediction(frames: Sequence[Frame], **more: Any) -> WindowPrediction:
    boxes, logits = zip(*map(seen, frames), strict=True)
    values: dict[str, Any] = {
        "scores": np.array([[0.9, 0.1]], np.float32),
        "boxes_xyxy": np.stack(boxes)[None],
        "mask_logits": np.stack(logits)[None],
        "fit": fit_size(frames[0].height, frames[0].width, height=HEIGHT, width=WIDTH),
    }
    return WindowPrediction(**{**values, **more})


class ClipModel:
    """T frames at once, with embeddings; it begins batches, prepares frames and overlaps."""

    def __init__(self) -> None:
        self.facts = facts(5)
        self.capabilities = Capabilities(
            prepare=lambda frame: self.prepared.append(frame.index),
            forget=lambda source: self.forgotten.append(source),
            batches=True,
            overlaps=True,
        )
        self.prepared: list[int] = []
        self.forgotten: list[str] = []

    def begin(self, windows: Sequence[Window]) -> Finish:
        embeddings = np.eye(1, 8, dtype=np.float32)
        return lambda: [prediction(window.frames, embeddings=embeddings) for window in windows]


class FrameModel:
    """A frame at a time, no embeddings: all that an image model's owner has to write."""

    def __init__(self) -> None:
        self.facts = facts(1)

    def predict(self, window: Window) -> WindowPrediction:
        return prediction(window.frames)


class StatefulModel:
    """Frame by frame with ids of its own: query 7 follows the square, query 3 claims the same place later
    on."""

    def __init__(self) -> None:
        self.facts = facts(1)
        self.seen: dict[str, int] = {}

    def predict(self, window: Window) -> WindowPrediction:
        frame = window.frames[0]
        number = self.seen.get(frame.source, 0)
        self.seen[frame.source] = number + 1
        box, logits = seen(frame)
        ids = [7, 3] if number >= 4 else [7]
        num = len(ids)
        return prediction(
            window.frames,
            scores=np.array([[0.9, 0.1], [0.1, 0.8]], np.float32)[:num],
            boxes_xyxy=np.tile(box, (num, 1, 1)),
            mask_logits=np.tile(logits, (num, 1, 1, 1)),
            ids=np.array(ids),
        )

    def forget(self, source: str) -> None:
        del self.seen[source]


class Detector:
    """Boxes alone."""

    def __init__(self) -> None:
        self.facts = facts(1, has_masks=False)

    def predict(self, window: Window) -> WindowPrediction:
        return prediction(window.frames, mask_logits=None)


def run(model: Any, pictures: Path, **sections: Any) -> tuple[list[FrameResult], dict[str, Any]]:
    stream = Stream(tiny_config(pictures, cadence={"fps": "source"}, **sections), predictor=model)
    results = list(stream)
    report = stream.report()
    assert report["read"] == report["published"] == len({each.frame.index for each in results})
    return results, report


def rows(results: Sequence[FrameResult]) -> list[list[Instance]]:
    """What each frame shows, in the order of frames."""
    return [[each for each in result.instances if each.visible] for result in results]


@pytest.mark.parametrize("model", [ClipModel(), FrameModel()], ids=["clip model", "frame model"])
def test_masks_and_one_id_of_our_association(model: Any, pictures: Path) -> None:
    results, report = run(model, pictures)
    assert report["windows"] == len(results) == NUM_FRAMES
    for number, instances in enumerate(rows(results)):
        (instance,) = instances
        assert instance.track_id == 1
        assert instance.class_name == "square"
        assert instance.mask is not None
        x1, y1, x2, y2 = square(number)
        truth = np.zeros((HEIGHT, WIDTH), bool)
        truth[y1:y2, x1:x2] = True
        found = instance.dense_mask(HEIGHT, WIDTH)
        assert (found & truth).sum() / (found | truth).sum() > 0.7


def test_what_a_model_declares_is_used(pictures: Path) -> None:
    model = ClipModel()
    run(model, pictures)
    assert model.prepared == list(range(NUM_FRAMES))
    assert model.forgotten == ["source0"]


def test_a_models_own_ids_are_followed_and_nothing_else(pictures: Path) -> None:
    """Two queries on one place would be one thing to our association; to this model they are two."""
    results, _ = run(StatefulModel(), pictures)
    shown = rows(results)
    assert [[each.track_id for each in instances] for instances in shown] == [[1]] * 4 + [[1, 2]] * 8
    assert {(each.track_id, each.class_name) for each in shown[-1]} == {(1, "square"), (2, "circle")}


def test_an_own_id_that_comes_back_behind_a_gap_is_another_track(pictures: Path) -> None:
    for number in range(6, NUM_FRAMES):
        path = str(pictures / f"{number:03}.png")
        cv2.imwrite(path, cv2.resize(cv2.imread(path), (WIDTH // 2, HEIGHT)))
    model = StatefulModel()
    results, _ = run(model, pictures)
    ids = [{each.track_id for each in instances} for instances in rows(results)]
    assert ids[:6] == [{1}] * 4 + [{1, 2}] * 2
    assert ids[6:] == [{3}] * 4 + [{3, 4}] * 2
    assert model.seen == {}, "forgotten at the gap and at the end"


@pytest.mark.parametrize(("lost_seconds", "expected"), [(10.0, [1]), (0.15, [1, 2])])
def test_an_own_id_comes_back_while_its_track_is_lost_and_is_new_after_its_end(
    pictures: Path, lost_seconds: float, expected: list[int]
) -> None:
    class Blinking(StatefulModel):
        def predict(self, window: Window) -> WindowPrediction:
            found = super().predict(window)
            number = self.seen[window.frames[0].source] - 1
            kept = [] if 4 <= number < 9 else [0]
            return prediction(
                window.frames,
                scores=found.scores[kept],
                boxes_xyxy=found.boxes_xyxy[kept],
                mask_logits=found.mask_logits[kept],
                ids=np.full(len(kept), 7),
            )

    results, _ = run(Blinking(), pictures, association={"lost_seconds": lost_seconds})
    told = [{each.track_id: each.state for each in result.instances} for result in results]
    assert told[4] == {1: "lost"}, told
    assert sorted({each for states in told for each in states}) == expected
    assert told[-1] == {expected[-1]: "confirmed"}
    assert ({1: "ended"} in told) == (len(expected) == 2)


def test_a_detectors_boxes_are_published_without_masks(pictures: Path) -> None:
    results, report = run(Detector(), pictures)
    for number, instances in enumerate(rows(results)):
        (instance,) = instances
        assert (instance.track_id, instance.class_name, instance.state) == (1, "square", "confirmed")
        assert instance.mask is None
        assert instance.box_xyxy == square(number)
    assert report["time_to_first_mask_seconds"] is not None


@pytest.mark.parametrize("emission", ["final", "both"])
def test_a_detectors_boxes_have_finals(pictures: Path, emission: str) -> None:
    results, _ = run(Detector(), pictures, emission=emission)
    finals = [result for result in results if result.final]
    assert [result.frame.index for result in finals] == list(range(NUM_FRAMES))
    assert [instances[0].box_xyxy for instances in rows(finals)] == list(map(square, range(NUM_FRAMES)))


def test_a_small_or_odd_box_is_no_fault(pictures: Path) -> None:
    """A box below a cell's size is published; one beyond the frame is cut; none, or one not finite, is
    nobody."""

    class Odd(Detector):
        def predict(self, window: Window) -> WindowPrediction:
            boxes = [[50.2, 40.1, 51.4, 41.2], [100, 60, 400, 300], [10, 10, 10, 10], [np.nan, 0, 5, 5]]
            return prediction(
                window.frames,
                scores=np.tile(np.array([0.9, 0.1], np.float32), (4, 1)),
                boxes_xyxy=np.array(boxes, np.float32)[:, None],
                mask_logits=None,
            )

    results, _ = run(Odd(), pictures)
    for instances in rows(results):
        assert [each.box_xyxy for each in instances] == [(50, 40, 51, 41), (100, 60, 128, 96)]


def test_results_do_not_depend_on_how_windows_are_asked_for(pictures: Path) -> None:
    plain, _ = run(FrameModel(), pictures)

    class Asked(FrameModel):
        capabilities = Capabilities(overlaps=True)

        def begin(self, windows: Sequence[Window]) -> Finish:
            return lambda: [self.predict(window) for window in windows]

    asked, _ = run(Asked(), pictures)
    assert [result.instances for result in asked] == [result.instances for result in plain]


@pytest.mark.parametrize(
    "model", [object(), type("NoFacts", (), {"predict": lambda self, window: None})(), facts(1)]
)
def test_what_is_no_model_is_refused_with_what_it_lacks(model: Any, pictures: Path) -> None:
    with pytest.raises(TypeError, match=r"is no model for a stream: it needs `facts`.*predict\(window\)"):
        Stream(tiny_config(pictures), predictor=model)


def test_a_predictor_is_taken_as_it_is() -> None:
    model = ClipModel()
    assert as_predictor(model) is model


def test_a_stride_beyond_the_models_window_is_refused(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"window\.stride 3 is larger than the window.* = 1"):
        Stream(tiny_config(pictures, window={"stride": 3}), predictor=FrameModel())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: [], "returned 0 predictions for 1 windows"),
        (lambda found: found * 2, "returned 2 predictions for 1 windows"),
    ],
    ids=["none", "two"],
)
def test_another_number_of_predictions_is_a_fault_with_a_name(
    pictures: Path, change: Any, reason: str
) -> None:
    class Wrong(ClipModel):
        def begin(self, windows: Sequence[Window]) -> Finish:
            finish = super().begin(windows)
            return lambda: change(finish())

    with pytest.raises(ValueError, match=f"model 'own' {reason}"):
        run(Wrong(), pictures)


def test_facts_and_predictions_must_agree_about_masks(pictures: Path) -> None:
    model = Detector()
    model.facts = facts(1)
    with pytest.raises(ValueError, match="has_masks True, its prediction has no mask logits"):
        run(model, pictures)


def test_ids_must_be_one_a_candidate() -> None:
    fit = fit_size(8, 8, height=8, width=8)
    boxes = np.zeros((2, 1, 4), np.float32)
    for ids in ([1], [1, 1], [[1], [2]]):
        with pytest.raises(ValueError, match="must be 2 different numbers"):
            WindowPrediction(np.ones((2, 1), np.float32), boxes, None, fit, ids=np.array(ids))


def test_masks_cannot_be_evaluated_where_there_are_none(tmp_path: Path) -> None:
    truth = {
        "videos": [{"id": 1, "width": 8, "height": 8, "length": 1, "file_names": ["a.png"]}],
        "annotations": [],
        "categories": [{"id": 1, "name": "square"}],
    }
    with pytest.raises(ConfigError, match="gives boxes without masks: the metrics compare masks"):
        evaluate_dataset(StreamConfig(), Detector(), open_dataset(tmp_path, truth), "streaming")


def open_dataset(folder: Path, truth: dict[str, Any]) -> Any:
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "gt.json").write_text(json.dumps(truth))
    return open_annotated(folder / "gt.json", images=folder)
