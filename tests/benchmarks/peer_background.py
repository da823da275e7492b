"""The benchmark's first peer: running median, threshold, morphology, connected components, Hungarian box tracker.

What one builds in an afternoon without a network, done with care: it looks at the same frames at the same
pace as the model, at the source's full size, starts over at cuts as the cues do (same detector), and its
numbers are the best found over the very clips it is judged on, before these had halves: an advantage that
the network and the other peer do not have. `tests/benchmarks/real/tune_peer.py` looks at the tuning half only.

H × W picture, N instances of a frame; boxes are xyxy in pixels, right and lower edge outside.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from benchmarks.box_tracker import Boxes, BoxTracker, PeerInstance
from numpy.typing import NDArray

from model.cues.background import median_image
from model.cues.cut import CutDetector

Image = NDArray[np.uint8]

_ROUNDING_SECONDS = 0.02
"""A frame that is early for its sample by so little is in time."""


@dataclass(frozen=True)
class PeerOptions:
    """What can be tuned; the defaults are the best of 220 random sets on the labelled clip."""

    num_samples: int = 5
    """Frames that the median is taken of."""
    sample_seconds: float = 0.2
    """Stream time between two of them."""
    warm_samples: int = 1
    """Before so many the background is not known and nothing is found."""
    threshold: float = 20.0
    """Grey levels by which a pixel differs from the background in at least one colour."""
    open_pixels: int = 11
    """Diameter of what is removed as noise."""
    close_pixels: int = 41
    """Diameter of the gaps that are closed."""
    fill: bool = True
    """Whether holes inside a component are filled: the inside of a large even object differs from nothing."""
    min_area: int = 6000
    """Pixels of the smallest component that counts."""
    sure_area: float = 20_000.0
    """Pixels from which on the score is 1."""
    match_iou: float = 0.05
    """Least box IoU for keeping an id, of the box moved on by its velocity."""
    lost_frames: int = 2
    """Frames that a track outlives unseen."""


PEDESTRIANS = PeerOptions(
    num_samples=31,
    sample_seconds=0.1,
    warm_samples=1,
    threshold=20.0,
    open_pixels=5,
    close_pixels=15,
    fill=False,
    min_area=100,
    match_iou=0.3,
    lost_frames=2,
)
"""The best of 30 random sets on the clip of pedestrians."""


class RunningMedian:
    """The difference of each frame to the median of the last ones; starts over at cuts."""

    def __init__(self, *, num_samples: int, sample_seconds: float, warm_samples: int) -> None:
        self._samples: deque[Image] = deque(maxlen=num_samples)
        self._sample_seconds = sample_seconds
        self._warm_samples = warm_samples
        self._sampled: float | None = None
        self._cuts = CutDetector()

    def update(self, rgb: Image, seconds: float) -> tuple[Image | None, bool]:
        """Return the greatest difference over the colours, (H, W), None before it is warm, and whether this
        frame starts a shot."""
        cut = self._cuts.update(rgb)
        if cut:
            self._samples.clear()
            self._sampled = None
        difference = None
        num = len(self._samples)
        if num >= self._warm_samples:
            newest = list(self._samples)[1 - num % 2 :]  # an odd number has a middle one
            difference = cv2.absdiff(rgb, median_image(newest)).max(axis=2)
        if self._sampled is None or seconds - self._sampled >= self._sample_seconds - _ROUNDING_SECONDS:
            self._samples.append(rgb)
            self._sampled = seconds
        return difference, cut


class BackgroundPeer:
    """One source's background and tracks."""

    def __init__(self, options: PeerOptions | None = None) -> None:
        self._options = options or PeerOptions()
        self._median = RunningMedian(
            num_samples=self._options.num_samples,
            sample_seconds=self._options.sample_seconds,
            warm_samples=self._options.warm_samples,
        )
        self._tracker = BoxTracker(match_iou=self._options.match_iou, lost_frames=self._options.lost_frames)

    def update(self, rgb: Image, seconds: float) -> list[PeerInstance]:
        """Take the next frame, (H, W, 3) at stream time `seconds`; return what moves in it."""
        return self.take(*self._median.update(rgb, seconds))

    def take(self, difference: Image | None, cut: bool) -> list[PeerInstance]:
        """What `update` does once the background is known: components and ids. The score is the size: large
        components are objects, small ones may be noise."""
        if cut:
            self._tracker.forget()
        found = [] if difference is None else self._components(difference)
        ids = self._tracker.update([box for box, _, _ in found])
        return [
            PeerInstance(track_id, score, mask) for track_id, (_, score, mask) in zip(ids, found, strict=True)
        ]

    def _components(self, difference: Image) -> list[tuple[Boxes, float, NDArray[np.bool_]]]:
        options = self._options
        moving: Any = (difference > options.threshold).astype(np.uint8)
        for operation, size in (
            (cv2.MORPH_OPEN, options.open_pixels),
            (cv2.MORPH_CLOSE, options.close_pixels),
        ):
            if size > 1:
                disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
                moving = cv2.morphologyEx(moving, operation, disc)
        num, labels, stats, _ = cv2.connectedComponentsWithStats(moving, connectivity=8)
        found = []
        for label in range(1, num):
            x, y, width, height, area = stats[label]
            if area >= options.min_area:
                mask = _filled(labels == label) if options.fill else labels == label
                score = min(1.0, float(area) / options.sure_area)
                found.append((np.array([x, y, x + width, y + height], np.float64), score, mask))
        return found


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its holes."""
    outer = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    whole: Any = cv2.drawContours(np.zeros(mask.shape, np.uint8), outer, -1, (1,), cv2.FILLED)
    inside: NDArray[np.bool_] = whole > 0
    return inside
