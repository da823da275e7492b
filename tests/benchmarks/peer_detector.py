"""The benchmark's second peer: a detector trained on COCO on every frame, a box tracker, ellipses as masks.

What one gets without any learning of one's own: the detector that the default network is built on (NanoDet-g), by
itself, on the same frames at the network's input size. No cues, no time but the tracker's, no mask branch: the
mask of a box is the ellipse inscribed in it. It starts over at cuts as the cues do (same detector of cuts). Its
numbers are the best found on the halves for tuning (`tests/benchmarks/real/tune_peer.py --detector`), one set
for both clips, as the network has.

H × W picture, N boxes of a frame, xyxy in pixels of it, right and lower edge outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.box_tracker import Boxes, BoxTracker, PeerInstance, box_ious
from numpy.typing import NDArray

from model.checkpoint.nanodet import load_detector
from model.class_lists import categories
from model.cues.cut import CutDetector
from model.layers.csp import STRIDES, CspTrunk, Detector
from ops.preprocess import fit_image

Image = NDArray[np.uint8]

NAMES = (
    *("person", "bicycle", "car", "motorcycle", "bus", "truck"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
)
"""What moves on its own in a street or on a field; the other classes of COCO are never looked at."""

LEAST_SCORE = 0.05
"""A cell that says less than this says nothing."""


class Detected(NamedTuple):
    """What the detector says about one picture, overlapping answers and all."""

    boxes_xyxy: Boxes
    """(N, 4)."""
    scores: NDArray[np.float64]
    """(N,) 0..1."""
    names: list[str]


Detect = Callable[[Image], Detected]
"""(H, W, 3) RGB → what is in it."""


@dataclass(frozen=True)
class DetectorOptions:
    """What can be tuned; the defaults are the best of 213 random sets on the halves for tuning."""

    min_score: float = 0.4
    """Of a detection that counts."""
    nms_iou: float = 0.4
    """Box IoU with a better detection from which on one is dropped, whatever its name."""
    match_iou: float = 0.3
    """Least box IoU for keeping an id, of the box moved on by its velocity."""
    lost_frames: int = 5
    """Frames that a track outlives unseen."""


class NanoDetDetect:
    """A `Detect` on an imported detector."""

    def __init__(self, trunk: CspTrunk, detector: Detector, *, height: int, width: int) -> None:
        """height, width: the input that a picture is fitted into, multiples of 32; its aspect is kept."""
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"the detector's input must be multiples of {STRIDES[-1]}, got {height}×{width}")
        self._trunk, self._detector = trunk, detector
        self._height, self._width = height, width
        names = [category.name for category in categories("coco")]
        self._columns = [names.index(name) for name in NAMES]

    @torch.inference_mode()
    def __call__(self, rgb: Image) -> Detected:
        """Every cell's best of `NAMES` that reaches `LEAST_SCORE`; boxes are clipped to the picture."""
        image, fit = fit_image(rgb, height=self._height, width=self._width)
        _, answers = self._detector(*self._trunk(image[None])[1:])
        scores, best = answers.logits[0, :, self._columns].sigmoid().max(dim=-1)
        kept = scores >= LEAST_SCORE
        boxes = answers.boxes_xyxy[0, kept].double().numpy()
        boxes[:, 0::2] = np.clip(boxes[:, 0::2] * (fit.width / fit.scale_x), 0, fit.source_width)
        boxes[:, 1::2] = np.clip(boxes[:, 1::2] * (fit.height / fit.scale_y), 0, fit.source_height)
        return Detected(boxes, scores[kept].double().numpy(), [NAMES[place] for place in best[kept].tolist()])


def load_detect(path: str | Path, *, height: int, width: int) -> NanoDetDetect:
    """The detector of a file that `python -m model import-detector` made.

    Raises CheckpointError for a missing or other file.
    """
    return NanoDetDetect(*load_detector(path), height=height, width=width)


class DetectorPeer:
    """One source's detections and tracks."""

    def __init__(self, detect: Detect, options: DetectorOptions | None = None) -> None:
        self._detect = detect
        self._options = options or DetectorOptions()
        self._cuts = CutDetector()
        self._tracker = BoxTracker(match_iou=self._options.match_iou, lost_frames=self._options.lost_frames)

    def update(self, rgb: Image, seconds: float) -> list[PeerInstance]:
        """Take the next frame, (H, W, 3); return what is in it."""
        height, width = rgb.shape[:2]
        return self.take(self._detect(rgb), self._cuts.update(rgb), height=height, width=width)

    def take(self, detected: Detected, cut: bool, *, height: int, width: int) -> list[PeerInstance]:
        """What `update` does once the detector has spoken: suppression, ids, masks."""
        if cut:
            self._tracker.forget()
        masks = {
            row: mask
            for row in suppress(detected, min_score=self._options.min_score, nms_iou=self._options.nms_iou)
            if (mask := ellipse(detected.boxes_xyxy[row], height=height, width=width)).any()
        }
        ids = self._tracker.update([detected.boxes_xyxy[row] for row in masks])
        return [
            PeerInstance(track_id, float(detected.scores[row]), mask, detected.names[row])
            for track_id, (row, mask) in zip(ids, masks.items(), strict=True)
        ]


def suppress(detected: Detected, *, min_score: float, nms_iou: float) -> list[int]:
    """The rows that remain, best first: each overlaps those before it by less than `nms_iou`."""
    order = np.argsort(-detected.scores, kind="stable")
    order = order[detected.scores[order] >= min_score]
    ious = box_ious(detected.boxes_xyxy[order], detected.boxes_xyxy[order])
    kept: list[int] = []
    for place in range(len(order)):
        if not (ious[place, kept] >= nms_iou).any():
            kept.append(place)
    return [int(order[place]) for place in kept]


def ellipse(box: Boxes, *, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centre lies in the ellipse inscribed in a box (4,); (height, width)."""
    x0, y0, x1, y1 = box
    left, top = max(0, int(x0)), max(0, int(y0))
    right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
    y, x = np.ogrid[top:bottom, left:right]
    across = (2 * (x + 0.5) - (x0 + x1)) / max(x1 - x0, 1e-9)
    down = (2 * (y + 0.5) - (y0 + y1)) / max(y1 - y0, 1e-9)
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = across**2 + down**2 <= 1
    return mask
