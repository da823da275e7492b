"""All cues of one source: planes computed from a stream besides its images, the same for training and live.

"background" is the difference to a running median of the last seconds, "flow" what moves against the camera's
own motion. Every cue keeps bounded state of one source, is zero until it knows something, and starts over at
a reset: after a gap, or at a cut, which is seen in the images. Ours.

Frames are the model-sized images of a stream in order, (H, W, 3) uint8 RGB, without padding; `seconds` is
stream time (PTS), so that the same clip gives the same planes whatever its speed of arrival.

H × W pixels, R cue planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from model.config import CUE_PLANES
from model.cues.background import BackgroundDifference
from model.cues.cut import CutDetector
from model.cues.flow import FlowCue, Motion
from model.cues.planes import Image, Planes, size_error

__all__ = ["CUES", "Cue", "CueState"]


class Cue(Protocol):
    """One cue of one source."""

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Take the next frame; return its planes, (R, H, W) float32."""

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all frames: the next one does not continue them. Times are counted from `origin_seconds`,
        None: from the next frame."""

    @property
    def warm(self) -> bool:
        """Whether the next frame's planes will say something."""


CUES: dict[str, Callable[[], Cue]] = {"background": BackgroundDifference, "flow": FlowCue}


class CueState:
    """All cues of a config over one source's frames.

    `detect_cuts=False` is for frames that are known to belong together but are not all shown.
    Raises ValueError for a cue that does not exist.
    """

    def __init__(self, cues: Sequence[str], *, detect_cuts: bool = True) -> None:
        unknown = [cue for cue in cues if cue not in CUES]
        if unknown:
            raise ValueError(f"cue {unknown[0]!r} is not one of {', '.join(map(repr, CUES))}")
        self.num_planes = sum(CUE_PLANES[cue] for cue in cues)
        """R."""
        self.num_cuts = 0
        """Cuts seen so far."""
        self.spoke = False
        """Whether all cues knew enough to say something about the last frame."""
        self._cues = {cue: CUES[cue]() for cue in cues}
        self._warmed: set[str] = set()
        self._cuts = CutDetector() if detect_cuts else None
        self._size: tuple[int, ...] = ()

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Take the next frame, (H, W, 3) uint8 RGB at stream time `seconds`; return its planes, (R, H, W).

        Raises ValueError for another shape or dtype, and for another size than the frames since the last
        reset.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        if self._size and self._size != rgb.shape:
            raise ValueError(size_error(rgb.shape, self._size))
        if self._cuts is not None and self._cuts.update(rgb):
            self.num_cuts += 1
            self._reset_cues()
        self._size = rgb.shape
        warm = {name for name, cue in self._cues.items() if cue.warm}
        self.spoke = len(warm) == len(self._cues)
        self._warmed |= warm
        if not self._cues:
            return np.zeros((0, *rgb.shape[:2]), np.float32)
        return np.concatenate([cue.update(rgb, seconds) for cue in self._cues.values()])

    @property
    def camera(self) -> Motion | None:
        """The camera's own motion from the frame before to the last one (`FlowCue.camera`); None without the
        cue."""
        flow = self._cues.get("flow")
        return flow.camera if isinstance(flow, FlowCue) else None

    @property
    def never_warm(self) -> tuple[str, ...]:
        """The cues that have had nothing to say so far, resets included."""
        return tuple(name for name in self._cues if name not in self._warmed)

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all frames: the next one does not continue them. See `BackgroundDifference.reset`."""
        self._size = ()
        if self._cuts is not None:
            self._cuts.reset()
        self._reset_cues(origin_seconds)

    def _reset_cues(self, origin_seconds: float | None = None) -> None:
        for cue in self._cues.values():
            cue.reset(origin_seconds=origin_seconds)
