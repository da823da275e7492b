"""Cue "background": how much a frame differs from the median of the last seconds.

Ours; after BSUV-Net (background frames as input carry over to unseen videos).

H × W pixels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from model.cues.planes import LIMIT, Image, Planes, as_image, size_error

__all__ = ["BACKGROUND_SAMPLES", "BACKGROUND_SECONDS", "BackgroundDifference", "median_image", "sample_slot"]

BACKGROUND_SAMPLES = 9
BACKGROUND_SECONDS = 0.5
BACKGROUND_WARM = 3
"""Samples that the median needs at least."""
BACKGROUND_SCALE = 64.0
"""Grey levels of difference that make 1."""

# Times of containers that count milliseconds are rounded: a frame that is early by so little is in time.
_ROUNDING_SECONDS = 0.002


def median_image(images: Sequence[Image]) -> Image:
    """The exact median, pixel by pixel, of an odd number of images of one shape, uint8.

    Forgetful selection: among any n // 2 + 2 of n values neither the least nor the greatest is the median of
    all, so both are dropped and the next value joins.
    Raises ValueError for an even number.
    """
    if len(images) % 2 == 0:
        raise ValueError(f"{len(images)} images have no middle one: give an odd number")
    first = len(images) // 2 + 2
    held, waiting = list(images[:first]), list(images[first:])
    while len(held) > 1:
        held = _without_extreme(_min, _max, held)
        held = _without_extreme(_max, _min, held)
        if waiting:
            held.append(waiting.pop())
    return held[0]


def _without_extreme(
    extreme: Callable[[Image, Image], Image], other: Callable[[Image, Image], Image], images: list[Image]
) -> list[Image]:
    """The images without, at each pixel, the extreme value; values change places between the images."""
    worst, rest = images[0], []
    for image in images[1:]:
        rest.append(other(worst, image))
        worst = extreme(worst, image)
    return rest


def _min(one: Image, other: Image) -> Image:
    return as_image(cv2.min(one, other))


def _max(one: Image, other: Image) -> Image:
    return as_image(cv2.max(one, other))


class BackgroundDifference:
    """Cue "background", one plane: the frame's difference to the median of earlier samples.

        plane = min(max over red, green, blue of |frame − median| / 64, 2)

    A sample is the first frame of each slot of `every_seconds` of stream time, counted from the first frame
    after a reset (frames 0, 5, 10, … at 10 frames/s); a frame is compared before it becomes a sample. The
    median is that of the last 3, 5, … samples, at most `samples`, of which there is an odd number: what
    stood still for more than half of `samples · every_seconds` is background. Zeros before 3 samples.
    """

    def __init__(
        self, *, samples: int = BACKGROUND_SAMPLES, every_seconds: float = BACKGROUND_SECONDS
    ) -> None:
        if samples < BACKGROUND_WARM or samples % 2 == 0:
            raise ValueError(f"samples={samples} must be an odd number from {BACKGROUND_WARM}")
        if not every_seconds > 0:
            raise ValueError(f"every_seconds={every_seconds} must be above 0")
        self._every_seconds = every_seconds
        self._samples: deque[Image] = deque(maxlen=samples)
        self.reset()

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all samples. Slots are counted from `origin_seconds`, None: from the next frame."""
        self._samples.clear()
        self._median: Image | None = None
        self._origin = origin_seconds
        self._seconds = 0.0 if origin_seconds is None else origin_seconds
        self._slot = -1

    @property
    def warm(self) -> bool:
        """Whether there are samples enough."""
        return self._median is not None

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Compare a frame (H, W, 3), then keep it if a sample is due; returns (1, H, W) in 0..2.

        Raises ValueError if its size is not the samples' one.
        """
        if self._samples and self._samples[-1].shape != rgb.shape:
            raise ValueError(size_error(rgb.shape, self._samples[-1].shape))
        plane = np.zeros((1, *rgb.shape[:2]), np.float32)
        if self._median is not None:
            red, green, blue = cv2.split(cv2.absdiff(rgb, self._median))
            largest = cv2.max(cv2.max(red, green), blue)
            _, levels = cv2.threshold(largest, BACKGROUND_SCALE * LIMIT, 0, cv2.THRESH_TRUNC)
            np.multiply(levels, np.float32(1 / BACKGROUND_SCALE), out=plane[0])
        if self._due(seconds):
            self._samples.append(rgb.copy())
            if len(self._samples) >= BACKGROUND_WARM:
                even = 1 - len(self._samples) % 2
                self._median = median_image(list(self._samples)[even:])
        return plane

    def _due(self, seconds: float) -> bool:
        """Whether the frame is the first of a slot."""
        if self._origin is None or seconds < self._seconds:
            self._origin, self._slot = seconds, -1  # also for a clock that went back: slots begin here
        self._seconds = seconds
        slot = sample_slot(seconds - self._origin, self._every_seconds)
        due, self._slot = slot > self._slot, slot
        return due


def sample_slot(seconds: float, every_seconds: float) -> int:
    """The number of the slot that a time lies in, counted from time 0."""
    return math.floor((seconds + _ROUNDING_SECONDS) / every_seconds)
