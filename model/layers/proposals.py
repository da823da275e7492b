"""Boxes of the detector as queries: the best of each frame, linked over a window's frames.

Source: ours (the two-stage form of Deformable DETR with another network's boxes; suppression as one
triangular matrix is YOLACT's Fast NMS). Neither scores nor boxes of linked frames are averaged: on real clips
that lost box AP50 (docs/model.md). All sizes are fixed, so that a GPU waits for nothing.

Dimensions: N frames, B windows, T frames of a window, P cells, R proposals of a frame, Q queries, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.csp import Detections
from model.layers.modules import split_dim
from ops.boxes import box_iou, box_xyxy_to_cxcywh

NUM_COMPARED = 200
"""Cells of a frame, the best, that are compared with each other."""
SAME_OBJECT_IOU = 0.7
"""Of two boxes of a frame with more than this overlap the one with the lower score goes."""
SEEN_AGAIN_IOU = 0.5
"""A box of an older frame goes where a newer frame has one with at least this overlap."""
LINKED_IOU = 0.3
"""Least overlap with a query's own box at which another frame's box becomes its reference there."""
BEHIND = 20.0
"""Taken off the logit of what goes, so that it stands behind everything else."""
SLIGHT = -2.0
"""Logit from which on a newer frame's box takes the place of an older one."""


def frame_proposals(detections: Detections, *, num_proposals: int) -> Tensor:
    """The best boxes of each frame, (N, R, 4 + K) float32: xyxy within 0..1, then the class logits; best
    first. Those that overlap a better one are last and lose BEHIND of every logit: they are nothing."""
    score = detections.logits.amax(dim=-1)  # (N, P)
    best = score.topk(min(NUM_COMPARED, score.shape[1]), dim=1)
    boxes = _rows(detections.boxes_xyxy, best.indices).clamp(0.0, 1.0)
    overlap = box_iou(boxes, boxes)  # (N, n, n)
    beaten = torch.triu(overlap, diagonal=1).amax(dim=1) > SAME_OBJECT_IOU
    lost = BEHIND * beaten
    chosen = (best.values - lost).topk(min(num_proposals, lost.shape[1]), dim=1).indices
    logits = _rows(detections.logits, best.indices) - lost[..., None]
    return _rows(torch.cat((boxes, logits), dim=-1), chosen)


def window_proposals(proposals: Tensor, *, num_frames: int, num_queries: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, T, Q, 4) cxcywh in 0..1 and class logits (B, Q, K) of the best proposals of whole windows.

    proposals (B·T, R, 4 + K). The newest frame's come first; one of an older frame counts where no newer
    frame has it. In every other frame a query's box is the one that overlaps its own most, or its own where
    none does. Of fewer proposals than Q the best stands for the rest.
    """
    newest_first = split_dim(proposals, 0, (-1, num_frames)).flip(1)  # (B, T, R, 4 + K)
    R = newest_first.shape[2]
    rows = newest_first.flatten(1, 2)  # (B, T·R, 4 + K)
    boxes, logits = rows[..., :4], rows[..., 4:]
    rank = logits.amax(dim=-1)
    if num_frames > 1:
        overlap = box_iou(boxes, boxes)  # (B, T·R, T·R)
        age = torch.arange(num_frames, device=boxes.device).repeat_interleave(R)
        newer = (age[None, :] < age[:, None]) & (rank > SLIGHT)[:, None, :]
        seen_again = (overlap * newer).amax(dim=-1) >= SEEN_AGAIN_IOU
        rank = rank - BEHIND * seen_again
    chosen = rank.topk(min(num_queries, rank.shape[1]), dim=1).indices
    if chosen.shape[1] < num_queries:
        chosen = torch.cat((chosen, chosen[:, :1].expand(-1, num_queries - chosen.shape[1])), dim=1)
    own = _rows(boxes, chosen)  # (B, Q, 4)
    references = []
    for frame in range(num_frames):
        there = newest_first[:, num_frames - 1 - frame, :, :4]
        best, which = box_iou(own, there).max(dim=-1)
        references.append(torch.where((best >= LINKED_IOU)[..., None], _rows(there, which), own))
    return box_xyxy_to_cxcywh(torch.stack(references, dim=1)), _rows(logits, chosen)


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """(N, P, C) and (N, n) → (N, n, C)."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))
