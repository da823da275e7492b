"""From mask logits at a stride of the model's input to run-length masks in source pixels, crop by crop.

Only the pixels of each (slightly grown) box are computed, never a full frame. Interpolation is bilinear with
half-pixel centres, as `cv2.INTER_LINEAR` and `F.interpolate(align_corners=False)` have it: source column X
lies at cell (X + 0.5) · scale_x / stride − 0.5, clamped to the map. It is done as two small matrix
products, exact for any ratio of sizes; `cv2.resize` of a crop would be out of phase wherever a cell is not
a whole number of source pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ops.preprocess import Fit
from ops.rle import EMPTY, CropRLE, encode_columns

__all__ = ["crop_masks"]

_HUGE = 1e30


def crop_masks(
    mask_logits: NDArray[np.float32],
    boxes_xyxy: NDArray[np.floating],
    *,
    fit: Fit,
    stride: int = 4,
    grow: float = 0.1,
) -> list[CropRLE]:
    """Resize each mask to source pixels within its box, threshold at logit 0, encode what is left.

    mask_logits (N, h, w) of the model's input at `stride`; boxes_xyxy (N, 4) in source pixels, enlarged on
    each side by `grow` of their size plus a cell, since a box may be a little tight. Nothing is published
    in the padding: source pixels only. A mask without ones, or with a box that is not finite, gives the
    empty CropRLE.

    Equals the full-frame resize and threshold of the same logits inside the grown box, to float32 rounding.
    Raises ValueError for shapes that contradict each other or the fit.
    """
    if mask_logits.ndim != 3 or boxes_xyxy.shape != (len(mask_logits), 4):
        raise ValueError(
            f"mask_logits must be (N, h, w) and boxes_xyxy (N, 4), "
            f"got {mask_logits.shape} and {boxes_xyxy.shape}"
        )
    rows, columns = -(-fit.height // stride), -(-fit.width // stride)
    if mask_logits.shape[1:] != (rows, columns):
        raise ValueError(
            f"mask_logits must be {rows}×{columns} for a model input of {fit.height}×{fit.width} "
            f"at stride {stride}, got {mask_logits.shape[1]}×{mask_logits.shape[2]}"
        )
    finite = np.isfinite(boxes_xyxy).all(1)
    boxes = np.where(finite[:, None], boxes_xyxy, 0)
    cell = np.array([stride / fit.scale_x, stride / fit.scale_y])
    limit = np.array([fit.source_width, fit.source_height])
    margin = grow * (boxes[:, 2:] - boxes[:, :2]) + cell
    low = np.floor(boxes[:, :2] - margin).clip(0, limit)
    high = np.ceil(boxes[:, 2:] + margin).clip(0, limit)
    usable = finite & (high > low).all(1)

    across = _interpolation(fit.source_width, fit.scale_x / stride, columns)
    down = _interpolation(fit.source_height, fit.scale_y / stride, rows)
    masks = []
    for logits, (x0, y0), (x1, y1), valid in zip(
        mask_logits, low.tolist(), high.tolist(), usable.tolist(), strict=True
    ):
        if not valid:
            masks.append(EMPTY)
            continue
        x, y = slice(int(x0), int(x1)), slice(int(y0), int(y1))
        left, right = across.first[x.start], across.first[x.stop - 1] + 2
        top, bottom = down.first[y.start], down.first[y.stop - 1] + 2
        # An infinite logit times a weight of 0 would be NaN.
        cells = logits[top:bottom, left:right].clip(-_HUGE, _HUGE)
        # By columns, the order of COCO's runs.
        upsampled = (across.weights[x, left:right] @ cells.T) @ down.weights[y, top:bottom].T
        masks.append(encode_columns(upsampled > 0, x.start, y.start))
    return masks


class _Interpolation(NamedTuple):
    """Bilinear interpolation of a whole axis; the matrices of a crop are slices of this one."""

    first: list[int]
    """Per pixel, the first of its two cells."""
    weights: NDArray[np.float32]
    """(pixels, cells)."""


@lru_cache(maxsize=32)
def _interpolation(num_pixels: int, ratio: float, num_cells: int) -> _Interpolation:
    """`ratio` cells a pixel."""
    pixels = np.arange(num_pixels)
    position = ((pixels + 0.5) * ratio - 0.5).clip(0, num_cells - 1)
    first = np.minimum(position.astype(np.int64), max(num_cells - 2, 0))
    weights = np.zeros((num_pixels, num_cells), dtype=np.float32)
    weights[pixels, first] = 1 - (position - first)
    if num_cells > 1:
        weights[pixels, first + 1] = position - first
    return _Interpolation(first.tolist(), weights)
