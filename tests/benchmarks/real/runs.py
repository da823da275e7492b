"""What the real benchmark compares: the pipeline's and the peers' masks of the labelled frames."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import cv2
import numpy as np
from benchmarks.box_tracker import PeerInstance
from benchmarks.real.build import ANY_CATEGORY, LABELS
from numpy.typing import NDArray
from support.streams import street_clip

from ops.rle import CropRLE, encode_crop
from pipeline.config import StreamConfig
from pipeline.inference.predictor import Predictor
from pipeline.live.stream import Stream
from pipeline.sources.cadence import Cadence

Image = NDArray[np.uint8]


class FoundMask(NamedTuple):
    """One instance in one frame."""

    track_id: int
    score: float
    mask: NDArray[np.bool_]
    """(H, W)."""
    name: str | None
    """Of its class; None from who names nothing."""


Found = dict[int, list[FoundMask]]
"""By frame index of the clip."""


class Peer(Protocol):
    """Who is shown the frames of a source one after the other."""

    def update(self, rgb: Image, seconds: float) -> list[PeerInstance]:
        """Take the next frame, (H, W, 3) at a stream time; return what is found in it."""


CADENCE_FPS = 10.0

COLUMNS = ("segmentations", "bboxes", "areas", "heights", "polygons")
"""Of an annotation: one row a frame."""


def load_labels(path: Path = LABELS) -> dict[str, Any]:
    """The labels as they stand in the file."""
    labels: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return labels


def clip_frames(path: Path | None = None) -> list[tuple[int, float, Image]]:
    """The frames that the cadence keeps, of the street clip or another: index, stream time in seconds, (H, W, 3) RGB."""
    cadence = Cadence(CADENCE_FPS)
    kept: list[tuple[int, float, Image]] = []
    with av.open(str(path or street_clip())) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if cadence.take(frame.time):
                rgb: Any = frame.to_ndarray(format="rgb24")
                kept.append((index, frame.time, rgb))
    return kept


def held_frames(
    frames: Iterable[tuple[int, float, Image]], video: Mapping[str, Any]
) -> list[tuple[int, float, Image]]:
    """The frames of a video that is held still, the camera's motion undone; times start at 0."""
    pictures = {index: rgb for index, _, rgb in frames}
    size = (video["width"], video["height"])
    held: list[tuple[int, float, Image]] = []
    for place, (index, matrix) in enumerate(zip(video["frame_indices"], video["transforms"], strict=True)):
        warped: Any = cv2.warpAffine(
            pictures[index],
            np.reshape(matrix, (2, 3)),
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        held.append((index, place / CADENCE_FPS, warped))
    return held


def labelled(labels: Mapping[str, Any]) -> set[int]:
    """Indices of the frames that any video of the labels has: the masks of others need not be kept."""
    return {index for video in labels["videos"] for index in video["frame_indices"]}


def run_peer(frames: Iterable[tuple[int, float, Image]], peer: Peer, *, kept: Collection[int]) -> Found:
    """Give every frame to a peer that has seen none; what it found in the frames of these indices."""
    found: Found = {}
    for index, seconds, rgb in frames:
        instances = peer.update(rgb, seconds)
        if index in kept:
            found[index] = from_peer(instances)
    return found


def from_peer(instances: Iterable[PeerInstance]) -> list[FoundMask]:
    """What a peer found in one frame."""
    return [FoundMask(each.track_id, each.score, each.mask, each.name) for each in instances]


def run_clip(
    predictor: Predictor, config: StreamConfig, path: Path | None = None, *, kept: Collection[int]
) -> Found:
    """Stream the clip's file, or another, as any file; what was found in the frames of these indices."""
    return _stream(predictor, config, str(path or street_clip()), kept)


def run_held(frames: Iterable[tuple[int, float, Image]], predictor: Predictor, config: StreamConfig) -> Found:
    """Stream frames from a folder of images at the cadence's rate; the indices are those given."""
    with tempfile.TemporaryDirectory() as folder:
        indices = []
        for place, (index, _, rgb) in enumerate(frames):
            cv2.imwrite(str(Path(folder) / f"{place:04d}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            indices.append(index)
        found = _stream(predictor, config, folder, range(len(indices)))
    return {indices[place]: rows for place, rows in found.items()}


def _stream(predictor: Predictor, config: StreamConfig, source: str, kept: Collection[int]) -> Found:
    """What is published on first sight of each frame of the source at the labels' cadence."""
    sections = {
        "source": config.source.model_copy(update={"inputs": {"real": source}, "images_fps": CADENCE_FPS}),
        "cadence": config.cadence.model_copy(update={"fps": CADENCE_FPS, "hold": False}),
    }
    found: Found = {}
    for result in Stream(config.model_copy(update=sections), predictor=predictor):
        height, width = result.frame.height, result.frame.width
        if result.revision == 0 and result.frame.index in kept:
            found[result.frame.index] = [
                FoundMask(each.track_id, each.score, each.dense_mask(height, width), each.class_name)
                for each in result.instances
                if each.mask is not None
            ]
    return found


def select(
    labels: Mapping[str, Any],
    videos: Collection[int] | None = None,
    *,
    kinds: Collection[str] | None = None,
) -> dict[str, Any]:
    """The labels of some videos, None: of all; what is not of `kinds` is ignored."""
    videos = {video["id"] for video in labels["videos"]} if videos is None else videos
    annotations = []
    for each in labels["annotations"]:
        if each["video_id"] in videos:
            other = kinds is not None and each["kind"] not in kinds
            annotations.append({**each, "iscrowd": 1} if other else each)
    return {
        **labels,
        "videos": [video for video in labels["videos"] if video["id"] in videos],
        "annotations": annotations,
    }


def half(labels: Mapping[str, Any], *, for_tuning: bool) -> dict[str, Any]:
    """The labels of the frames that numbers may be chosen on, or of those that metrics are reported of."""
    return cut(
        labels,
        {
            video["id"]: slice(None, video["num_tuning_frames"])
            if for_tuning
            else slice(video["num_tuning_frames"], None)
            for video in labels["videos"]
        },
    )


def cut(labels: Mapping[str, Any], places: Mapping[int, slice]) -> dict[str, Any]:
    """The labels of some frames of each video, by its id; what has nothing left is left out."""
    videos = []
    for video in labels["videos"]:
        kept = range(video["length"])[places[video["id"]]]
        if not kept:
            continue
        columns = {name: video[name] for name in ("frame_indices", "file_names", "transforms") if video[name]}
        videos.append(
            {
                **video,
                "length": len(kept),
                **{name: rows[places[video["id"]]] for name, rows in columns.items()},
                "num_tuning_frames": sum(place < video["num_tuning_frames"] for place in kept),
            }
        )
    annotations = []
    for each in labels["annotations"]:
        rows = {name: each[name][places[each["video_id"]]] for name in COLUMNS if name in each}
        if any(row is not None for row in rows["segmentations"]):
            annotations.append({**each, **rows})
    return {**labels, "videos": videos, "annotations": annotations}


def results_by_video(labels: Mapping[str, Any], by_video: Mapping[int, Found]) -> list[dict[str, Any]]:
    """`to_results` of what was found in each of the labels' videos, by its id."""
    return [
        row
        for video in labels["videos"]
        for row in to_results({**labels, "videos": [video]}, by_video[video["id"]])
    ]


def to_results(labels: Mapping[str, Any], found: Found) -> list[dict[str, Any]]:
    """What was found as results of the labels' videos: one per track and video, its score the mean."""
    results = []
    for video in labels["videos"]:
        tracks: dict[int, list[Any]] = {}
        scores: dict[int, list[float]] = defaultdict(list)
        for place, index in enumerate(video["frame_indices"]):
            for each in found.get(index, []):
                rle = encode_crop(each.mask, 0, 0).to_coco(video["height"], video["width"])
                row = tracks.setdefault(each.track_id, [None] * video["length"])
                row[place] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
                scores[each.track_id].append(each.score)
        for track_id, segmentations in tracks.items():
            results.append(
                {
                    "video_id": video["id"],
                    "category_id": ANY_CATEGORY,
                    "track_id": track_id,
                    "score": float(np.mean(scores[track_id])),
                    "segmentations": segmentations,
                }
            )
    return results


def perfect(labels: Mapping[str, Any]) -> dict[int, Found]:
    """By video id: what somebody would find who finds exactly what is labelled."""
    names = {
        (each["video_id"], each["instance_id"]): each["name"]
        for each in labels["annotations"]
        if not each["iscrowd"]
    }
    return {
        video["id"]: {
            index: [
                FoundMask(number, 0.9, mask, names[video["id"], number])
                for number, mask in label_masks(labels, video, place).items()
                if number
            ]
            for place, index in enumerate(video["frame_indices"])
        }
        for video in labels["videos"]
    }


def label_masks(
    labels: Mapping[str, Any], video: Mapping[str, Any], place: int
) -> dict[int, NDArray[np.bool_]]:
    """Masks of the labelled instances of one frame of a video, by id; 0 is what is ignored."""
    masks = {}
    for each in labels["annotations"]:
        rle = each["segmentations"][place] if each["video_id"] == video["id"] else None
        if rle is not None:
            masks[each.get("instance_id", 0)] = CropRLE.from_coco(rle).decode(video["height"], video["width"])
    return masks
