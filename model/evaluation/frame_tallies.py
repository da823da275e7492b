"""What every single frame adds to the metrics of `frame_metrics`.

Their sums over any choice of frames give the metrics of that choice. An interval by resampling needs many
choices; matching is done once for all of them.

F frames, D detected and G annotated tracks of one video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.dataset import GroundTruth, MaskTrack, Video
from model.evaluation.identity import NOBODY, correspond, identity_hits_by_frame
from model.evaluation.masks import box_heights, intersections
from model.evaluation.ytvis_ap import (
    MAX_DETECTIONS,
    Comparison,
    Matches,
    average_precision_50,
    ious_of,
    match_50,
)

LEAST_IOU = 0.5


@dataclass(frozen=True, eq=False)
class FrameTally:
    """One frame of one video."""

    video_id: int
    place: int
    """Of the frame in its video, from 0."""
    num_wanted: int
    """Objects that it shows."""
    num_claimed: int
    """Masks of detections that count."""
    num_claimed_right: int
    num_identity_hits: int
    """Objects covered by the one detected track that serves them best over the whole video."""
    pairs: tuple[tuple[int, int], ...]
    """Ids of the annotation and of the result that cover one another."""
    ranked: dict[int, Matches]
    """Category → the frame's masks as AP50 ranks them."""


@dataclass(frozen=True, eq=False)
class ObjectTally:
    """One annotated object of one video."""

    mean_height: float
    """Pixels, over the frames that show it."""
    num_wanted: int
    num_found: int


@dataclass(frozen=True, eq=False)
class VideoTally:
    """One video."""

    frames: tuple[FrameTally, ...]
    """All of them in order; none where the video has no track at all."""
    objects: tuple[ObjectTally, ...]
    num_switches: int
    num_detected_tracks: int


def tally(
    truth: GroundTruth, tracks: Sequence[MaskTrack], *, min_score: float, use_categories: bool
) -> list[VideoTally]:
    """Return what each video of the ground truth adds; see `frame_metrics` for the options."""
    annotated, detected = _by_video(truth.annotations), _by_video(tracks)
    tallies = []
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
        ranked = _rank(claimed, wanted, shared, use_categories=use_categories)
        good = [index for index, track in enumerate(claimed) if track.score >= min_score]
        tallies.append(
            _tally_video(video, [claimed[index] for index in good], wanted, shared[:, good], ranked)
        )
    return tallies


def metrics_of_frames(tallies: Sequence[FrameTally]) -> dict[str, float]:
    """AP50, recall, precision, IDF1, id_precision and id_recall of these frames, as `frame_metrics` does."""
    ranked: defaultdict[int, list[Matches]] = defaultdict(list)
    for each in tallies:
        for category, matches in each.ranked.items():
            ranked[category].append(matches)
    num_wanted = sum(each.num_wanted for each in tallies)
    num_claimed = sum(each.num_claimed for each in tallies)
    num_hits = sum(each.num_identity_hits for each in tallies)
    return {
        "AP50": average_precision_50(ranked),
        "recall": share(sum(len(each.pairs) for each in tallies), num_wanted),
        "precision": share(sum(each.num_claimed_right for each in tallies), num_claimed),
        "IDF1": share(2 * num_hits, num_wanted + num_claimed),
        "id_precision": share(num_hits, num_claimed),
        "id_recall": share(num_hits, num_wanted),
    }


def share(part: int, whole: int) -> float:
    """Part of whole in 0..1, −1 of nothing."""
    return part / whole if whole else -1.0


def _by_video(tracks: Iterable[MaskTrack]) -> defaultdict[int, list[MaskTrack]]:
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


