"""Pictures of the real benchmark: the label, ours and the peer's side by side, good frames and bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from benchmarks.real.runs import Found, FoundMask, Image, label_masks
from numpy.typing import NDArray

from ops.rle import encode_crop
from pipeline.sinks.overlay import draw
from pipeline.types import Instance

WIDTH = 360
"""Pixels of one picture of a row."""
_QUALITY = 82


def mean_best_iou(wanted: Iterable[NDArray[np.bool_]], found: Sequence[NDArray[np.bool_]]) -> float:
    """How well the masks found cover those wanted: the best IoU of each, averaged; 0 where none is found."""
    best = [
        max(((mask & other).sum() / (mask | other).sum() for other in found), default=0.0) for mask in wanted
    ]
    return float(np.mean(best))


def choose(labels: Mapping[str, Any], video: Mapping[str, Any], found: Found) -> tuple[int, int] | None:
    """Places of the frames of a video that went best and worst; None where it has no object."""
    rated = []
    for place, index in enumerate(video["frame_indices"]):
        masks = label_masks(labels, video, place)
        wanted = [mask for number, mask in masks.items() if number]
        if wanted:
            rated.append((mean_best_iou(wanted, [each.mask for each in found.get(index, [])]), place))
    return (max(rated)[1], min(rated)[1]) if rated else None


def row(
    rgb: Image,
    label: Mapping[int, NDArray[np.bool_]],
    *others: Sequence[FoundMask],
) -> Image:
    """One frame: its label, then what each of the others found; RGB."""
    labelled = [FoundMask(number, 1.0, mask, None) for number, mask in label.items() if number]
    faded = rgb.copy()
    if 0 in label:
        faded[label[0]] = (0.5 * faded[label[0]] + 64).astype(np.uint8)
    tiles = [draw(faded, _instances(labelled), labels=False)]
    tiles += [draw(rgb, _instances(each), labels=False) for each in others]
    height = round(WIDTH * rgb.shape[0] / rgb.shape[1])
    return np.hstack([cv2.resize(tile, (WIDTH, height), interpolation=cv2.INTER_AREA) for tile in tiles])


def _instances(found: Sequence[FoundMask]) -> list[Instance]:
    instances = []
    for each in found:
        crop = encode_crop(each.mask, 0, 0)
        if not crop.is_empty:
            box = crop.box_xyxy
            instances.append(Instance(each.track_id, 1, each.name or "", each.score, box, "confirmed", crop))
    return instances


def write(path: Path, rows: Sequence[Image]) -> None:
    """Write rows one below the other as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]):
        raise OSError(f"{path}: the picture could not be written; is the folder writable?")
