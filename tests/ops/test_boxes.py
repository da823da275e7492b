"""Box formats and overlaps."""

import pytest
import torch
from torch import Tensor

from ops import box_area, box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh, generalized_box_iou


def random_boxes(*shape: int) -> Tensor:
    corners = torch.rand(*shape, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat([low, high], dim=-1)


def test_formats_convert_both_ways() -> None:
    cxcywh = torch.tensor([[10.0, 20.0, 4.0, 6.0]])
    xyxy = torch.tensor([[8.0, 17.0, 12.0, 23.0]])
    assert torch.equal(box_cxcywh_to_xyxy(cxcywh), xyxy)
    assert torch.equal(box_xyxy_to_cxcywh(xyxy), cxcywh)
    boxes = random_boxes(3, 5)
    torch.testing.assert_close(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes)


def test_known_overlaps() -> None:
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    second = torch.tensor(
        [[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [3.0, 0.0, 4.0, 2.0], [0.5, 0.5, 1.5, 1.5]]
    )
    torch.testing.assert_close(box_iou(first, second), torch.tensor([[1 / 7, 1.0, 0.0, 0.25]]))
    # Hulls of 9, 4, 8 and 4; unions of 7, 4, 6 and 4.
    torch.testing.assert_close(
        generalized_box_iou(first, second), torch.tensor([[1 / 7 - 2 / 9, 1.0, -0.25, 0.25]])
    )


def test_generalised_iou_is_bounded_and_at_most_the_iou() -> None:
    first, second = random_boxes(2, 40), random_boxes(2, 30).flip(1)
    iou, giou = box_iou(first, second), generalized_box_iou(first, second)
    assert iou.shape == giou.shape == (2, 40, 30)
    assert ((giou >= -1) & (giou <= iou + 1e-12) & (iou <= 1)).all()
    torch.testing.assert_close(giou, generalized_box_iou(second, first).transpose(-1, -2))
    torch.testing.assert_close(box_iou(first, first).diagonal(dim1=-2, dim2=-1), torch.ones(2, 40).double())


@pytest.mark.parametrize("function", [box_iou, generalized_box_iou])
def test_empty_boxes_and_empty_sets_have_finite_overlaps_and_gradients(function) -> None:  # type: ignore[no-untyped-def]
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    overlap = function(point, point)
    assert torch.equal(overlap, torch.zeros(1, 1))
    overlap.sum().backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()
    assert function(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


def test_generalised_iou_has_a_gradient_where_boxes_are_apart() -> None:
    apart = torch.tensor([[5.0, 5.0, 6.0, 6.0]], requires_grad=True)
    generalized_box_iou(apart, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).sum().backward()
    assert apart.grad is not None
    assert apart.grad[0, 0] < 0 < -apart.grad[0, 1] + 1e-9  # towards the other box grows the overlap


def test_area_of_a_box_with_swapped_corners_is_zero() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 0.0, 3.0], [2.0, 3.0, 0.0, 0.0]])
    assert box_area(boxes).tolist() == [6.0, 0.0, 0.0]
