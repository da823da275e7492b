"""One training clip and what a source of clips is.

Dimensions: N instances, T frames, H × W pixels, R cue planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClipSource", "TrainingClip"]


@dataclass(frozen=True)
class TrainingClip:
    """T consecutive frames with the visible pixels of every instance.

    Raises ValueError where the shapes contradict each other.
    """

    images: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    masks: NDArray[np.bool_]
    """(N, T, H, W) visible pixels; all False where absent. Instances never visible are left out."""
    labels: NDArray[np.int64]
    """(N,) index of the class output."""
    cues: NDArray[np.float32] | None = None
    """(T, R, H, W) as model.cues gives them, or None where the config has none."""
    ignore: NDArray[np.bool_] | None = None
    """(T, H, W) pixels that are ignored (a crowd), or None."""

    def __post_init__(self) -> None:
        frames, size = len(self.images), self.images.shape[1:3]
        if self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(f"images must be (T, H, W, 3), got {self.images.shape}")
        if self.masks.shape != (len(self.labels), frames, *size):
            raise ValueError(
                f"masks must be (N, T, H, W) = {(len(self.labels), frames, *size)}, got {self.masks.shape}"
            )
        if self.cues is not None and (self.cues.shape[0], *self.cues.shape[2:]) != (frames, *size):
            raise ValueError(
                f"cues must be (T, R, H, W) over images {self.images.shape}, got {self.cues.shape}"
            )
        if self.ignore is not None and self.ignore.shape != (frames, *size):
            raise ValueError(f"ignore must be (T, H, W) = {(frames, *size)}, got {self.ignore.shape}")


class ClipSource(Protocol):
    """Gives clip `index`: the same one on every call, in every process."""

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip: ...
