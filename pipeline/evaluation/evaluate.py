"""The real windows, predictor and associator over an annotated data set, then model.evaluation.

    streaming   what a live subscriber gets: windows of T frames at the config's stride, the associator, each
                frame's masks as published first
    window      no association: every T frames are a clip, and the ground truth is cut in the same way
    whole       one window over all frames of a video, or of 36 frames where it is longer, then associated

The stages are those of a Stream. They run in this thread, one frame after the other, so that nothing is
dropped. A test keeps `streaming` equal to what a Stream yields (docs/evaluation.md).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from model.class_lists import CLASS_LISTS
from model.evaluation.clips import Clip, as_one_category, coco_rle, cut_into_clips
from model.evaluation.dataset import GroundTruth, Video, read_results
from model.evaluation.frame_metrics import frame_metrics
from model.evaluation.ytvis_ap import evaluate
from pipeline.association.associator import Associator
from pipeline.association.candidates import content_cells, select_candidates
from pipeline.association.emission import Emission
from pipeline.association.mask_sums import MaskLayout, encode_masks
from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.annotated import AnnotatedVideos
from pipeline.inference.predictor import (
    ModelFacts,
    Predictor,
    WindowModel,
    as_predictor,
    birth_scores,
    predict_window,
)
from pipeline.inference.window import Windower
from pipeline.types import Frame, FrameResult, Instance, Window, WindowPrediction

Mode = Literal["whole", "window", "streaming"]
WHOLE_FRAMES = 36
"""The longest window of mode `whole`: no video of YouTube-VIS 2019 is longer."""

Row = dict[str, Any]
"""One result in the submission format."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about a data set."""

    rows: list[Row]
    """video_id, score, category_id, segmentations (per frame RLE or None), as in a submission."""
    truth: GroundTruth
    """What they are to be compared with: of mode `window`, cut into clips."""
    num_frames: int
    seconds: float
    """Wall time, images read included."""


