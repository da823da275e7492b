"""Other views of a ground truth: cut into clips, or with all categories as one; and back to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from model.evaluation.dataset import GroundTruth, MaskTrack, Video, mean_area


class Clip(NamedTuple):
    """Where a clip lies in the video it was cut from."""

    video_id: int
    first: int
    """Its first frame."""
    length: int
    """Frames."""


def cut_into_clips(ground_truth: GroundTruth, num_frames: int) -> tuple[GroundTruth, dict[int, Clip]]:
    """Cut each video into clips of `num_frames` frames one after another; the last one may be shorter.

    Each clip becomes a video with an id of its own: 1, 2, … Each clip that shows an annotation gets its part
    of it as a new annotation, whose mean area is computed from the masks again. Raises ValueError for
    num_frames below 1.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    clips: dict[int, Clip] = {}
    videos: dict[int, Video] = {}
    of_video: dict[int, list[int]] = {}
    for video in ground_truth.videos.values():
        for first in range(0, video.length, num_frames):
            number = len(clips) + 1
            length = min(num_frames, video.length - first)
            clips[number] = Clip(video.id, first, length)
            names = video.file_names[first : first + length]
            videos[number] = replace(video, id=number, length=length, file_names=names)
            of_video.setdefault(video.id, []).append(number)
    parts: list[MaskTrack] = []
    for track in ground_truth.annotations:
        for number in of_video[track.video_id]:
            clip = clips[number]
            shown = slice(clip.first, clip.first + clip.length)
            areas = track.areas[shown]
            if areas.any():
                parts.append(
                    replace(
                        track,
                        id=len(parts) + 1,
                        video_id=number,
                        counts=track.counts[shown],
                        areas=areas,
                        mean_area=mean_area(areas.tolist()),
                    )
                )
    name = f"{ground_truth.name}, in clips of {num_frames} frames"
    return GroundTruth(videos, ground_truth.categories, tuple(parts), name), clips


def as_one_category(ground_truth: GroundTruth, category_id: int, name: str) -> GroundTruth:
    """Return the ground truth with every annotation in one category: what a class-agnostic model can know."""
    annotations = tuple(replace(track, category_id=category_id) for track in ground_truth.annotations)
    return replace(ground_truth, categories={category_id: name}, annotations=annotations)


def first_videos(ground_truth: GroundTruth, num_videos: int) -> GroundTruth:
    """Return the videos with the lowest ids and their annotations. Raises ValueError for less than one."""
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}")
    videos = dict(list(ground_truth.videos.items())[:num_videos])
    annotations = tuple(track for track in ground_truth.annotations if track.video_id in videos)
    return replace(ground_truth, videos=videos, annotations=annotations)


def to_json(ground_truth: GroundTruth) -> dict[str, Any]:
    """Return the ground truth in the YouTube-VIS format; `read_ground_truth` reads it back equal.

    Areas are those of the masks.
    """
    return {
        "videos": [
            {
                "id": video.id,
                "height": video.height,
                "width": video.width,
                "length": video.length,
                "file_names": list(video.file_names),
            }
            for video in ground_truth.videos.values()
        ],
        "categories": [{"id": number, "name": name} for number, name in ground_truth.categories.items()],
        "annotations": [_annotation(track, ground_truth.videos) for track in ground_truth.annotations],
    }


def _annotation(track: MaskTrack, videos: Mapping[int, Video]) -> dict[str, Any]:
    video = videos[track.video_id]
    return {
        "id": track.id,
        "video_id": track.video_id,
        "category_id": track.category_id,
        "iscrowd": int(track.is_crowd),
        "areas": [int(area) if area else None for area in track.areas],
        "segmentations": [coco_rle(text, video.height, video.width) for text in track.counts],
    }


def coco_rle(counts: bytes | None, height: int, width: int) -> dict[str, Any] | None:
    """Return a mask as JSON can hold it, None where there is none."""
    return None if counts is None else {"size": [height, width], "counts": counts.decode("ascii")}
