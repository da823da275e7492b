"""Metrics frame by frame over YouTube-VIS JSON: AP50, recall by object height, IDF1, id switches.

The YouTube-VIS AP judges whole tracks: one id switch halves it and hides whether the masks were right. These
metrics keep the two apart: masks (AP50 and recall of single frames) and identities (IDF1 and switches).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from model.evaluation.dataset import GroundTruth, Json, MaskTrack, read_ground_truth, read_results
from model.evaluation.frame_tallies import FrameTally, ObjectTally, metrics_of_frames, share, tally

HEIGHTS = (0, 12, 24, 48, 96)
"""Bounds of the ranges of object height in pixels; the last range has no end."""


def frame_metrics(
    ground_truth: GroundTruth | str | Path | Json,
    results: Sequence[MaskTrack] | str | Path | Sequence[Json],
    *,
    heights: Sequence[float] = HEIGHTS,
    min_score: float = 0.0,
    use_categories: bool = True,
) -> dict[str, Any]:
    """Return metrics of single frames and of identities; shares in 0..1, −1 where nothing is to be found.

    AP50: average precision of the masks of single frames at IoU 0.5, mean over categories.
    recall, precision: in each frame, objects and detections are matched one to one where their masks have IoU
    ≥ 0.5. Recall is the matched share of the objects, precision that of the detections, over all frames.
    recall_by_height: the recall by an object's mean box height in pixels, a list of {min, max, recall,
    num_frames, num_tracks}; the last max is null.
    IDF1, id_precision, id_recall, num_id_switches: see `identity`. id_recall is the share of the objects'
    frames that are covered when each object keeps the one id that serves it best.

    Detections below `min_score` count for AP50 alone, which ranks. Without `use_categories` all categories
    count as one.
    Raises DatasetError for bad files, ValueError for bounds that do not rise.
    """
    bounds = [float(each) for each in heights]
    if not bounds or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"heights must rise, e.g. 0 24 48, got {list(heights)}")
    truth = ground_truth if isinstance(ground_truth, GroundTruth) else read_ground_truth(ground_truth)
    tracks = _read(results, truth)
    videos = tally(truth, tracks, min_score=min_score, use_categories=use_categories)
    frames = [frame for video in videos for frame in video.frames]
    objects = [each for video in videos for each in video.objects]
    return {
        **metrics_of_frames(frames),
        "recall_by_height": [_recall_between(objects, low, high) for low, high in pairwise([*bounds, inf])],
        "num_id_switches": sum(video.num_switches for video in videos),
        "num_tracks": len(objects),
        "num_detected_tracks": sum(video.num_detected_tracks for video in videos),
        "num_object_frames": sum(frame.num_wanted for frame in frames),
    }


def frame_tallies(
    ground_truth: GroundTruth | str | Path | Json,
    results: Sequence[MaskTrack] | str | Path | Sequence[Json],
    *,
    min_score: float = 0.0,
    use_categories: bool = True,
) -> list[FrameTally]:
    """Return what every frame adds to `frame_metrics`. Raises DatasetError for bad files."""
    truth = ground_truth if isinstance(ground_truth, GroundTruth) else read_ground_truth(ground_truth)
    videos = tally(truth, _read(results, truth), min_score=min_score, use_categories=use_categories)
    return [frame for video in videos for frame in video.frames]


def _recall_between(objects: Sequence[ObjectTally], low: float, high: float) -> dict[str, Any]:
    """Recall of the objects whose mean height lies in low <= height < high."""
    within = [each for each in objects if low <= each.mean_height < high]
    num_frames = sum(each.num_wanted for each in within)
    return {
        "min": low,
        "max": None if high == inf else high,
        "recall": share(sum(each.num_found for each in within), num_frames),
        "num_frames": num_frames,
        "num_tracks": len(within),
    }


def _read(results: Any, truth: GroundTruth) -> tuple[MaskTrack, ...]:
    """Return the tracks as they are where they are checked ones already; else read them as results."""
    if isinstance(results, list | tuple) and results and all(isinstance(each, MaskTrack) for each in results):
        return tuple(results)
    return read_results(results, truth)
