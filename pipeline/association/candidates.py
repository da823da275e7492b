"""A window's prediction → the instance candidates that association looks at (docs/association.md).

Candidates go by best class score, as in IFC's and SeqFormer's online matching; duplicates by greedy NMS on
soft spatio-temporal masks. What differs: the soft IoU is the Tanimoto form (`soft_iou`), which is 1 for two
equal masks however blurred they are, boxes count as much, and only real frames and the content region count.
Masks are compared at half their resolution, a quarter of the work; they are published at the full one.

N candidates, F real frames of the window, P mask cells of the content region (rows × columns), Q cells of the
halved masks, K listed classes, C embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.association.boxes import box_overlap, clip_boxes, rectangles
from pipeline.config import AssociationConfig
from pipeline.types import Window, WindowPrediction

_TINY = np.float32(1e-6)
_ALONE = 1 << 18
"""Multiplications of a product that OpenBLAS still does in the calling thread (its interface/gemm.c)."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of one window, best score first."""

    scores: NDArray[np.float32]
    """(N, K) class probabilities of the listed classes."""
    best: NDArray[np.float32]
    """(N,) best class score, descending."""
    logits: NDArray[np.float32]
    """(N, F, P) mask logits."""
    probs: NDArray[np.float32]
    """(N, F, Q) mask probabilities of the halved masks."""
    energy: NDArray[np.float32]
    """(N, F) Σ probs² per frame: the denominator's part of the soft IoU."""
    visible: NDArray[np.bool_]
    """(N, F) whether any cell of the frame is inside the mask (logit > 0)."""
    newest: NDArray[np.intp]
    """(N,) the newest frame (0..F−1) that shows the candidate."""
    overlap: NDArray[np.float32]
    """(N, N) mean of the soft IoU of masks and of the IoU of boxes, over all frames."""
    boxes: NDArray[np.float32]
    """(N, 4) xyxy of the model's box in the newest frame that shows the candidate; source pixels."""
    centres: NDArray[np.float32]
    """(N, 2) x, y of that box's centre."""
    embeddings: NDArray[np.float32] | None
    """(N, C) of length 1."""
    ids: NDArray[np.int64] | None
    """(N,) the model's own identities."""
    rows: NDArray[np.intp]
    """(N,) their rows in the prediction."""
    on_device: Any
    """(prediction's N, F, rows, columns) the logits where the model computed them, content only, by `rows`;
    None where the prediction has none."""
    frame_boxes: NDArray[np.float32] | None
    """(N, F, 4) xyxy in source pixels: what a model without masks publishes; None with masks."""

    def __len__(self) -> int:
        return len(self.best)

    @property
    def labels(self) -> NDArray[np.intp]:
        """(N,) the column of `scores` with the best score."""
        best: NDArray[np.intp] = self.scores.argmax(axis=1)
        return best

    def quality(self, index: int) -> float:
        """Return the mean probability inside the mask of one candidate, 0.5..1."""
        inside = self.logits[index][self.logits[index] > 0]
        return float(sigmoid(inside).mean())