def _rank(
    claimed: Sequence[MaskTrack],
    wanted: Sequence[MaskTrack],
    shared: NDArray[np.int64],
    *,
    use_categories: bool,
) -> list[dict[int, Matches]]:
    """Match each frame as if it were a video of one frame, so that AP50 ranks masks instead of tracks."""
    own, other = _areas(claimed, len(shared)), _areas(wanted, len(shared))
    scores = np.array([track.score for track in claimed], np.float64)
    crowds = np.array([track.is_crowd for track in wanted], np.bool_)
    ranking = np.argsort(-scores, kind="stable")
    detected = np.array([track.category_id if use_categories else 0 for track in claimed], np.int64)
    annotated = np.array([track.category_id if use_categories else 0 for track in wanted], np.int64)
    by_frame: list[dict[int, Matches]] = [{} for _ in shared]
    for category in np.union1d(detected, annotated).tolist():
        rows, columns = ranking[detected[ranking] == category], np.flatnonzero(annotated == category)
        for frame, ranked in enumerate(by_frame):
            seen = rows[own[frame, rows] > 0][: MAX_DETECTIONS[-1]]
            shown = columns[other[frame, columns] > 0]
            if not len(seen) and not len(shown):
                continue
            pairs = shared[frame][np.ix_(seen, shown)]
            ious = ious_of(pairs, own[frame, seen], other[frame, shown])
            # As for precision, and as COCO has it for images: who is half in a crowd belongs to it, however
            # large it is. (Whole videos keep YouTube-VIS's habit, the IoU.)
            in_crowd = pairs / np.maximum(own[frame, seen][:, None], 1)
            ious = np.where(crowds[shown], in_crowd, ious)
            ranked[category] = match_50(
                Comparison(
                    scores=scores[seen],
                    areas=own[frame, seen].astype(np.float64),
                    annotated_areas=other[frame, shown].astype(np.float64),
                    is_crowd=crowds[shown],
                    ious=ious,
                )
            )
    return by_frame


def _tally_video(
    video: Video,
    claimed: Sequence[MaskTrack],
    wanted: Sequence[MaskTrack],
    shared: NDArray[np.int64],
    ranked: Sequence[dict[int, Matches]],
) -> VideoTally:
    """Match the frames of one video and say what comes of it."""
    real = [place for place, track in enumerate(wanted) if not track.is_crowd]
    crowds = [place for place, track in enumerate(wanted) if track.is_crowd]
    objects = [wanted[place] for place in real]
    ious = _frame_ious(claimed, objects, shared[:, :, real])
    matching = correspond(ious, least_iou=LEAST_IOU)
    found = matching.detection != NOBODY  # (F, G)
    visible = _areas(objects, len(shared)) > 0

    # Half of it in a crowd and covering nobody: neither right nor wrong.
    areas = _areas(claimed, len(shared))
    right = np.zeros(areas.shape, np.bool_)
    frames, columns = np.nonzero(found)
    right[frames, matching.detection[frames, columns]] = True
    in_crowd = (shared[:, :, crowds] * 2 >= areas[:, :, None]).any(axis=2)
    counts = (areas > 0) & (right | ~in_crowd)
    hits = identity_hits_by_frame(ious >= LEAST_IOU)
    tallies = []
    for place in range(len(shared)):
        pairs: Any = zip(np.flatnonzero(found[place]), matching.detection[place, found[place]], strict=True)
        tallies.append(
            FrameTally(
                video_id=video.id,
                place=place,
                num_wanted=int(visible[place].sum()),
                num_claimed=int(counts[place].sum()),
                num_claimed_right=int(right[place].sum()),
                num_identity_hits=int(hits[place]),
                pairs=tuple((objects[column].id, claimed[row].id) for column, row in pairs),
                ranked=ranked[place],
            )
        )
    return VideoTally(
        frames=tuple(tallies),
        objects=tuple(
            ObjectTally(
                mean_height=float(_heights(track, video)[visible[:, column]].mean()),
                num_wanted=int(visible[:, column].sum()),
                num_found=int(found[:, column].sum()),
            )
            for column, track in enumerate(objects)
        ),
        num_switches=matching.num_switches,
        num_detected_tracks=len(claimed),
    )


def _heights(track: MaskTrack, video: Video) -> NDArray[np.float64]:
    """(F,) pixels."""
    return box_heights(track.counts, height=video.height, width=video.width)