def evaluate_dataset(
    config: StreamConfig,
    predictor: Predictor | WindowModel,
    dataset: AnnotatedVideos,
    mode: Mode,
    *,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Run a predictor over a data set; return the twelve YouTube-VIS metrics and more (see `metrics_of`)."""
    return metrics_of(predict_dataset(config, predictor, dataset, mode, progress=progress), mode)


def metrics_of(predictions: Predictions, mode: Mode) -> dict[str, Any]:
    """Return AP … AR_large, `frames` (metrics of single frames and identities), mode and amounts."""
    results = read_results(predictions.rows, predictions.truth)
    return {
        **evaluate(predictions.truth, results),
        "frames": frame_metrics(predictions.truth, results),
        "mode": mode,
        "num_videos": len(predictions.truth.videos),
        "num_frames": predictions.num_frames,
        "num_results": len(results),
        "frames_per_second": round(predictions.num_frames / max(predictions.seconds, 1e-9), 2),
    }


def predict_dataset(
    config: StreamConfig,
    predictor: Predictor | WindowModel,
    dataset: AnnotatedVideos,
    mode: Mode,
    *,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """Run a predictor over all frames of a data set; `progress` gets each finished video's number of frames.

    Raises DatasetError for images that cannot be read, ConfigError where the data set's categories and the
    model's classes contradict each other or the model has no masks, ValueError for an unknown mode.
    """
    check_mode(mode)
    predictor = as_predictor(predictor)
    begun = time.monotonic()
    truth = comparable_truth(dataset.truth, predictor.facts)  # before the work, not after it
    rows: dict[int, list[Row]] = {}
    for video in truth.videos.values():
        rows[video.id] = video_rows(config, predictor, dataset, video, mode)
        if progress is not None:
            progress(video.length)
    return gather(truth, predictor.facts, mode, rows, seconds=time.monotonic() - begun)


def check_mode(mode: str) -> None:
    """Raises ValueError for a mode that is none."""
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r} must be one of {', '.join(_MODES)}")


def video_rows(
    config: StreamConfig, predictor: Predictor, dataset: AnnotatedVideos, video: Video, mode: Mode
) -> list[Row]:
    """Return the results of one video, without video_id; in mode `window` with the clip's `first` frame."""
    frames = dataset.frames(video, fps=config.source.images_fps)
    try:
        return list(_MODES[mode](config, predictor, video, frames))
    finally:
        if predictor.capabilities.forget is not None:
            predictor.capabilities.forget(dataset.source(video))


def gather(
    truth: GroundTruth, facts: ModelFacts, mode: Mode, rows: Mapping[int, Sequence[Row]], *, seconds: float
) -> Predictions:
    """Put the rows of all videos (by id) together with the ground truth that they fit."""
    num_frames = sum(video.length for video in truth.videos.values())
    clips: dict[int, Clip] = {}
    if mode == "window":
        truth, clips = cut_into_clips(truth, facts.num_frames)
    clip_ids = {(clip.video_id, clip.first): number for number, clip in clips.items()}
    agnostic = _agnostic_category(truth)
    gathered = []
    for video_id in sorted(rows):
        for row in rows[video_id]:
            place = {key: value for key, value in row.items() if key != "first"}
            if agnostic is not None:
                place["category_id"] = agnostic
            number = clip_ids[video_id, row["first"]] if clips else video_id
            gathered.append({"video_id": number, **place})
    return Predictions(gathered, truth, num_frames, seconds)


def comparable_truth(truth: GroundTruth, facts: ModelFacts) -> GroundTruth:
    """Return the ground truth in the model's categories: all as one for a class-agnostic model.

    A data set whose one category is `object` names nothing: any name that a model gives is right.

    A stream that looks for one of a list's classes (`model.classes`) is not class-agnostic.

    Raises ConfigError where a category id means one thing here and another there, and for a model without
    masks.
    """
    if not facts.has_masks:
        raise ConfigError(f"model {facts.name!r} gives boxes without masks: the metrics compare masks")
    names = dict(facts.classes.values())
    if len(names) == 1 and len(CLASS_LISTS.get(facts.class_list, names)) == 1:
        ((number, name),) = names.items()
        return truth if truth.categories == {number: name} else as_one_category(truth, number, name)
    if _agnostic_category(truth) is not None:
        return truth
    for number, name in truth.categories.items():
        ours = names.get(number)
        if ours is not None and name and _plain(name) != _plain(ours):
            raise ConfigError(
                f"{truth.name}: category {number} is {name!r} there and {ours!r} in the model's class list "
                f"{facts.class_list}: evaluate on a data set of that list"
            )
    return truth


def _agnostic_category(truth: GroundTruth) -> int | None:
    """The category of a data set that names nothing."""
    if len(truth.categories) == 1:
        ((number, name),) = truth.categories.items()
        if name == "object":
            return number
    return None


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")


# The modes: config, predictor, video, its frames → rows without video_id.


def _streaming(
    config: StreamConfig, predictor: Predictor, video: Video, frames: Iterable[Frame]
) -> Iterator[Row]:
    stride = config.window.stride
    windower = Windower(num_frames=predictor.facts.num_frames, stride=stride)
    windows = cut_windows(windower, frames)
    return track_rows(config, predictor, video, windows, stride=stride, emission=config.emission)


def _windows(
    config: StreamConfig, predictor: Predictor, video: Video, frames: Iterable[Frame]
) -> Iterator[Row]:
    num_frames = predictor.facts.num_frames
    windower = Windower(num_frames=num_frames, stride=num_frames)
    for window in cut_windows(windower, frames):
        for row in _candidate_rows(config, predictor, window):
            yield {**row, "first": window.new[0].index}


def _whole(
    config: StreamConfig, predictor: Predictor, video: Video, frames: Iterable[Frame]
) -> Iterator[Row]:
    if video.length <= WHOLE_FRAMES:
        whole = tuple(frames)
        window = Window(frames=whole, first=0, last=len(whole) - 1, num_new=len(whole))
        yield from _candidate_rows(config, predictor, window)
        return
    # The last window reaches back over frames that an earlier one has seen; elsewhere none are shared.
    windows = cut_windows(Windower(num_frames=WHOLE_FRAMES, stride=WHOLE_FRAMES), frames)
    yield from track_rows(config, predictor, video, windows, stride=WHOLE_FRAMES, emission="final")


_MODES: dict[Mode, Callable[[StreamConfig, Predictor, Video, Iterable[Frame]], Iterator[Row]]] = {
    "whole": _whole,
    "window": _windows,
    "streaming": _streaming,
}


def cut_windows(windower: Windower, frames: Iterable[Frame]) -> Iterator[Window]:
    """Yield the windows of a video, the last one with what is left."""
    for frame in frames:
        window = windower.push(frame)
        if window is not None:
            yield window
    window = windower.flush()
    if window is not None:
        yield window


def _predict(predictor: Predictor, window: Window) -> WindowPrediction:
    prediction = predict_window(predictor, window)
    if prediction.boxes_xyxy.shape[1] != len(window.frames):
        raise ValueError(
            f"the predictor answers for {prediction.boxes_xyxy.shape[1]} frames, the window has "
            f"{len(window.frames)}: use mode window or streaming"
        )
    return prediction


def track_rows(
    config: StreamConfig,
    predictor: Predictor,
    video: Video,
    windows: Iterable[Window],
    *,
    stride: int,
    emission: Emission,
) -> Iterator[Row]:
    """Associate the windows of a video as the live path does; a track is a row, without video_id."""
    associator: Associator | None = None
    tracks: defaultdict[int, _Track] = defaultdict(_Track)
    for window in windows:
        if associator is None:
            associator = Associator(
                config.association,
                emission=emission,
                classes=predictor.facts.classes,
                num_frames=len(window.frames),
                stride=stride,
                birth_scores=birth_scores(config, predictor.facts),
                unnamed=predictor.facts.unnamed,
            )
        _collect(tracks, associator.update(window, _predict(predictor, window)))
    if associator is not None:
        _collect(tracks, associator.flush())
    for track in tracks.values():
        yield track.row(video)


@dataclass(eq=False)
class _Track:
    """What was published under one id."""

    masks: dict[int, bytes] = field(default_factory=dict)
    """Frame → full-frame COCO counts."""
    scores: list[float] = field(default_factory=list)
    votes: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """Category id → sum of scores."""

    def add(self, instance: Instance, frame: Frame) -> None:
        assert instance.mask is not None
        self.masks[frame.index] = instance.mask.to_coco(frame.height, frame.width)["counts"]
        self.scores.append(instance.score)
        self.votes[instance.class_id] += instance.score

    def row(self, video: Video) -> Row:
        """The track's score is the mean of its instances', its category the one with the most score."""
        return {
            "score": float(np.mean(self.scores)),
            "category_id": max(self.votes, key=lambda each: self.votes[each]),
            "segmentations": [
                coco_rle(self.masks.get(number), video.height, video.width) for number in range(video.length)
            ],
        }


def _collect(tracks: defaultdict[int, _Track], results: Sequence[FrameResult]) -> None:
    """Take in what is published first of each frame: later revisions come too late for a live reader."""
    for result in results:
        if result.revision == 0:
            for instance in result.instances:
                if instance.mask is not None and not instance.mask.is_empty:
                    tracks[instance.track_id].add(instance, result.frame)


def _candidate_rows(config: StreamConfig, predictor: Predictor, window: Window) -> Iterator[Row]:
    """The candidates of one window, as association would get them, as tracks over its new frames."""
    prediction = _predict(predictor, window)
    classes = predictor.facts.classes
    outputs = sorted(classes)
    found = select_candidates(window, prediction, config.association, outputs)
    if not len(found):
        return
    layout = MaskLayout(prediction.fit, prediction.mask_stride, *content_cells(prediction))
    logits = found.logits[:, -window.num_new :]  # (N, F, P)
    masks = encode_masks(logits.reshape(-1, logits.shape[2]), fit=layout.content, stride=layout.stride)
    height, width = window.frames[-1].height, window.frames[-1].width
    for index in range(len(found)):
        own = masks[index * window.num_new : (index + 1) * window.num_new]
        if all(mask.is_empty for mask in own):
            continue
        output = outputs[int(found.scores[index].argmax())]
        yield {
            "score": float(found.best[index]),
            "category_id": classes[output][0],
            "segmentations": [
                None if mask.is_empty else coco_rle(mask.to_coco(height, width)["counts"], height, width)
                for mask in own
            ],
        }
