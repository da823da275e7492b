"""The YouTube-VIS average precision and recall: COCO's, with the overlap taken over space and time.

Source: the definition in "Video Instance Segmentation" (Yang, Fan, Xu, ICCV 2019) and COCO's matching rules,
down to ties, so that metrics equal those of the canonical evaluation. Two of its habits are unexpected: a
crowd's overlap is the plain IoU (COCO divides by the detection's own area), and area ranges compare a track's
mean area with 128² and 256² pixels.

K categories, T IoU thresholds, R recall thresholds; of one video and category D detections, G annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.dataset import GroundTruth, MaskTrack, Video
from model.evaluation.masks import intersections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
"""Detections of a video and category that count, best score first."""
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 128.0**2),
    "medium": (128.0**2, 256.0**2),
    "large": (256.0**2, 1e10),
}
"""Mean area in pixels, both bounds inside."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The detections and annotations of one category in one video (or one frame), best score first."""

    scores: NDArray[np.float64]
    """(D,) falling."""
    areas: NDArray[np.float64]
    """(D,) mean areas."""
    annotated_areas: NDArray[np.float64]
    """(G,) mean areas."""
    is_crowd: NDArray[np.bool_]
    """(G,)"""
    ious: NDArray[np.float64]
    """(D, G)"""


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the detections of a Comparison in one area range."""

    scores: NDArray[np.float64]
    """(D,)"""
    matched: NDArray[np.bool_]
    """(T, D)"""
    ignored: NDArray[np.bool_]
    """(T, D) neither right nor wrong."""
    num_wanted: int
    """Annotations to be found."""


def evaluate(ground_truth: GroundTruth, results: Sequence[MaskTrack]) -> dict[str, float]:
    """Return AP, AP50, AP75, AP by area, AR at 1, 10 and 100 detections and AR by area, in 0..1.

    A metric without any annotation to be found (no large object, say) is −1.
    """
    return summarise(compare(ground_truth, results))


def compare(ground_truth: GroundTruth, results: Sequence[MaskTrack]) -> dict[int, list[Comparison]]:
    """Return category id → comparisons of the videos that show or claim it, by rising video id."""
    annotations: defaultdict[tuple[int, int], list[MaskTrack]] = defaultdict(list)
    detections: defaultdict[tuple[int, int], list[MaskTrack]] = defaultdict(list)
    for track in ground_truth.annotations:
        annotations[track.category_id, track.video_id].append(track)
    for track in results:
        detections[track.category_id, track.video_id].append(track)
    comparisons: dict[int, list[Comparison]] = {category: [] for category in ground_truth.categories}
    for category, video in sorted(annotations.keys() | detections.keys()):
        comparisons[category].append(
            compare_tracks(
                detections[category, video], annotations[category, video], ground_truth.videos[video]
            )
        )
    return comparisons


def compare_tracks(
    detections: Sequence[MaskTrack], annotations: Sequence[MaskTrack], video: Video
) -> Comparison:
    """Compare the tracks of one category in one video by their IoU in space and time.

    IoU(d, g) = Σ_t |d_t ∩ g_t| / Σ_t |d_t ∪ g_t|, and 0 where both are empty.
    """
    detections = best_first(detections)
    shared = intersections(
        [track.counts for track in detections],
        [track.counts for track in annotations],
        height=video.height,
        width=video.width,
    ).sum(axis=0)  # (D, G)
    own = np.array([track.areas.sum() for track in detections], np.int64)
    wanted = np.array([track.areas.sum() for track in annotations], np.int64)
    return Comparison(
        scores=np.array([track.score for track in detections], np.float64),
        areas=np.array([track.mean_area for track in detections], np.float64),
        annotated_areas=np.array([track.mean_area for track in annotations], np.float64),
        is_crowd=np.array([track.is_crowd for track in annotations], np.bool_),
        ious=ious_of(shared, own, wanted),
    )


def best_first(tracks: Sequence[MaskTrack]) -> list[MaskTrack]:
    """Return the best tracks that count, equal scores in the order of the file."""
    return sorted(tracks, key=lambda track: -track.score)[: MAX_DETECTIONS[-1]]


def ious_of(
    shared: NDArray[np.int64], own: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (D, G) IoU of shared (D, G), own (D,) and wanted (G,) pixels; 0 where both are empty."""
    union = own[:, None] + wanted - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 0.0)


