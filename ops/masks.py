"""From mask logits at a stride of the model's input to run-length masks in source pixels, without the pixels.

Interpolation is bilinear with half-pixel centres, as `cv2.INTER_LINEAR` and
`F.interpolate(align_corners=False)` have it: source column X lies at cell (X + 0.5) · scale_x / stride − 0.5,
clamped to the map. It is done across only: to the columns of each (slightly grown) box, at the rows of cells.
Down such a column the logit is linear from cell to cell, so its runs of ones begin and end where those lines
cross 0; the pixels in between are never made. All masks of a frame are done together.

N masks of h × w cells, C columns of pixels (of all boxes, one box after the other), R runs of ones in them.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ops.fit import Fit
from ops.rle import CropRLE, encode_runs

__all__ = ["CropMasks", "MakeSums", "MaskSums", "crop_masks"]

_HUGE = np.float32(1e12)
"""What an infinite logit counts; a hundredth next to it still shows in float64."""


class CropMasks(Protocol):
    """`crop_masks`, or what gives the same elsewhere (`ops.device_masks.CropMasksOnDevice`)."""

    def __call__(
        self,
        mask_logits: NDArray[np.float32],
        boxes_xyxy: NDArray[np.floating],
        *,
        fit: Fit,
        stride: int = 4,
        grow: float = 0.1,
    ) -> list[CropRLE]:
        """As `crop_masks`."""


class MaskSums(Protocol):
    """Sums of mask logits by row (a track) and place (a frame), on the host or where the model runs."""

    on_device: bool
    """Whether `add` takes the logits where the model computed them; else they are arrays of the host."""

    def clear(self, rows: slice, places: Sequence[int]) -> None:
        """Set the sums of these rows at these places to 0."""

    def add(
        self,
        rows: NDArray[np.intp],
        places: NDArray[np.intp],
        logits: Any,
        chosen: NDArray[np.intp],
        first: int,
    ) -> None:
        """Add logits[chosen, first:], (M, F, h, w), to `rows` (M,), each once, at `places` (F,)."""

    def crops(self, rows: Sequence[int], place: int, *, fit: Fit, stride: int) -> list[CropRLE]:
        """The masks of rows at a place: where the sum is above 0, in source pixels; equal to `crop_masks`
        with boxes around all that is inside. `fit` has no padding."""


MakeSums = Callable[[int, int, tuple[int, int]], MaskSums]
"""Makes sums that are 0: of so many rows, places, and (h, w) cells."""


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
    empty CropRLE; a cell that is not a number is outside the mask.

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
    if not len(mask_logits):
        return []
    across = _axis(fit.source_width, fit.scale_x / stride, columns)
    down = _axis(fit.source_height, fit.scale_y / stride, rows)
    x0, y0, x1, y1 = _grown(boxes_xyxy, fit, stride, grow)
    left, top = across.first[x0], down.first[y0]
    width = int((across.first[np.maximum(x1 - 1, 0)] - left).max()) + 2
    height = int((down.first[np.maximum(y1 - 1, 0)] - top).max()) + 2
    tiles = _tiles(mask_logits, left, top, width, height)

    widths = x1 - x0
    mask = np.repeat(np.arange(len(widths)), widths)  # (C,)
    x = np.arange(len(mask)) + (x1 - np.cumsum(widths)).take(mask)  # (C,)
    cell = across.first.take(x) + (np.arange(len(widths)) * width - left).take(mask)  # (C,)
    share = across.share.take(x)[:, None]
    lines = tiles.take(cell, axis=0)  # (C, height + 2)
    lines *= 1 - share
    cell += 1
    second = tiles.take(cell, axis=0)
    second *= share
    lines += second

    column, begin, end = _positive_runs(lines)  # (R,)
    mask, x = mask.take(column), x.take(column)
    # A logit of 0 is outside: a run begins beyond it and ends before it.
    shift = (top + 0.5).take(mask)
    begin += shift
    end += shift
    tops = np.floor(begin / down.ratio - 0.5).astype(np.int64)
    tops += 1
    bottoms = np.ceil(end / down.ratio - 0.5).astype(np.int64)
    np.maximum(tops, y0.take(mask), out=tops)
    np.minimum(bottoms, y1.take(mask), out=bottoms)
    return encode_runs(mask, x, tops, bottoms, num=len(widths))


def _grown(boxes_xyxy: NDArray[np.floating], fit: Fit, stride: int, grow: float) -> NDArray[np.int64]:
    """The grown boxes in whole pixels of the source, (4, N) x0, y0, x1, y1; all 0 for an impossible one."""
    possible = np.isfinite(boxes_xyxy).all(1)
    boxes = np.where(possible[:, None], boxes_xyxy, 0)
    low, high = boxes[:, :2], boxes[:, 2:]
    margin = grow * (high - low) + np.array([stride / fit.scale_x, stride / fit.scale_y])
    edges = np.concatenate((np.floor(low - margin), np.ceil(high + margin)), axis=1)  # (N, 4)
    np.maximum(edges, 0, out=edges)
    np.minimum(edges, np.array([fit.source_width, fit.source_height] * 2), out=edges)
    possible &= (edges[:, 2:] > edges[:, :2]).all(1)
    return np.where(possible, edges.T, 0).astype(np.int64)


class _Axis(NamedTuple):
    """Bilinear interpolation along an axis of the source."""

    ratio: float
    """Cells a pixel."""
    first: NDArray[np.intp]
    """(pixels,) the first of a pixel's two neighbouring cells."""
    share: NDArray[np.float32]
    """(pixels,) weight of the second one."""


