"""Fit an image into the model's fixed input size.

The content stands where `ops.fit` puts it, the rest is 0 after normalisation. Training and the live path
share this. Ours; mean and deviation are the ImageNet ones of torchvision's backbones.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.fit import Fit, fit_size

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
