"""Small data sets and results in the YouTube-VIS JSON formats, from boxes of pixels, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from model.evaluation.dataset import read_ground_truth, read_results
from model.evaluation.ytvis_ap import evaluate

HEIGHT, WIDTH = 40, 60

Box = tuple[int, int, int, int] | None
"""x0, y0, x1, y1 (outside) of what is filled with ones; None for no mask."""


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask (H, W) as COCO RLE that JSON can hold."""
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def filled(box: Box, *, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any] | None:
    """Return the RLE of a filled box."""
    if box is None:
        return None
    mask = np.zeros((height, width), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return rle(mask)


def annotation(number: int, boxes: Sequence[Box], **others: Any) -> dict[str, Any]:
    """Return an annotation of video 1 and category 1, one box a frame; `others` are put over it."""
    row = {"id": number, "video_id": 1, "category_id": 1, "iscrowd": 0}
    return {**row, "segmentations": [filled(box) for box in boxes], **others}


def result(boxes: Sequence[Box], *, score: float = 0.9, **others: Any) -> dict[str, Any]:
    """Return a result for video 1 and category 1, one box a frame; `others` are put over it."""
    row = {"video_id": 1, "category_id": 1, "score": score}
    return {**row, "segmentations": [filled(box) for box in boxes], **others}


def dataset(
    annotations: Sequence[dict[str, Any]], *, length: int, num_videos: int = 1, num_categories: int = 1
) -> dict[str, Any]:
    """Return a data set of videos 1, 2, … and categories 1, 2, …"""
    return {
        "videos": [
            {"id": number, "height": HEIGHT, "width": WIDTH, "length": length}
            for number in range(1, num_videos + 1)
        ],
        "categories": [{"id": number, "name": f"class_{number}"} for number in range(1, num_categories + 1)],
        "annotations": list(annotations),
    }


def evaluate_files(ground_truth: str | Path | Mapping[str, Any], results: Any) -> dict[str, float]:
    """Return the twelve metrics for two JSON files, or for what they hold. Raises DatasetError."""
    truth = read_ground_truth(ground_truth)
    return evaluate(truth, read_results(results, truth))