def match(
    comparison: Comparison, area_range: tuple[float, float], thresholds: NDArray[np.float64]
) -> Matches:
    """Give each detection, best score first, the best annotation that is still free, at each IoU threshold.

    A detection that finds no other annotation may match a crowd or one outside of the area range; then both
    are ignored. A crowd takes any number of detections. An unmatched detection outside of the range is
    ignored too. Of equal overlaps the last annotation wins.
    """
    low, high = area_range
    areas = comparison.annotated_areas
    is_ignored = comparison.is_crowd | (areas < low) | (areas > high)
    num_detections, num_annotations = comparison.ious.shape
    matched = np.zeros((len(thresholds), num_detections), np.bool_)
    ignored = np.zeros_like(matched)
    free = np.ones((len(thresholds), num_annotations), np.bool_)
    rows = np.arange(len(thresholds))
    least = np.minimum(thresholds, 1 - 1e-10)
    # Most detections reach nobody.
    reaching = np.flatnonzero((comparison.ious >= least.min()).any(axis=1)) if num_annotations else ()
    for detection in reaching:
        ious = comparison.ious[detection]
        allowed = free & (ious >= least[:, None])
        proper = allowed & ~is_ignored
        # Where nothing proper is left, what is ignored may be taken.
        allowed = np.where(proper.any(axis=1, keepdims=True), proper, allowed)
        worth = np.where(allowed, ious, -1.0)
        best = num_annotations - 1 - worth[:, ::-1].argmax(axis=1)
        found = allowed[rows, best]
        matched[:, detection] = found
        ignored[:, detection] = found & is_ignored[best]
        free[rows[found], best[found]] = comparison.is_crowd[best[found]]
    outside = (comparison.areas < low) | (comparison.areas > high)
    return Matches(comparison.scores, matched, ignored | (~matched & outside), int((~is_ignored).sum()))


def precision_recall(
    matches: Sequence[Matches], *, max_detections: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return precision at each recall threshold (T, R) and the largest recall (T,); None: nothing to find."""
    num_wanted = sum(each.num_wanted for each in matches)
    if num_wanted == 0:
        return None
    scores = np.concatenate([each.scores[:max_detections] for each in matches])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([each.matched[:, :max_detections] for each in matches], axis=1)[:, order]
    ignored = np.concatenate([each.ignored[:, :max_detections] for each in matches], axis=1)[:, order]
    num_thresholds = len(matched)
    precision = np.zeros((num_thresholds, len(RECALL_THRESHOLDS)))
    if not len(order):
        return precision, np.zeros(num_thresholds)
    right = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    recalls = right / num_wanted
    # The spacing keeps 0 / 0 a 0, as the canonical code has it.
    precisions = right / (right + wrong + np.spacing(1))
    # Precision at a recall: the best that any larger recall has.
    precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for row in range(num_thresholds):
        places = np.searchsorted(recalls[row], RECALL_THRESHOLDS, side="left")
        reached = places < len(order)
        precision[row, reached] = precisions[row, places[reached]]
    return precision, recalls[:, -1]


def summarise(comparisons: Mapping[int, Sequence[Comparison]]) -> dict[str, float]:
    """Return the twelve metrics of the comparisons by category."""
    precisions: dict[str, list[NDArray[np.float64]]] = {name: [] for name in AREA_RANGES}
    recalls: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*AREA_RANGES, "1", "10")}
    for of_category in comparisons.values():
        for name, area_range in AREA_RANGES.items():
            matches = [match(each, area_range, IOU_THRESHOLDS) for each in of_category]
            curves = precision_recall(matches, max_detections=MAX_DETECTIONS[-1])
            if curves is None:
                continue
            precisions[name].append(curves[0])
            recalls[name].append(curves[1])
            for limit in MAX_DETECTIONS[:-1] if name == "all" else ():
                fewer = precision_recall(matches, max_detections=limit)
                assert fewer is not None
                recalls[str(limit)].append(fewer[1])
    at_75 = int(np.argmin(abs(IOU_THRESHOLDS - 0.75)))
    return {
        "AP": _mean(precisions["all"]),
        "AP50": _mean([each[0] for each in precisions["all"]]),
        "AP75": _mean([each[at_75] for each in precisions["all"]]),
        "AP_small": _mean(precisions["small"]),
        "AP_medium": _mean(precisions["medium"]),
        "AP_large": _mean(precisions["large"]),
        "AR1": _mean(recalls["1"]),
        "AR10": _mean(recalls["10"]),
        "AR100": _mean(recalls["all"]),
        "AR_small": _mean(recalls["small"]),
        "AR_medium": _mean(recalls["medium"]),
        "AR_large": _mean(recalls["large"]),
    }


def match_50(comparison: Comparison) -> Matches:
    """Match at IoU 0.5, whatever the area."""
    return match(comparison, AREA_RANGES["all"], IOU_THRESHOLDS[:1])


def average_precision_50(matches_by_category: Mapping[int, Sequence[Matches]]) -> float:
    """Return the mean over categories of the average precision of `match_50`; −1 where nothing is wanted."""
    precisions = []
    for matches in matches_by_category.values():
        curves = precision_recall(matches, max_detections=MAX_DETECTIONS[-1])
        if curves is not None:
            precisions.append(curves[0])
    return _mean(precisions)


def _mean(values: Sequence[NDArray[np.float64]]) -> float:
    return float(np.mean(values)) if len(values) else -1.0
