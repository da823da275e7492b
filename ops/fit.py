"""Where a source frame lies in the model's fixed input, and the model's boxes mapped back; numpy alone.

The aspect is kept and the content stands top left. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

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
