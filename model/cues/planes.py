"""What all cues share: the arrays that they take and give, their range, and what is said of a wrong size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMIT", "Image", "Planes", "as_image", "size_error"]

Image = NDArray[np.uint8]
Planes = NDArray[np.float32]

LIMIT = 2.0
"""Planes are clipped to ±LIMIT."""


def size_error(shape: Sequence[int], before: Sequence[int]) -> str:
    """The message for a frame whose size is not that of the frames before."""
    return (
        f"a frame of {shape[0]}×{shape[1]} follows frames of {before[0]}×{before[1]}: "
        "call reset() where frames do not continue"
    )


def as_image(array: Any) -> Image:
    """What OpenCV returned, for the type checker: the same array."""
    return np.asarray(array, dtype=np.uint8)
