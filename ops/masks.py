"""From mask logits at a stride of the model's input to run-length masks in source pixels, crop by crop.

Only the pixels of each (slightly grown) box are computed, never a full frame. Interpolation is bilinear with
half-pixel centres, as `cv2.INTER_LINEAR` and `F.interpolate(align_corners=False)` have it: source column X lies at
cell (X + 0.5) · scale_x / stride − 0.5, clamped to the map. It is done as two small matrix products, exact for any
ratio of sizes; `cv2.resize` of a crop would be out of phase wherever a cell is not a whole number of source pixels.
"""

import numpy as np
from numpy.typing import NDArray

from ops.preprocess import Fit
from ops.rle import CropRLE, encode_columns

__all__ = ["crop_masks"]


def crop_masks(
    mask_logits: NDArray[np.float32],
    boxes_xyxy: NDArray[np.floating],
    *,
    fit: Fit,
    stride: int = 4,
    grow: float = 0.1,
) -> list[CropRLE]:
    """Resize each mask to source pixels within its box, threshold at logit 0, and encode it, cropped to its ones.

    mask_logits (N, h, w) of the model's input at `stride`; boxes_xyxy (N, 4) in source pixels, enlarged on each side
    by `grow` of their size plus a cell, since a box may be a little tight. Nothing is published in the padding: source
    pixels only. A mask without ones, or with a box that is not finite, gives the empty CropRLE.

    Equals the full-frame resize and threshold of the same logits inside the grown box, to float32 rounding.
    Raises ValueError for shapes that contradict each other or the fit.
    """
    if mask_logits.ndim != 3 or boxes_xyxy.shape != (len(mask_logits), 4):
        raise ValueError(
            f"mask_logits must be (N, h, w) and boxes_xyxy (N, 4), got {mask_logits.shape} and {boxes_xyxy.shape}"
        )
    rows, columns = -(-fit.height // stride), -(-fit.width // stride)
    if mask_logits.shape[1:] != (rows, columns):
        raise ValueError(
            f"mask_logits must be {rows}×{columns} for a model input of {fit.height}×{fit.width} at stride {stride}, "
            f"got {mask_logits.shape[1]}×{mask_logits.shape[2]}"
        )
    cell = np.array([stride / fit.scale_x, stride / fit.scale_y])
    limit = np.array([fit.source_width, fit.source_height])
    margin = grow * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) + cell
    low = np.floor(boxes_xyxy[:, :2] - margin).clip(0, limit)
    high = np.ceil(boxes_xyxy[:, 2:] + margin).clip(0, limit)
    usable = np.isfinite(boxes_xyxy).all(1) & (high > low).all(1)

    masks = []
    for logits, (x0, y0), (x1, y1), valid in zip(mask_logits, low, high, usable, strict=True):
        if not valid:
            masks.append(CropRLE(0, 0, 0, 0, b""))
            continue
        left, across = _interpolation(int(x0), int(x1), fit.scale_x / stride, columns)
        top, down = _interpolation(int(y0), int(y1), fit.scale_y / stride, rows)
        cells = logits[top : top + down.shape[1], left : left + across.shape[1]]
        # By columns, the order of COCO's runs.
        upsampled = (across @ cells.T) @ down.T  # (columns, rows)
        masks.append(encode_columns(upsampled > 0, int(x0), int(y0)))
    return masks


def _interpolation(start: int, end: int, ratio: float, size: int) -> tuple[int, NDArray[np.float32]]:
    """Bilinear weights of pixels [start, end) along an axis: the first cell used, and (pixels, cells used)."""
    position = ((np.arange(start, end) + 0.5) * ratio - 0.5).clip(0, size - 1)
    first = np.minimum(position.astype(np.int64), max(size - 2, 0))
    origin = int(first[0])
    weights = np.zeros((end - start, min(int(first[-1]) + 2, size) - origin), dtype=np.float32)
    fraction = (position - first).astype(np.float32)
    index = np.arange(end - start)
    weights[index, first - origin] = 1 - fraction
    if size > 1:
        weights[index, first - origin + 1] = fraction
    return origin, weights
