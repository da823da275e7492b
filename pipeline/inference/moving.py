"""What has no name must move: the cues' evidence for it, in masks. Ours.

A network that learnt from drawings what things look like takes a rock or a sign of a real street for one. The
cues know what stands still, so a thing without a name counts only where they see it differ or move.

R cue planes, H × W pixels of the content, h × w mask cells, k candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model.config import CUE_PLANES

LEAST: dict[str, float] = {"background": 0.3, "flow": 0.2}
"""Length of a cue's planes that counts as 1: 19 grey levels off the background, 0.8 pixels in 0.1 s."""


def motion_map(planes: NDArray[np.float32], cues: Sequence[str], *, stride: int) -> NDArray[np.float32]:
    """The strongest of the cues, each in units of LEAST: planes (R, H, W) → (⌈H/stride⌉, ⌈W/stride⌉)."""
    height, width = planes.shape[1:]
    strongest = np.zeros((height, width), np.float32)
    first = 0
    for cue in cues:
        own = planes[first : first + CUE_PLANES[cue]]
        first += CUE_PLANES[cue]
        length = np.abs(own[0]) if len(own) == 1 else np.sqrt(np.square(own).sum(axis=0))
        np.maximum(strongest, length / np.float32(LEAST[cue]), out=strongest)
    size = (-(-width // stride), -(-height // stride))
    cells: NDArray[np.float32] = cv2.resize(strongest, size, interpolation=cv2.INTER_AREA).reshape(size[::-1])
    return cells


def without_still(
    scores: NDArray[np.float32],
    mask_logits: NDArray[np.float32],
    cells: NDArray[np.float32],
    unnamed: Collection[int],
) -> NDArray[np.float32]:
    """The class scores (k, K), of `unnamed` outputs 0 where the mean of the cells (h, w) inside a mask
    is below 1.

    mask_logits (k, H/4, W/4) of the same frame as the cells; what is beyond them is padding.
    """
    columns = sorted(unnamed)
    rows, across = cells.shape
    kept = scores.copy()
    for index in np.flatnonzero(np.isin(scores.argmax(axis=1), columns)).tolist():
        inside = mask_logits[index, :rows, :across] > 0
        if not inside.any() or cells[inside].mean() < 1:
            kept[index, columns] = 0
    return kept
