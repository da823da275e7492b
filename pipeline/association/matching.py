"""Which candidate continues which track: evidence, gates, similarity, assignment (docs/association.md).

Soft mask IoU on shared frames is IFC's and SeqFormer's, the embedding's cosine MinVIS's and IDOL's. Ours are
the gates, and that a track's mask is the mean over all windows that saw a frame.

N candidates, R rows of the track table, F real frames of the window of which the first k are shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.association.boxes import box_ious
from pipeline.association.candidates import Candidates, inner_products, soft_iou
from pipeline.association.tracks import TrackTable
from pipeline.config import AssociationConfig

_TINY = np.float32(1e-6)
_AHEAD_IOU = 0.3
"""Least overlap of a candidate's box with where a track's would be by now."""
_OTHER_KIND_IOU = 0.3
"""Least overlap for a match where the classes disagree."""


@dataclass(frozen=True, eq=False)
class Affinity:
    """How well candidates and table rows fit."""

    similarity: NDArray[np.float32]
    """(N, R) 0..1."""
    near: NDArray[np.bool_]
    """(N, R) pairs that a track seen in the last window may take."""
    far: NDArray[np.bool_]
    """(N, R) pairs that a lost track may take once the live ones have chosen."""
    shared: NDArray[np.bool_]
    """(N, R) pairs whose masks both show in a shared frame, so that the overlap alone decides."""


def measure(
    candidates: Candidates,
    table: TrackTable,
    places: NDArray[np.intp],
    *,
    config: AssociationConfig,
    reach: NDArray[np.float32],
    now_seconds: float,
) -> Affinity:
    """Compare all candidates with all table rows.

    `places` (k,) are the ring places of the shared frames, the window's first k; `reach` (R,) is how far, in
    source pixels, each row's centre may have moved; `now_seconds` is the newest frame's stream time.
    """
    rows = table.num_rows
    overlap, shared = _shared_overlap(candidates, table, places, rows)
    last = _last_overlap(candidates, table, rows, first_new=len(places))
    ahead = box_ious(candidates.boxes, table.predicted_boxes(now_seconds))
    last = np.maximum(last, np.where(ahead >= _AHEAD_IOU, ahead, 0))
    overlap = np.where(shared, overlap, last)
    classes = _class_agreement(candidates.scores, table.class_mean[:rows])
    similarity: NDArray[np.float32] = (
        np.float32(config.weight_iou) * overlap + np.float32(config.weight_class) * classes
    )
    total = config.weight_iou + config.weight_class

    # Where classes disagree the masks must agree all the more: a name may flicker, two things may touch.
    same_kind = classes >= config.gate_class
    in_place = overlap >= np.where(same_kind, config.gate_iou, max(config.gate_iou, _OTHER_KIND_IOU))
    if candidates.embeddings is None or table.embedding_mean is None:
        similarity /= np.float32(max(total, 1e-6))
        return Affinity(similarity, near=in_place, far=in_place, shared=shared)
    cosine = inner_products(candidates.embeddings, table.embedding_mean[:rows])
    similarity += np.float32(config.weight_embedding) * np.maximum(cosine, 0)
    similarity /= np.float32(max(total + config.weight_embedding, 1e-6))
    centres = table.boxes[:rows].reshape(-1, 2, 2).mean(axis=1)
    step = candidates.centres[:, None] - centres[None]
    reachable = np.einsum("nrd,nrd->nr", step, step) <= reach**2
    alike = (cosine >= config.gate_embedding) & reachable
    return Affinity(
        similarity,
        near=np.where(shared, in_place, in_place | alike),
        far=np.where(shared, in_place, alike),
        shared=shared,
    )


def assign(
    similarity: NDArray[np.float32], allowed: NDArray[np.bool_], *, method: Literal["hungarian", "greedy"]
) -> list[tuple[int, int]]:
    """Return the (row, column) pairs chosen among the allowed ones, each row and column at most once.

    hungarian: the largest sum of similarities. greedy: the best pair first. Nothing is ever forced: a pair
    that is not allowed counts 0 and is left out.
    """
    if not allowed.any():
        return []
    value = np.where(allowed, similarity, 0)
    if method == "hungarian":
        rows, columns = linear_sum_assignment(value, maximize=True)
        return [
            (int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]
        ]
    pairs: list[tuple[int, int]] = []
    free = allowed.copy()
    order = np.argsort(-value, axis=None, kind="stable")
    for row, column in zip(*np.unravel_index(order, value.shape), strict=True):
        if free[row, column]:
            pairs.append((int(row), int(column)))
            free[row, :] = False
            free[:, column] = False
    return pairs


def _shared_overlap(
    candidates: Candidates, table: TrackTable, places: NDArray[np.intp], rows: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return soft IoU (N, R) over the shared frames that a track has votes for, and where both masks show."""
    num_shared = len(places)
    if num_shared == 0:
        return (np.zeros((len(candidates), rows), np.float32), np.zeros((len(candidates), rows), np.bool_))
    weight = table.weight[:rows, places]  # (R, k)
    voted = weight > 0
    scale = (voted / np.maximum(weight, 1)).T  # (k, R)
    total = table.prob_sum[:rows, places].swapaxes(0, 1)  # (k, R, Q)
    per_frame = inner_products(candidates.probs[:, :num_shared].swapaxes(0, 1), total)  # (k, N, R)
    inner = np.einsum("knr,kr->nr", per_frame, scale)
    energy = (np.einsum("krq,krq->kr", total, total) * scale**2).sum(axis=0)
    energy_candidates = candidates.energy[:, :num_shared] @ voted.T.astype(np.float32)
    overlap = soft_iou(inner, energy_candidates, np.broadcast_to(energy, inner.shape))
    seen = (table.visible[:rows, places] & voted).astype(np.float32)
    shared = candidates.visible[:, :num_shared].astype(np.float32) @ seen.T > 0
    return overlap, shared


def _last_overlap(
    candidates: Candidates, table: TrackTable, rows: int, *, first_new: int
) -> NDArray[np.float32]:
    """Return soft IoU (N, R) of each candidate in the first new frame with each track's last shown mask."""
    last = table.last_probs[:rows]
    probs = candidates.probs[:, first_new]
    return soft_iou(
        inner_products(probs, last), candidates.energy[:, first_new], np.einsum("rp,rp->r", last, last)
    )


def _class_agreement(scores: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of class scores (N, K) and class means (R, K), 0..1."""
    norm_scores = np.sqrt(np.einsum("nk,nk->n", scores, scores))
    norm_means = np.sqrt(np.einsum("rk,rk->r", means, means))
    agreement = inner_products(scores, means)
    agreement /= np.maximum(norm_scores[:, None] * norm_means[None, :], _TINY)
    return agreement