def content_cells(prediction: WindowPrediction) -> tuple[int, int]:
    """Return rows and columns of the mask cells that hold picture, top left; the rest is padding."""
    stride, fit = prediction.mask_stride, prediction.fit
    return -(-fit.content_height // stride), -(-fit.content_width // stride)


def select_candidates(
    window: Window, prediction: WindowPrediction, config: AssociationConfig, outputs: Sequence[int]
) -> Candidates:
    """Pick the candidates of a window and suppress duplicates.

    `outputs` are the class outputs that count (K of them). A candidate whose mask is empty in every real
    frame, or whose mask, boxes or embedding are not finite, is none.
    """
    scores = prediction.scores[:, outputs]
    best = scores.max(axis=1, initial=0.0)
    chosen = np.argsort(-best, kind="stable")[: config.max_candidates]
    chosen = chosen[best[chosen] >= config.min_score]

    rows, columns = content_cells(prediction)
    real = slice(window.first, window.last + 1)
    boxes = prediction.boxes_xyxy[chosen, real]
    frame_boxes = None
    in_order = bool((chosen == np.arange(len(chosen))).all())
    # Models give their best first: then nothing needs to be copied.
    if prediction.mask_logits is not None:
        logits = prediction.mask_logits[slice(len(chosen)) if in_order else chosen, real, :rows, :columns]
    else:
        frame_boxes = clip_boxes(boxes, window.frames[-1].height, window.frames[-1].width)
        logits = rectangles(frame_boxes, prediction.fit, stride=prediction.mask_stride, size=(rows, columns))
    # The mean of probabilities, not the probability of a mean: of a mask of two cells nothing would be left.
    probs = halve(sigmoid(logits))
    logits = logits.reshape(*logits.shape[:2], rows * columns)
    energy = np.einsum("nfp,nfp->nf", probs, probs)
    visible = logits.max(axis=2, initial=-np.inf) > 0

    flat = probs.reshape(len(probs), probs.shape[1] * probs.shape[2])
    total = energy.sum(axis=1)
    overlap = (soft_iou(inner_products(flat, flat), total, total) + box_overlap(boxes)) * np.float32(0.5)
    usable = visible.any(axis=1) & np.isfinite(total) & np.isfinite(boxes).all(axis=(1, 2))
    embeddings = None
    if prediction.embeddings is not None:
        embeddings = unit_length(prediction.embeddings[chosen].astype(np.float32, copy=False))
        usable &= np.isfinite(embeddings).all(axis=1)
    # A model that tells its own identities has decided what is one thing.
    own = None if prediction.ids is None else prediction.ids[chosen]
    keep = suppress(overlap, usable, config.nms_iou) if own is None else np.flatnonzero(usable)

    newest = boxes.shape[1] - 1 - np.argmax(visible[:, ::-1], axis=1)
    boxes = boxes[np.arange(len(boxes)), newest]
    centres = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    candidates = Candidates(
        scores=scores[chosen],
        best=best[chosen],
        logits=logits,
        probs=probs,
        energy=energy,
        visible=visible,
        newest=newest,
        overlap=overlap,
        boxes=boxes,
        centres=centres,
        embeddings=embeddings,
        ids=own,
        rows=chosen,
        on_device=None if prediction.on_device is None else prediction.on_device[:, real, :rows, :columns],
        frame_boxes=frame_boxes,
    )
    return candidates if keep.size == len(candidates) else _take(candidates, keep)


def halve(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means of 2 × 2 cells of (N, F, h, w), flat (N, F, ⌈h/2⌉·⌈w/2⌉); an odd last one is alone."""
    num, num_frames, height, width = probs.shape
    rows = np.empty((num, num_frames, -(-height // 2), width), np.float32)
    pairs = height // 2
    np.add(probs[:, :, 0 : 2 * pairs : 2], probs[:, :, 1::2], out=rows[:, :, :pairs])
    np.multiply(probs[:, :, 2 * pairs :], 2, out=rows[:, :, pairs:])
    halved = np.empty((*rows.shape[:3], -(-width // 2)), np.float32)
    pairs = width // 2
    np.add(rows[..., 0 : 2 * pairs : 2], rows[..., 1::2], out=halved[..., :pairs])
    np.multiply(rows[..., 2 * pairs :], 2, out=halved[..., pairs:])
    halved *= np.float32(0.25)
    return halved.reshape(num, num_frames, halved.shape[2] * halved.shape[3])


def suppress(overlap: NDArray[np.float32], usable: NDArray[np.bool_], threshold: float) -> NDArray[np.intp]:
    """Greedy NMS: return the indices that stay, given the (N, N) overlaps of candidates in order of score."""
    alive = usable.copy()
    for index in range(len(alive)):
        if alive[index]:
            alive[index + 1 :] &= overlap[index, index + 1 :] < threshold
    return np.flatnonzero(alive)


def inner_products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Σp a[…, n, p] · b[…, m, p], (…, N, M), by the calling thread alone.

    For larger products BLAS wakes threads of its own, which then spin for milliseconds on the cores that
    decoder and network need: on two cores a frame's tracks took up to four times as long.
    """
    num, width = a.shape[-2:]
    step = max(1, _ALONE // max(1, num * b.shape[-2]))
    transposed = np.swapaxes(b, -1, -2)
    total: NDArray[np.float32] = a[..., :step] @ transposed[..., :step, :]
    for begin in range(step, width, step):
        total += a[..., begin : begin + step] @ transposed[..., begin : begin + step, :]
    return total


def soft_iou(
    inner: NDArray[np.float32], energy_a: NDArray[np.float32], energy_b: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a·b / (|a|² + |b|² − a·b), the IoU of soft masks; for masks of 0 and 1 it is the usual IoU.

    `inner` is (N, M) = a·b; energies are |a|² and |b|², (N,) and (M,), or (N, M) each. Nothing against
    nothing is 0.
    """
    if energy_a.ndim == 1:
        energy_a, energy_b = energy_a[:, None], energy_b[None, :]
    union = energy_a + energy_b - inner
    iou: NDArray[np.float32] = inner / np.maximum(union, _TINY)
    return iou


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + e^−x); far negative logits overflow to e^∞ and so to 0, as wanted."""
    with np.errstate(over="ignore"):
        values = np.negative(logits)
        np.exp(values, out=values)
        values += np.float32(1)
        np.reciprocal(values, out=values)
    return values


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a zero row stays zero."""
    norms = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    scaled: NDArray[np.float32] = vectors / np.maximum(norms, _TINY)[:, None]
    return scaled


def _take(candidates: Candidates, keep: NDArray[np.intp]) -> Candidates:
    embeddings = candidates.embeddings
    return replace(
        candidates,
        scores=candidates.scores[keep],
        best=candidates.best[keep],
        logits=candidates.logits[keep],
        probs=candidates.probs[keep],
        energy=candidates.energy[keep],
        visible=candidates.visible[keep],
        newest=candidates.newest[keep],
        overlap=candidates.overlap[np.ix_(keep, keep)],
        boxes=candidates.boxes[keep],
        centres=candidates.centres[keep],
        embeddings=None if embeddings is None else embeddings[keep],
        ids=None if candidates.ids is None else candidates.ids[keep],
        rows=candidates.rows[keep],
        frame_boxes=None if candidates.frame_boxes is None else candidates.frame_boxes[keep],
    )
