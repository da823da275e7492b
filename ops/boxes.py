"""Box formats and overlaps. Boxes are rows of the last axis: cxcywh (centre, size) or xyxy (corners).

Generalised IoU: Rezatofighi et al., arXiv 1902.09630. The functions take any unit, normalised or pixels.
"""

import torch
from torch import Tensor

__all__ = ["box_area", "box_cxcywh_to_xyxy", "box_iou", "box_xyxy_to_cxcywh", "generalized_box_iou"]


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size to (..., 4) corners."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to (..., 4) centre and size."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) * 0.5, (y0 + y1) * 0.5, x1 - x0, y1 - y0], dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) to (...); a box whose corners are in the wrong order has area 0."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(-1)


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :] - intersection
    return intersection, union


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where whole is 0: there part, which is at most whole, is 0 too."""
    return part / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def box_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Pairwise intersection over union, (..., n, 4) and (..., m, 4) to (..., n, m); 0 if both are empty."""
    return _ratio(*_intersection_and_union(first_xyxy, second_xyxy))


def generalized_box_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Pairwise generalised IoU: (..., n, 4), (..., m, 4) to (..., n, m) in −1..1.

    GIoU = IoU − (|hull| − |union|) / |hull|, hull the smallest box around both.
    """
    intersection, union = _intersection_and_union(first_xyxy, second_xyxy)
    low = torch.minimum(first_xyxy[..., :, None, :2], second_xyxy[..., None, :, :2])
    high = torch.maximum(first_xyxy[..., :, None, 2:], second_xyxy[..., None, :, 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return _ratio(intersection, union) - _ratio(hull - union, hull)
