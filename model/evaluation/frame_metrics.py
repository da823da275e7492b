"""Figures frame by frame over YouTube-VIS JSON: AP50, recall by object height, IDF1, id switches.

The YouTube-VIS AP judges whole tracks: one id switch halves it and hides whether the masks were right. These
say the two apart: masks (AP50 and recall of single frames) and identities (IDF1 and switches).

F frames, D detected and G annotated tracks of one video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.dataset import GroundTruth, Json, MaskTrack, Video, read_ground_truth, read_results
from model.evaluation.identity import NOBODY, correspond, identity_hits
from model.evaluation.masks import box_heights, intersections
from model.evaluation.ytvis_ap import MAX_DETECTIONS, Comparison, average_precision_50, ious_of

LEAST_IOU = 0.5
HEIGHTS = (0, 12, 24, 48, 96)
"""Bounds of the ranges of object height in pixels; the last range has no end."""


class _Counts:
    """Sums over videos."""

    def __init__(self, num_ranges: int) -> None:
        self.num_wanted = 0
        """Object frames: an object in a frame that shows it."""
        self.num_found = 0
        self.wanted_by_height = np.zeros(num_ranges, np.int64)
        self.found_by_height = np.zeros(num_ranges, np.int64)
        self.tracks_by_height = np.zeros(num_ranges, np.int64)
        self.num_claimed = 0
        """Masks of detections that count, over all frames."""
        self.num_claimed_right = 0
        self.num_identity_hits = 0
        self.num_switches = 0
        self.num_tracks = 0
        self.num_detected_tracks = 0


def frame_metrics(
    ground_truth: GroundTruth | str | Path | Json,
    results: Sequence[MaskTrack] | str | Path | Sequence[Json],
    *,
    heights: Sequence[float] = HEIGHTS,
    min_score: float = 0.0,
    use_categories: bool = True,
) -> dict[str, Any]:
    """Return figures of single frames and of identities; shares in 0..1, −1 where nothing is to be found.

    AP50: average precision of the masks of single frames at IoU 0.5, mean over categories.
    recall, precision: share of the objects' frames that are covered by, and of the detections' masks that
    cover, one another with IoU ≥ 0.5, one to one. recall_by_height: the same recall by an object's mean box
    height in pixels, a list of {min, max, recall, num_frames, num_tracks}, max null for the last.
    IDF1, id_precision, id_recall, num_id_switches: see `identity`; id_recall is the share of the objects'
    frames covered by the one id that serves them best: ids kept.

    Detections below `min_score` count for AP50 alone, which ranks. Without `use_categories` all are one.
    Raises DatasetError for bad files, ValueError for bounds that do not rise.
    """
    bounds = [float(each) for each in heights]
    if not bounds or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"heights must rise, e.g. 0 24 48, got {list(heights)}")
    truth = ground_truth if isinstance(ground_truth, GroundTruth) else read_ground_truth(ground_truth)
    tracks = _read(results, truth)
    annotated, detected = _by_video(truth.annotations), _by_video(tracks)
    comparisons: defaultdict[int, list[Comparison]] = defaultdict(list)
    counts = _Counts(len(bounds))
    for video in truth.videos.values():
        wanted, claimed = annotated[video.id], detected[video.id]
        shared = intersections(
            [track.counts for track in claimed],
            [track.counts for track in wanted],
            height=video.height,
            width=video.width,
        )
        if not shared.shape[0]:
            continue
        if use_categories:
            same = np.array([[a.category_id == b.category_id for b in wanted] for a in claimed], np.bool_)
            shared *= same.reshape(shared.shape[1:])
        _compare_frames(comparisons, claimed, wanted, shared, use_categories=use_categories)
        good = [index for index, track in enumerate(claimed) if track.score >= min_score]
        _count(counts, [claimed[index] for index in good], wanted, shared[:, good], video, bounds)
    return {
        "AP50": average_precision_50(comparisons),
        "recall": _share(counts.num_found, counts.num_wanted),
        "precision": _share(counts.num_claimed_right, counts.num_claimed),
        "recall_by_height": [
            {
                "min": low,
                "max": None if high == inf else high,
                "recall": _share(int(counts.found_by_height[place]), int(counts.wanted_by_height[place])),
                "num_frames": int(counts.wanted_by_height[place]),
                "num_tracks": int(counts.tracks_by_height[place]),
            }
            for place, (low, high) in enumerate(pairwise([*bounds, inf]))
        ],
        "IDF1": _share(2 * counts.num_identity_hits, counts.num_wanted + counts.num_claimed),
        "id_precision": _share(counts.num_identity_hits, counts.num_claimed),
        "id_recall": _share(counts.num_identity_hits, counts.num_wanted),
        "num_id_switches": counts.num_switches,
        "num_tracks": counts.num_tracks,
        "num_detected_tracks": counts.num_detected_tracks,
        "num_object_frames": counts.num_wanted,
    }


def _read(results: Any, truth: GroundTruth) -> tuple[MaskTrack, ...]:
    """Return checked tracks; what is none of ours is read as results."""
    if isinstance(results, list | tuple) and results and all(isinstance(each, MaskTrack) for each in results):
        return tuple(results)
    return read_results(results, truth)


def _by_video(tracks: Sequence[MaskTrack]) -> defaultdict[int, list[MaskTrack]]:
    grouped: defaultdict[int, list[MaskTrack]] = defaultdict(list)
    for track in tracks:
        grouped[track.video_id].append(track)
    return grouped


def _frame_ious(
    claimed: Sequence[MaskTrack], wanted: Sequence[MaskTrack], shared: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (F, D, G) IoU of each pair in each frame."""
    own, other = _areas(claimed, len(shared)), _areas(wanted, len(shared))
    union = own[:, :, None] + other[:, None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 0.0)


