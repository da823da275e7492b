"""Who is who by boxes alone: Hungarian matching by IoU, constant velocity, and a time that a track outlives unseen.

The tracker of the benchmark's peers. Boxes are xyxy in pixels, right and lower edge outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class PeerInstance:
    """What a peer finds in a frame."""

    track_id: int
    """Never given again."""
    score: float
    """0..1."""
    mask: NDArray[np.bool_]
    """(H, W)."""
    name: str | None = None
    """Of COCO's classes; None from who names nothing."""


@dataclass
class _Track:
    id: int
    box: Boxes
    velocity: Boxes
    misses: int = 0


class BoxTracker:
    """One source's tracks."""

    def __init__(self, *, match_iou: float, lost_frames: int) -> None:
        """match_iou: least IoU for keeping an id, of the box moved on by its velocity.
        lost_frames: frames that a track outlives unseen."""
        self._match_iou = match_iou
        self._lost_frames = lost_frames
        self._tracks: list[_Track] = []
        self._num_ids = 0

    def forget(self) -> None:
        """Start over, as at a cut; ids are never given again."""
        self._tracks = []

    def update(self, boxes: Sequence[Boxes]) -> list[int]:
        """Give each box of the next frame, (4,), the id of the track that it continues, or a new one."""
        tracks = self._tracks
        owners: dict[int, _Track] = {}
        if tracks and len(boxes):
            predicted = np.stack([each.box + each.velocity * (1 + each.misses) for each in tracks])
            ious = box_ious(predicted, np.stack(boxes))
            rows, columns = linear_sum_assignment(-ious)
            for row, place in zip(rows.tolist(), columns.tolist(), strict=True):
                if ious[row, place] >= self._match_iou:
                    owners[place] = tracks[row]
        matched = {id(each) for each in owners.values()}
        for track in tracks:
            if id(track) not in matched:
                track.misses += 1
        for column, box in enumerate(boxes):
            if column in owners:
                track = owners[column]
                step = (box - track.box) / (1 + track.misses)
                track.velocity = 0.5 * track.velocity + 0.5 * step
                track.box, track.misses = box, 0
            else:
                self._num_ids += 1
                owners[column] = _Track(self._num_ids, box, np.zeros(4))
                tracks.append(owners[column])
        self._tracks = [each for each in tracks if each.misses <= self._lost_frames]
        return [owners[column].id for column in range(len(boxes))]


def box_ious(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """IoU of each of N with each of M boxes; (N, M)."""
    shared = _shared(first, second)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-9), 0.0)


def box_shares(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Share of each of N boxes that lies in each of M; (N, M)."""
    areas = np.prod(np.clip(first[:, 2:] - first[:, :2], 0, None), axis=1)
    shares: NDArray[np.float64] = _shared(first, second) / np.maximum(areas[:, None], 1e-9)
    return shares


def _shared(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    pixels: NDArray[np.float64] = np.prod(np.clip(high - low, 0, None), axis=2)
    return pixels
