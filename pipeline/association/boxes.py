"""Boxes as evidence: how they overlap, and the masks that stand for them where a model has none. Ours.

N and M boxes, F frames; all boxes are xyxy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ops.fit import Fit

_TINY = np.float32(1e-6)
_EMPTY = np.float32(1e-3)
"""Probability of a cell that a box does not touch."""


def box_overlap(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of boxes (N, F, 4), mean over the frames, (N, N). Boxes without area overlap nothing."""
    of_frames = boxes_xyxy.swapaxes(0, 1)  # (F, N, 4)
    overlap: NDArray[np.float32] = box_ious(of_frames, of_frames).mean(axis=0, dtype=np.float32)
    return overlap


def box_ious(first_xyxy: NDArray[np.float32], second_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of boxes (…, N, 4) and (…, M, 4), (…, N, M)."""
    first, second = first_xyxy[..., :, None, :], second_xyxy[..., None, :, :]
    sides = np.maximum(
        np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]), 0
    )
    shared = sides[..., 0] * sides[..., 1]
    areas = [np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1) for boxes in (first, second)]
    iou: NDArray[np.float32] = shared / np.maximum(areas[0] + areas[1] - shared, _TINY)
    return iou


def clip_boxes(boxes_xyxy: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return boxes (…, 4) cut to a frame."""
    clipped: NDArray[np.float32] = np.clip(boxes_xyxy, 0, np.array([width, height] * 2, np.float32))
    return clipped


def rectangles(
    boxes_xyxy: NDArray[np.float32], fit: Fit, *, stride: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return mask logits (N, F, rows, columns) of boxes (N, F, 4) in source pixels, to be compared like
    masks.

    A cell's probability is the share of it that the box covers; the box's own cell is always inside. Boxes
    without area, and such as are not finite, are empty.
    """
    cells = boxes_xyxy * np.tile(np.array([fit.scale_x, fit.scale_y], np.float32) / stride, 2)
    x1, y1, x2, y2 = np.moveaxis(cells, -1, 0)
    filled = (x2 > x1) & (y2 > y1) & np.isfinite(cells.sum(axis=-1))
    shares = []
    for axis, count in ((1, size[0]), (0, size[1])):
        begin, end = cells[..., axis, None], cells[..., axis + 2, None]
        at = np.arange(count, dtype=np.float32)
        share = np.clip(np.minimum(end, at + 1) - np.maximum(begin, at), 0, 1)
        centre = np.clip(np.nan_to_num((begin + end) * 0.5), 0, count - 1).astype(np.intp)
        np.put_along_axis(share, centre, 1, axis=-1)
        shares.append(share)
    covered = np.nan_to_num(shares[0][..., :, None] * shares[1][..., None, :]) * filled[..., None, None]
    covered = np.clip(covered, _EMPTY, 1 - _EMPTY)
    logits: NDArray[np.float32] = np.log(covered / (1 - covered))
    return logits
