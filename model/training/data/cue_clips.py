"""Cue planes of training clips: those that a live stream would have there, from as few frames as they need.

Ours.

H × W pixels, R cue planes, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model.config import CUE_PLANES
from model.cues.background import BACKGROUND_SAMPLES, BACKGROUND_SECONDS, sample_slot
from model.cues.planes import Image, Planes
from model.cues.state import CueState

__all__ = ["clip_cues", "clip_indices", "mirrored_planes", "sample_indices"]


def sample_indices(index: int, fps: float) -> list[int]:
    """The frames, ascending, whose samples the background at frame `index` consists of.

    For a stream of `fps` frames a second whose frame 0 is the first after a reset: at 10 frames/s the last
    nine of 0, 5, 10, … below `index`. Raises ValueError for a negative index or fps not above 0.
    """
    if index < 0 or not fps > 0:
        raise ValueError(f"index={index} must be at least 0 and fps={fps} above 0")

    def slot(frame: int) -> int:
        return sample_slot(frame / fps, BACKGROUND_SECONDS)

    found: list[int] = []
    for frame in range(index - 1, -1, -1):
        if frame == 0 or slot(frame) > slot(frame - 1):
            found.append(frame)
            if len(found) == BACKGROUND_SAMPLES:
                break
    return found[::-1]


def clip_indices(cues: Sequence[str], first: int, num_frames: int, fps: float) -> list[int]:
    """The frames, ascending, that the cue planes of frames `first` to `first + num_frames − 1` depend on.

    They end with the clip's own. Frame 0 is the first of the stream.
    """
    needed = set(range(first, first + num_frames))
    if "background" in cues:
        needed.update(sample_indices(first, fps))
    if "flow" in cues and first > 0:
        needed.add(first - 1)
    return sorted(needed)


def clip_cues(
    cues: Sequence[str], frame: Callable[[int], Image], *, first: int, num_frames: int, fps: float
) -> Planes:
    """The planes (T, R, H, W) that a stream of `fps` frames a second gives at T frames from `first` on.

    frame(i) gives frame i, (H, W, 3) uint8 RGB; it is asked for those of `clip_indices` alone, in order and
    once each. The same bits as a `CueState` fed with all frames from 0 on gives, unless that sees a cut.
    """
    state = CueState(cues, detect_cuts=False)
    state.reset(origin_seconds=0.0)
    planes = {i: state.update(frame(i), i / fps) for i in clip_indices(cues, first, num_frames, fps)}
    return np.stack([planes[i] for i in range(first, first + num_frames)])


def mirrored_planes(planes: Planes, cues: Sequence[str]) -> Planes:
    """The planes (T, R, H, W) of the mirrored frames: flow to the right becomes flow to the left."""
    signs: list[float] = []
    for cue in cues:
        signs += [-1.0, 1.0] if cue == "flow" else [1.0] * CUE_PLANES[cue]
    return planes[..., ::-1] * np.array(signs, np.float32)[:, None, None]
