"""Metrics of the real benchmark: masks and ids, names, boxes of all people, and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from benchmarks.box_tracker import Boxes, box_ious, box_shares
from benchmarks.real import runs
from benchmarks.real.intervals import intervals
from benchmarks.real.people_boxes import PeopleBoxes
from benchmarks.real.runs import Found

from model.evaluation.frame_metrics import frame_metrics, frame_tallies
from model.evaluation.frame_tallies import metrics_of_frames, share
from model.evaluation.identity import NOBODY, correspond
from ops.rle import encode_crop

KEYS = ("AP50", "recall", "precision", "IDF1", "id_recall", "num_id_switches", "num_object_frames")
WITH_INTERVAL = ("AP50", "recall", "precision", "IDF1")

NAMES_APART = "roof"
"""A shot seen from above, whose vehicles fill the picture: its names are judged by themselves."""

LEAST_BOX_IOU = 0.5
BOX_BLOCK_FRAMES = 1
"""Frames with boxes of everybody lie five seconds apart."""


def mask_metrics(
    labels: Mapping[str, Any],
    by_video: Mapping[int, Found],
    *,
    kinds: tuple[str, ...] | None = None,
    with_intervals: bool = False,
) -> dict[str, Any]:
    """`frame_metrics` of what was found in the labels' videos, names aside; what is not of `kinds` counts for
    nobody. with_intervals adds `intervals` of the metrics that have some."""
    chosen = runs.select(labels, kinds=kinds)
    results = runs.results_by_video(chosen, by_video)
    metrics = frame_metrics(chosen, results, use_categories=False)
    if with_intervals:
        tallies = frame_tallies(chosen, results, use_categories=False)
        videos = [list(frames) for _, frames in groupby(tallies, key=lambda each: each.video_id)]
        found = intervals(videos, metrics_of_frames)
        metrics["intervals"] = {name: found[name] for name in WITH_INTERVAL if name in found}
    return metrics


def name_metrics(labels: Mapping[str, Any], by_video: Mapping[int, Found]) -> dict[str, Any]:
    """The share of right names among the found masks that cover an object, and how many there are.

    A rider is right as a person and as what is ridden. The shot `NAMES_APART` counts only where it is alone.
    What names nothing is left out: −1.
    """
    videos = [video for video in labels["videos"] if video["name"] != NAMES_APART] or labels["videos"]
    chosen = runs.select(labels, {video["id"] for video in videos})
    results = runs.results_by_video(chosen, by_video)
    annotations = {each["id"]: each for each in chosen["annotations"]}
    indices = {video["id"]: video["frame_indices"] for video in videos}
    num_right = num_named = 0
    for tally in frame_tallies(chosen, results, use_categories=False):
        index = indices[tally.video_id][tally.place]
        names = {each.track_id: each.name for each in by_video[tally.video_id].get(index, [])}
        for annotation_id, result_id in tally.pairs:
            name = names[results[result_id - 1]["track_id"]]
            if name is not None:
                label = annotations[annotation_id]
                num_named += 1
                num_right += name in (label["name"], label.get("rides"))
    return {"right": share(num_right, num_named), "num_named": num_named}


class BoxTally(NamedTuple):
    """One frame in which everybody has a box."""

    num_people: int
    num_found: int
    num_claimed: int
    """Boxes that count."""


def box_metrics(frames: Sequence[PeopleBoxes], found: Found) -> dict[str, Any]:
    """Recall and precision of the masks' boxes against those of all people, one to one at IoU 0.5.

    What covers nobody and lies by half in an ignored box is ignored, too.
    """
    tallies = [tally_boxes(frame, found) for frame in frames]
    return {
        **_box_shares(tallies),
        "num_people": sum(each.num_people for each in tallies),
        "num_frames": len(tallies),
        "intervals": intervals([tallies], _box_shares, block_frames=BOX_BLOCK_FRAMES),
    }


def tally_boxes(frame: PeopleBoxes, found: Found) -> BoxTally:
    """Match the boxes of one frame."""
    crops = [encode_crop(each.mask, 0, 0) for each in found.get(frame.index, [])]
    boxes = _rows([crop.box_xyxy for crop in crops if not crop.is_empty])
    ious = box_ious(boxes, _rows(frame.people))
    matched = correspond(ious[None], least_iou=LEAST_BOX_IOU).detection[0]
    right = np.zeros(len(boxes), np.bool_)
    right[matched[matched != NOBODY]] = True
    ignored = (box_shares(boxes, _rows(frame.ignore)) >= 0.5).any(axis=1)
    return BoxTally(len(frame.people), int(right.sum()), int((right | ~ignored).sum()))


def _box_shares(tallies: Sequence[BoxTally]) -> dict[str, float]:
    num_found = sum(each.num_found for each in tallies)
    return {
        "recall": share(num_found, sum(each.num_people for each in tallies)),
        "precision": share(num_found, sum(each.num_claimed for each in tallies)),
    }


def _rows(boxes: Sequence[tuple[int, int, int, int]]) -> Boxes:
    """(N, 4)."""
    return np.array(boxes, np.float64).reshape(-1, 4)
