"""Cue "flow": what moves against the camera's own motion, and that motion itself.

Ours; after OCLR (flow as the input of a network trained on rendered layers).

H × W pixels of a frame, h × w of its half resolution.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.cues.planes import LIMIT, Image, Planes, as_image, size_error

__all__ = ["FlowCue", "Motion", "scale_motion"]

Motion = NDArray[np.float64]
"""(2, 3) affine map of places x, y; whole numbers lie between pixels, as for boxes."""

FLOW_SCALE = 4.0
"""Pixels of motion in FLOW_SECONDS that make 1: about a walker 48 pixels high."""
FLOW_SECONDS = 0.1
FLOW_MAX_SECONDS = 0.4
"""Frames further apart are not compared."""

_GRID_STEP = 4
_MIN_FLOW_SIDE = 16
_RANSAC_PIXELS = 0.5
_RANSAC_TRIES = 200
# Pixels of the half resolution, and a share of the vectors. On rendered streets a still camera leaves a
# fifth of them or more below that, unless nearly all moves before it; one that moves faster a tenth at most.
_STILL_PIXELS = 0.15
_STILL_SHARE = 0.15
_FLAT = 0.01
"""Least determinant of a map that is turned round."""


class FlowCue:
    """Cue "flow", two planes: motion right and down against the camera's, from the previous frame to this.

        plane = clip((motion − camera) · 0.1 s / interval / 4 pixels, −2, 2)

    Motion is dense optical flow (`cv2.DISOpticalFlow`) at half resolution, taken at this frame's pixels; the
    camera's is the affine map that most vectors of a grid agree with (RANSAC with OpenCV's fixed seed).
    Zeros for the first frame, for frames that are more than 0.4 s apart, and where a side is below 32 pixels.
    """

    camera: Motion | None
    """The camera's own motion, from the previous frame's pixels to the last one's; None where it is not
    known. Of a still camera it is exactly none, so that nothing adds up over hours."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.reset()

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget the previous frame."""
        self._previous: Image | None = None
        self._size: tuple[int, ...] = ()
        self._seconds = 0.0
        self.camera = None

    @property
    def warm(self) -> bool:
        """Whether there is a previous frame."""
        return self._previous is not None

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Compare a frame (H, W, 3) with the one before; returns (2, H, W) in -2..2.

        Raises ValueError if its size is another one.
        """
        if self._size and self._size != rgb.shape:
            raise ValueError(size_error(rgb.shape, self._size))
        height, width = rgb.shape[:2]
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        half = as_image(cv2.resize(grey, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
        previous, interval = self._previous, seconds - self._seconds
        self._previous, self._size, self._seconds = half, rgb.shape, seconds
        self.camera = None
        if previous is None or not 0 < interval <= FLOW_MAX_SECONDS or min(half.shape) < _MIN_FLOW_SIDE:
            return np.zeros((2, height, width), np.float32)
        flow = np.asarray(self._flow.calc(half, previous, None), np.float32)  # (h, w, 2), back in time
        back = _camera_back(flow)
        moved = _flow_of(back, height=half.shape[0], width=half.shape[1]) - flow
        if _rests(flow, moved):
            self.camera = np.eye(2, 3)
        elif back is not None:
            self.camera = _turned_round(back, scale=(width / half.shape[1], height / half.shape[0]))
        # Half resolution doubles what a full pixel is.
        moved *= np.float32(2 * FLOW_SECONDS / interval / FLOW_SCALE)
        moved = np.clip(cv2.resize(moved, (width, height), interpolation=cv2.INTER_LINEAR), -LIMIT, LIMIT)
        return np.ascontiguousarray(moved.transpose(2, 0, 1), np.float32)


def scale_motion(motion: Motion, scale: tuple[float, float]) -> Motion:
    """The same motion of a picture that is so many times as wide and as high."""
    factor = np.array(scale, np.float64)
    return np.column_stack((motion[:, :2] * factor[:, None] / factor, motion[:, 2] * factor))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.mgrid[_GRID_STEP // 2 : height : _GRID_STEP, _GRID_STEP // 2 : width : _GRID_STEP]
    return rows, columns


def _rests(flow: NDArray[np.float32], moved: NDArray[np.float32]) -> bool:
    """Whether the camera stands still: a good part of the vectors (h, w, 2) is next to nothing, or no fewer
    than agree with the camera's motion, of which `moved` is what they differ by."""
    places = _grid(*flow.shape[:2])

    def share(vectors: NDArray[np.float32]) -> float:
        return float((np.square(vectors[places]).sum(axis=-1) < _STILL_PIXELS**2).mean())

    resting = share(flow)
    return resting >= _STILL_SHARE or (resting > 0 and resting >= share(moved))


def _turned_round(back: NDArray[np.float64], *, scale: tuple[float, float]) -> Motion | None:
    """The camera's motion from the frame before, given the map `back` to it.

    `back` is of pixels of the half resolution, counted from their middles, the motion in pixels of `scale`
    times it (x, y). None for a map that has no inverse."""
    linear = back[:, :2]
    if abs(np.linalg.det(linear)) < _FLAT:
        return None
    corners = np.column_stack((linear, back[:, 2] + 0.5 - linear.sum(axis=1) * 0.5))
    return scale_motion(np.asarray(cv2.invertAffineTransform(corners), np.float64), scale)


def _camera_back(flow: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The affine map (2, 3) to the frame before that most vectors of `flow` (h, w, 2) agree with, if any."""
    rows, columns = _grid(*flow.shape[:2])
    points = np.stack((columns, rows), axis=-1).reshape(-1, 2).astype(np.float32)
    moved = points + flow[rows, columns].reshape(-1, 2)
    fitted: Any = cv2.estimateAffine2D(
        points, moved, method=cv2.RANSAC, ransacReprojThreshold=_RANSAC_PIXELS, maxIters=_RANSAC_TRIES
    )
    return None if fitted[0] is None else np.asarray(fitted[0], np.float64)


def _flow_of(back: NDArray[np.float64] | None, *, height: int, width: int) -> NDArray[np.float32]:
    """The flow (h, w, 2) of an affine map; zero without one."""
    if back is None:
        return np.zeros((height, width, 2), np.float32)
    matrix = back - np.eye(2, 3)
    x, y = np.arange(width), np.arange(height)[:, None]
    along = [row[0] * x + row[1] * y + row[2] for row in matrix]
    return np.stack(along, axis=-1).astype(np.float32)
