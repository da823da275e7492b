"""Cuts, seen in the images: for the cues within a model's frames, for a source in its own pictures. Ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from model.cues.planes import Image, as_image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CutDetector", "ShotDetector"]

_CUT_LEVELS = 30
_CUT_CELL = 8
_SHOT_ROWS = 192
"""Rows, at least, that a picture is thinned out to before cells are compared."""
_FLAT_LEVELS = 4.0
_SAME_LIGHT = 0.5
_MEAN_OF_COLOURS = np.full((1, 3), 1 / 3, np.float32)


class CutDetector:
    """Tells whether a frame shows another scene than the one before: most of the picture differs at once.

    Both are reduced to cells of 8×8 pixels; at a cut more than half of them differ by over 30 grey levels in
    a colour. A sudden change of all light counts too: what was learnt of the background is worth nothing.
    """

    def __init__(self) -> None:
        self._previous: Image | None = None

    def update(self, rgb: Image) -> bool:
        """Take the next frame, (H, W, 3); another size than before is a cut."""
        height, width = rgb.shape[:2]
        rows, columns = max(1, height // _CUT_CELL), max(1, width // _CUT_CELL)
        whole = rgb[: rows * _CUT_CELL, : columns * _CUT_CELL]  # a whole ratio is several times as fast
        small = as_image(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA))
        previous, self._previous = self._previous, small
        if previous is None:
            return False
        if previous.shape != small.shape:
            return True
        return bool(np.median(cv2.absdiff(small, previous).max(axis=2)) > _CUT_LEVELS)

    def reset(self) -> None:
        """Forget the previous frame."""
        self._previous = None


class ShotDetector:
    """Tells whether a frame begins another shot: most of the picture differs at once, as for `CutDetector`,
    and bright and dark lie elsewhere.

    Switching on a lamp changes the first and not the second. A picture of one colour shows nothing: the next
    is compared with the one before it.
    """

    def __init__(self) -> None:
        self._previous: Image | None = None

    def update(self, picture: Image | Tensor) -> bool:
        """Take the next frame, (H, W, 3) RGB or (H, W) luma; another size than before is another shot.

        Of a tensor on a device only the thinned out picture is copied to the host.
        """
        height, width = picture.shape[:2]
        step = max(1, min(height, width) // _SHOT_ROWS)
        rows, columns = max(1, height // step // _CUT_CELL), max(1, width // step // _CUT_CELL)
        thinned = picture[::step, ::step]
        sparse = np.ascontiguousarray(thinned if isinstance(thinned, np.ndarray) else thinned.cpu().numpy())
        # Few calls of cv2: forty cameras' threads wait for Python's lock after each of them.
        small = as_image(cv2.resize(sparse, (columns, rows), interpolation=cv2.INTER_AREA))
        light = _light(small)
        if cv2.meanStdDev(light)[1] < _FLAT_LEVELS:
            return False
        previous, self._previous = self._previous, small
        if previous is None:
            return False
        if previous.shape != small.shape:
            return True
        num_colours = 3 if small.ndim == 3 else 1
        alike = cv2.inRange(cv2.absdiff(small, previous), (0,) * num_colours, (_CUT_LEVELS,) * num_colours)
        if 2 * cv2.countNonZero(alike) >= alike.size:
            return False
        return bool(np.corrcoef(light.ravel(), _light(previous).ravel())[0, 1] < _SAME_LIGHT)

    def reset(self) -> None:
        """Forget the previous frame."""
        self._previous = None


def _light(small: Image) -> NDArray[np.float32]:
    """The brightness of cells, (rows, columns), of RGB or luma."""
    cells = small.astype(np.float32)
    return np.asarray(cv2.transform(cells, _MEAN_OF_COLOURS), np.float32) if cells.ndim == 3 else cells
