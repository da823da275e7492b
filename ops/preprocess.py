"""Fit an image into the model's fixed input size, and map the model's boxes back.

The aspect is kept, the content stands top left, the rest is 0 after normalisation. Training and the live
path share this. Ours; mean and deviation are the ImageNet ones of torchvision's backbones.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Fit",
    "fit_content",
    "fit_image",
    "fit_size",
    "normalise_content",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green, blue, in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green, blue, in 0..1."""

_STD = torch.tensor(IMAGENET_STD).view(3, 1, 1)
_SCALE = 1 / (255 * _STD)
_SHIFT = torch.tensor(IMAGENET_MEAN).view(3, 1, 1) / _STD

Boxes = TypeVar("Boxes", Tensor, NDArray[Any])


@dataclass(frozen=True, slots=True)
class Fit:
    """How a source frame lies in the model's input: pixel p of the source is at p · scale of the input."""

    source_height: int
    """Rows of the source."""
    source_width: int
    """Columns of the source."""
    height: int
    """Rows of the model's input."""
    width: int
    """Columns of the model's input."""
    scale_x: float
    """Input pixels a source pixel, horizontally: content_width / source_width."""
    scale_y: float
    """Input pixels a source pixel, vertically: content_height / source_height."""
    content_height: int
    """Rows of the input that show the source."""
    content_width: int
    """Columns of the input that show the source."""

    def boxes_to_source(self, boxes_cxcywh: Boxes) -> Boxes:
        """(..., 4) cxcywh in 0..1 of the model's input to xyxy in source pixels, clipped to the source."""
        half = boxes_cxcywh[..., 2:] * 0.5
        boxes = boxes_cxcywh * 1.0
        boxes[..., :2] = boxes_cxcywh[..., :2] - half
        boxes[..., 2:] = boxes_cxcywh[..., :2] + half
        boxes[..., 0::2] = (boxes[..., 0::2] * (self.width / self.scale_x)).clip(0, self.source_width)
        boxes[..., 1::2] = (boxes[..., 1::2] * (self.height / self.scale_y)).clip(0, self.source_height)
        return boxes

    def boxes_to_input(self, boxes_xyxy: Boxes) -> Boxes:
        """(..., 4) xyxy in source pixels to cxcywh in 0..1 of the model's input."""
        scaled = boxes_xyxy * 1.0
        scaled[..., 0::2] = boxes_xyxy[..., 0::2] * (self.scale_x / self.width)
        scaled[..., 1::2] = boxes_xyxy[..., 1::2] * (self.scale_y / self.height)
        boxes = scaled * 1.0
        boxes[..., :2] = (scaled[..., :2] + scaled[..., 2:]) * 0.5
        boxes[..., 2:] = scaled[..., 2:] - scaled[..., :2]
        return boxes


def fit_size(source_height: int, source_width: int, *, height: int, width: int) -> Fit:
    """The largest placement of a source in height × width that keeps its aspect, to the nearest pixel.

    Raises ValueError where a size is below 1.
    """
    if min(source_height, source_width, height, width) < 1:
        raise ValueError(
            f"sizes must be at least 1×1, got a source of {source_height}×{source_width} for {height}×{width}"
        )
    scale = min(height / source_height, width / source_width)
    content_height = min(height, max(1, round(source_height * scale)))
    content_width = min(width, max(1, round(source_width * scale)))
    return Fit(
        source_height=source_height,
        source_width=source_width,
        height=height,
        width=width,
        scale_x=content_width / source_width,
        scale_y=content_height / source_height,
        content_height=content_height,
        content_width=content_width,
    )


def fit_image(image: NDArray[np.uint8], *, height: int, width: int) -> tuple[Tensor, Fit]:
    """Resize, normalise and pad an RGB image (H, W, 3) uint8 to (3, height, width) float32; and its Fit.

    Raises ValueError for another shape or dtype.
    """
    content, fit = fit_content(image, height=height, width=width)
    return normalise_content(content, fit), fit


def fit_content(image: NDArray[np.uint8], *, height: int, width: int) -> tuple[NDArray[np.uint8], Fit]:
    """Resize an RGB image (H, W, 3) uint8 to its content in the input, (content_height, content_width, 3)
    uint8, an array of its own; and its Fit.

    Raises ValueError for another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    fit = fit_size(image.shape[0], image.shape[1], height=height, width=width)
    return _resize(image, fit.content_height, fit.content_width), fit


def normalise_content(content: NDArray[np.uint8], fit: Fit) -> Tensor:
    """Normalise and pad what `fit_content` gave to the model's input, (3, height, width) float32."""
    output = torch.zeros(3, fit.height, fit.width)
    inside = output[:, : fit.content_height, : fit.content_width]
    inside.copy_(torch.from_numpy(content).permute(2, 0, 1))
    inside.mul_(_SCALE).sub_(_SHIFT)
    return output


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize without aliasing.

    A linear filter alone skips three of four pixels of 720p, so that thin things flicker. `cv2.INTER_AREA`
    does that for any ratio, but exact halves are three to nine times as fast: so by halves, each the mean
    of 2×2 pixels, as long as sizes are even, and the rest, less than 2, linearly.
    """
    rows, columns = image.shape[:2]
    while rows % 2 == 0 and columns % 2 == 0 and rows >= 2 * height and columns >= 2 * width:
        rows, columns = rows // 2, columns // 2
        image = _cv2_resize(image, rows, columns, cv2.INTER_AREA)
    if (rows, columns) == (height, width):
        return image.copy()  # it may be read-only, or flipped: torch takes neither
    far = rows >= 2 * height or columns >= 2 * width
    return _cv2_resize(image, height, width, cv2.INTER_AREA if far else cv2.INTER_LINEAR)


def _cv2_resize(image: NDArray[np.uint8], height: int, width: int, method: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)
