"""Where a track's mask logits are summed, and how the sum becomes a mask in source pixels.

A place of `HostSums` is a frame of the ring, a row a track's slot; a model on a GPU may bring sums of its own
(`Capabilities.mask_sums`), so that masks do not go back to the device. P mask cells = rows × columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ops.fit import Fit
from ops.masks import CropMasks, MakeSums, crop_masks
from ops.rle import CropRLE


@dataclass(frozen=True)
class MaskLayout:
    """How the table's flat masks lie in the source frame."""

    fit: Fit
    stride: int
    """Pixels of the model's input per mask cell."""
    rows: int
    """Rows of cells that show the source; the cells of the padding are not kept."""
    columns: int
    published: bool = True
    """False: the cells were drawn from boxes, to be compared; the boxes are published."""

    @property
    def content(self) -> Fit:
        """The fit without its padding."""
        return _without_padding(self.fit, self.rows * self.stride, self.columns * self.stride)


class HostSums:
    """Sums as an array of the host (`ops.masks.MaskSums`)."""

    on_device = False

    def __init__(
        self, num_rows: int, num_places: int, cells: tuple[int, int], *, crop: CropMasks = crop_masks
    ) -> None:
        self.logits = np.zeros((num_rows, num_places, cells[0] * cells[1]), np.float32)
        """(S, T, P); the system backs a row with memory when it is first used."""
        self._crop = crop

    def clear(self, rows: slice, places: Sequence[int]) -> None:
        """Set the sums of these rows at these places to 0."""
        self.logits[rows, places] = 0

    def add(
        self,
        rows: NDArray[np.intp],
        places: NDArray[np.intp],
        logits: NDArray[np.float32],
        chosen: NDArray[np.intp],
        first: int,
    ) -> None:
        """Add logits[chosen, first:] of (N, F, P)."""
        self.logits[rows[:, None], places] += logits[chosen, first:]

    def crops(self, rows: Sequence[int], place: int, *, fit: Fit, stride: int) -> list[CropRLE]:
        """The masks of rows at a place."""
        return encode_masks(self.logits[rows, place], fit=fit, stride=stride, crop=self._crop)


def host_sums(crop: CropMasks = crop_masks) -> MakeSums:
    """What makes sums on the host whose masks `crop` makes."""
    return partial(HostSums, crop=crop)


def encode_masks(
    logits: NDArray[np.float32], *, fit: Fit, stride: int, crop: CropMasks = crop_masks
) -> list[CropRLE]:
    """Return masks in source pixels of logits (N, P), thresholded at 0; `fit` has no padding.

    The crop follows from the mask, not from the model's box: whatever the mask shows is published.
    """
    grid = logits.reshape(-1, fit.height // stride, fit.width // stride)
    boxes = cell_boxes(grid) * np.array([stride / fit.scale_x, stride / fit.scale_y] * 2)
    return crop(grid, boxes, fit=fit, stride=stride, grow=0.0)


@lru_cache(maxsize=32)
def _without_padding(fit: Fit, height: int, width: int) -> Fit:
    return replace(fit, height=height, width=width)


def cell_boxes(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (N, 4) xyxy in cells around the positive cells of (N, h, w); NaN where there are none."""
    inside = np.greater(logits, 0)
    boxes = np.empty((len(logits), 4), np.float64)
    for axis in (0, 1):
        used = np.logical_or.reduce(inside, axis=1 + axis)  # (N, w), then (N, h)
        boxes[:, axis] = used.argmax(axis=1)
        boxes[:, axis + 2] = used.shape[1] - used[:, ::-1].argmax(axis=1)
        boxes[~np.logical_or.reduce(used, axis=1)] = np.nan
    return boxes
