"""Which tracks have ever moved, the camera's own motion undone (docs/association.md). Ours.

A track remembers the box that it began with. With each new frame these boxes go where the camera's motion has
taken them, so that they always lie in the newest frame: what stands still is still there. A shift counts only
as far as two opposite edges of the box make it together: what is uncovered at one side has not moved.

M tracks seen in a window, T frames of the ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.association.tracks import Track

_REST = np.eye(2, 3)

MOVED_SHARE = 0.5
"""Of the shorter side of a track's box: so far from where it began it has moved."""
LEAST_PIXELS = 3.0
"""And at least so many pixels of the model's input, whose boxes are not exact."""


class Movement:
    """Sets `moved` of the tracks of one source; boxes are those of the model, in source pixels."""

    def __init__(self, *, max_tracks: int, num_frames: int) -> None:
        self._starts = np.zeros((max_tracks, 2, 2))
        """Per slot the corners (x, y) of the box that the track began with, in the newest frame."""
        self._to_newest = np.zeros((num_frames, 2, 3))
        """(T, 2, 3) maps of the ring's frames, oldest first, to the newest one."""
        self.clear()

    def clear(self) -> None:
        """Forget the camera's motion: no later frame continues the earlier ones."""
        self._to_newest[:] = _REST
        self._num_still = len(self._to_newest)
        """Frames since the camera moved last."""

    def advance(self, motions: Sequence[NDArray[np.float64] | None], tracks: Sequence[Track]) -> None:
        """Take new frames, of each the camera's motion since the frame before; None counts as none."""
        for motion in motions:
            still = motion is None or np.array_equal(motion, _REST)
            self._num_still = self._num_still + 1 if still else 0
            if self._all_still:
                continue
            self._to_newest[:-1] = self._to_newest[1:]
            self._to_newest[-1] = _REST
            if motion is None or still:
                continue
            slots = [track.slot for track in tracks]
            earlier = self._to_newest[:-1]
            self._to_newest[:-1] = motion[:, :2] @ earlier
            self._to_newest[:-1, :, 2] += motion[:, 2]
            self._starts[slots] = self._starts[slots] @ motion[:, :2].T + motion[:, 2]

    @property
    def _all_still(self) -> bool:
        """Whether the camera rested at every frame of the ring: all maps are as they were."""
        return self._num_still > len(self._to_newest)

    def see(
        self, tracks: Sequence[Track], boxes: NDArray[np.float32], places: NDArray[np.intp], *, scale: float
    ) -> None:
        """Take where tracks are: boxes (M, 4) xyxy, each in the ring's frame `places` (M,), −1 the newest.

        A track that no window saw before begins there. scale: pixels of the model's input per source pixel.
        """
        corners = boxes.reshape(-1, 2, 2).astype(np.float64)
        if not self._all_still:
            maps = self._to_newest[places]
            corners = corners @ maps[..., :2].transpose(0, 2, 1) + maps[:, None, :, 2]
        for track, box in zip(tracks, corners, strict=True):
            if track.num_windows == 1:
                self._starts[track.slot] = box
        first, last = (corners - self._starts[[track.slot for track in tracks]]).transpose(1, 0, 2)
        together = np.where(first * last > 0, np.minimum(np.abs(first), np.abs(last)), 0)
        shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
        least = np.maximum(shorter * MOVED_SHARE, LEAST_PIXELS / scale)
        for index in np.flatnonzero(np.square(together).sum(axis=1) > np.square(least)).tolist():
            tracks[index].moved = True