@lru_cache(maxsize=32)
def _axis(num_pixels: int, ratio: float, num_cells: int) -> _Axis:
    position = ((np.arange(num_pixels) + 0.5) * ratio - 0.5).clip(0, num_cells - 1)
    first = np.minimum(position.astype(np.intp), max(num_cells - 2, 0))
    return _Axis(ratio, first, (position - first).astype(np.float32))


def _tiles(
    logits: NDArray[np.float32], left: NDArray[np.intp], top: NDArray[np.intp], width: int, height: int
) -> NDArray[np.float32]:
    """The cells of each mask from (left, top) on, by columns: (N · width, height + 2).

    Above and below stands a row of 0, which ends every run; beyond the map the last cell is repeated.
    """
    num, rows, columns = logits.shape
    down = np.minimum(top[:, None] + np.arange(height), rows - 1)
    across = np.minimum(left[:, None] + np.arange(width), columns - 1)
    down += np.arange(0, num * rows, rows)[:, None]
    down *= columns
    cells = logits.ravel().take(down[:, None, :] + across[:, :, None])
    tiles = np.zeros((num, width, height + 2), np.float32)
    # An infinite logit times a weight of 0 would be NaN. fmax takes NaN for the lowest.
    np.minimum(np.fmax(cells, -_HUGE, out=cells), _HUGE, out=tiles[:, :, 1:-1])
    return tiles.reshape(num * width, height + 2)


def _positive_runs(
    lines: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Where lines (C, n) through cells, 0 at both ends, are above 0: which line, begin and end in cells.

    Cell 0 is the second one: the first and last stand outside.
    """
    # Lines end in 0, so that all of them are one line. Begin and end of a run take turns on it; a change
    # lies between the cells at `before` and `before` + 1.
    flat = lines.ravel()
    inside = flat > 0
    before = np.flatnonzero(inside[1:] != inside[:-1])
    line = before // lines.shape[1]
    upper, lower = flat.take(before).astype(np.float64), flat[1:].take(before)
    position = np.subtract(upper, lower)
    np.divide(upper, position, out=position)
    before -= line * lines.shape[1]
    before -= 1
    position += before
    return line[0::2], position[0::2], position[1::2]
