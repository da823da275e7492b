"""Random views of real clips: a cut, a mirror and other light, the same for every frame of a clip.

A view is what another camera at the same place might have shown. It is applied to the source's frames, before
they are fitted into the model's size and before any cue is computed. So cues and masks follow from it as in a
stream. Source: the usual augmentations of SeqFormer and DETR (flip, scale and crop, colour distortion).

H × W pixels of the source, h × w of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["View", "random_view"]

FLIP_SHARE = 0.5
CUT_SHARE = 0.5
SMALLEST_CUT = 0.5
"""Sides of the smallest cut, in sides of the source."""
DISTORT_SHARE = 0.5
"""Share of views in which each of brightness, contrast, saturation and hue is changed."""
BRIGHTNESS = 32.0
"""Grey levels up or down."""
CONTRAST = (0.7, 1.3)
SATURATION = (0.7, 1.3)
HUE_DEGREES = 10.0


@dataclass(frozen=True)
class View:
    """rows, columns: the part of the source that is seen; flip: mirrored left to right; the rest: light."""

    rows: slice
    columns: slice
    flip: bool = False
    contrast: float = 1.0
    brightness: float = 0.0
    saturation: float = 1.0
    hue_degrees: float = 0.0

    def image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view of a frame (H, W, 3) uint8 RGB: (h, w, 3)."""
        seen = rgb[self.rows, self.columns]
        seen = np.ascontiguousarray(seen[:, ::-1] if self.flip else seen)
        if (self.contrast, self.brightness) != (1.0, 0.0):
            levels = np.arange(256) * self.contrast + self.brightness
            seen = np.asarray(cv2.LUT(seen, levels.round().clip(0, 255).astype(np.uint8)), dtype=np.uint8)
        if (self.saturation, self.hue_degrees) == (1.0, 0.0):
            return seen
        hue, saturation, value = cv2.split(cv2.cvtColor(seen, cv2.COLOR_RGB2HSV))
        hues = (np.arange(256) + self.hue_degrees / 2) % 180  # OpenCV counts hue in steps of two degrees
        strengths = (np.arange(256) * self.saturation).clip(0, 255)
        changed = (
            cv2.LUT(hue, hues.astype(np.uint8)),
            cv2.LUT(saturation, strengths.round().astype(np.uint8)),
            value,
        )
        return np.asarray(cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2RGB), dtype=np.uint8)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The view of a mask (H, W): (h, w)."""
        seen = mask[self.rows, self.columns]
        return np.ascontiguousarray(seen[:, ::-1] if self.flip else seen)

    @property
    def size(self) -> tuple[int, int]:
        """h and w."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def random_view(size: tuple[int, int], random: np.random.Generator) -> View:
    """A view of frames of `size` (height, width) pixels."""
    height, width = size
    rows, columns = slice(0, height), slice(0, width)
    if random.random() < CUT_SHARE:
        share = random.uniform(SMALLEST_CUT, 1.0)
        # Cut and source have one aspect, within a quarter: objects keep theirs in any case.
        stretch = np.exp(random.uniform(-0.12, 0.12))
        rows = _place(height, share * stretch, random)
        columns = _place(width, share / stretch, random)
    flip = bool(random.random() < FLIP_SHARE)
    changed = random.random(4) < DISTORT_SHARE
    contrast, brightness = random.uniform(*CONTRAST), random.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation, hue = random.uniform(*SATURATION), random.uniform(-HUE_DEGREES, HUE_DEGREES)
    return View(
        rows,
        columns,
        flip,
        contrast=contrast if changed[0] else 1.0,
        brightness=brightness if changed[1] else 0.0,
        saturation=saturation if changed[2] else 1.0,
        hue_degrees=hue if changed[3] else 0.0,
    )


def _place(size: int, share: float, random: np.random.Generator) -> slice:
    length = min(size, max(1, round(size * share)))
    first = int(random.integers(0, size - length + 1))
    return slice(first, first + length)
