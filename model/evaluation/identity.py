"""Who is who over time: per-frame matching of tracks, id switches and IDF1, on masks.

Sources: the CLEAR MOT matching (Bernardin, Stiefelhagen 2008) keeps a pair while it overlaps and matches the
rest by best overlap; IDF1 (Ristani et al. 2016) gives each object one id over the whole video. What differs:
a pair overlaps where the IoU of the masks, not of the boxes, reaches the threshold. Detections in crowd
regions are not counted.

F frames, D detected and G annotated tracks of one video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

NOBODY = -1


@dataclass(frozen=True, eq=False)
class Correspondence:
    """The per-frame matching of one video."""

    detection: NDArray[np.intp]
    """(F, G) which detected track covers an annotated one in a frame; NOBODY where none does."""
    num_switches: int
    """How often an annotated track's detection differs from the last one it had."""


def correspond(ious: NDArray[np.float64], *, least_iou: float) -> Correspondence:
    """Match tracks frame by frame: ious (F, D, G), 0 where a track has no mask in a frame."""
    num_frames, _, num_annotated = ious.shape
    found = np.full((num_frames, num_annotated), NOBODY, np.intp)
    last = np.full(num_annotated, NOBODY, np.intp)
    before = last.copy()
    num_switches = 0
    for frame in range(num_frames):
        near = ious[frame] >= least_iou
        for column in np.flatnonzero(before != NOBODY):
            if near[before[column], column]:
                found[frame, column] = before[column]
        kept = found[frame] != NOBODY
        open_pairs = near & ~kept
        open_pairs[found[frame, kept]] = False
        for pair in _assign(ious[frame], open_pairs):
            found[frame, pair[1]] = pair[0]
        seen = found[frame] != NOBODY
        num_switches += int(((last != NOBODY) & seen & (last != found[frame])).sum())
        last[seen] = found[frame, seen]
        before = found[frame]
    return Correspondence(found, num_switches)


def identity_hits_by_frame(near: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (F,): what each frame adds to IDTP, the frames covered when each object keeps one detection.

    near (F, D, G): whether a pair overlaps in a frame. Pairs are one to one and hold over the whole video;
    those are chosen that cover most frames in sum.
    """
    frames = near.sum(axis=0)  # (D, G)
    if not frames.any():
        return np.zeros(len(near), np.int64)
    rows, columns = linear_sum_assignment(frames, maximize=True)
    return np.asarray(near[:, rows, columns].sum(axis=1), np.int64)


def _assign(worth: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return as many allowed pairs as can be, of these the ones with the largest worth (0..1) in sum."""
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    if not len(rows):
        return []
    inner = np.ix_(rows, columns)
    # A pair counts more than all the overlap that one may win by leaving it out.
    bonus = min(len(rows), len(columns)) + 1
    gain = np.where(allowed[inner], worth[inner] + bonus, 0.0)
    chosen = zip(*linear_sum_assignment(gain, maximize=True), strict=True)
    return [(int(rows[i]), int(columns[j])) for i, j in chosen if gain[i, j] > 0]