def _areas(tracks: Sequence[MaskTrack], num_frames: int) -> NDArray[np.int64]:
    """Return (F, N) areas."""
    return np.array([track.areas for track in tracks], np.int64).reshape(len(tracks), num_frames).T


def _compare_frames(
    comparisons: defaultdict[int, list[Comparison]],
    claimed: Sequence[MaskTrack],
    wanted: Sequence[MaskTrack],
    shared: NDArray[np.int64],
    *,
    use_categories: bool,
) -> None:
    """Add each frame as a video of one frame, so that AP50 ranks masks instead of tracks."""
    own, other = _areas(claimed, len(shared)), _areas(wanted, len(shared))
    scores = np.array([track.score for track in claimed], np.float64)
    crowds = np.array([track.is_crowd for track in wanted], np.bool_)
    ranking = np.argsort(-scores, kind="stable")
    detected = np.array([track.category_id if use_categories else 0 for track in claimed], np.int64)
    annotated = np.array([track.category_id if use_categories else 0 for track in wanted], np.int64)
    for category in np.union1d(detected, annotated).tolist():
        rows, columns = ranking[detected[ranking] == category], np.flatnonzero(annotated == category)
        for frame in range(len(shared)):
            seen = rows[own[frame, rows] > 0][: MAX_DETECTIONS[-1]]
            shown = columns[other[frame, columns] > 0]
            if not len(seen) and not len(shown):
                continue
            pairs = shared[frame][np.ix_(seen, shown)]
            comparisons[category].append(
                Comparison(
                    scores=scores[seen],
                    areas=own[frame, seen].astype(np.float64),
                    annotated_areas=other[frame, shown].astype(np.float64),
                    is_crowd=crowds[shown],
                    ious=ious_of(pairs, own[frame, seen], other[frame, shown]),
                )
            )


def _count(
    counts: _Counts,
    claimed: Sequence[MaskTrack],
    wanted: Sequence[MaskTrack],
    shared: NDArray[np.int64],
    video: Video,
    bounds: Sequence[float],
) -> None:
    """Match the frames of one video and add what comes of it."""
    real = [place for place, track in enumerate(wanted) if not track.is_crowd]
    crowds = [place for place, track in enumerate(wanted) if track.is_crowd]
    objects = [wanted[place] for place in real]
    ious = _frame_ious(claimed, objects, shared[:, :, real])
    matching = correspond(ious, least_iou=LEAST_IOU)
    found = matching.detection != NOBODY  # (F, G)
    counts.num_switches += matching.num_switches
    counts.num_tracks += len(objects)
    counts.num_detected_tracks += len(claimed)

    visible = _areas(objects, len(shared)) > 0
    counts.num_wanted += int(visible.sum())
    counts.num_found += int(found.sum())
    for column, track in enumerate(objects):
        heights = box_heights(track.counts, height=video.height, width=video.width)
        height = heights[visible[:, column]].mean()
        place = int(np.searchsorted(bounds, height, side="right")) - 1
        if place >= 0:
            counts.wanted_by_height[place] += int(visible[:, column].sum())
            counts.found_by_height[place] += int(found[:, column].sum())
            counts.tracks_by_height[place] += 1

    # Half of it in a crowd and covering nobody: neither right nor wrong.
    areas = _areas(claimed, len(shared))
    right = np.zeros(areas.shape, np.bool_)
    frames, columns = np.nonzero(found)
    right[frames, matching.detection[frames, columns]] = True
    in_crowd = (shared[:, :, crowds] * 2 >= areas[:, :, None]).any(axis=2)
    counts.num_claimed += int(((areas > 0) & (right | ~in_crowd)).sum())
    counts.num_claimed_right += int(right.sum())
    counts.num_identity_hits += identity_hits(ious >= LEAST_IOU)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0
