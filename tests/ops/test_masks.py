"""Crop-wise masks: equal to the full-frame resize, aligned, cropped to their ones, never in the padding."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ops import crop_masks, encode_crop
from ops.preprocess import Fit, fit_size

# source sizes; 854 and 1000 do not divide, so that a cell is no whole number of source pixels
SOURCES = [(720, 1280), (480, 640), (480, 854), (1000, 333), (97, 211)]


def ellipses(fit: Fit, *, stride: int, num: int = 6) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Logits of ellipses, some cut by the border, and their boxes in source pixels."""
    rng = np.random.default_rng(0)
    rows, columns = -(-fit.height // stride), -(-fit.width // stride)
    y, x = np.mgrid[:rows, :columns] + 0.5
    logits, boxes = [], []
    for _ in range(num):
        cx, cy = rng.uniform(0, fit.content_width / stride), rng.uniform(0, fit.content_height / stride)
        a, b = rng.uniform(2.5, 9, size=2)
        logits.append(4 * (1 - np.hypot((x - cx) / a, (y - cy) / b)))
        boxes.append(np.array([cx - a, cy - b, cx + a, cy + b]) * stride)
    scale = np.array([fit.scale_x, fit.scale_y] * 2)
    limit = np.array([fit.source_width, fit.source_height] * 2)
    return np.stack(logits).astype(np.float32), (np.stack(boxes) / scale).clip(0, limit)


def dense_logits(logits: NDArray[np.float32], fit: Fit, *, stride: int) -> NDArray[np.float64]:
    """Each logit map sampled at the centre of every source pixel, in float64, by another implementation."""
    rows, columns = logits.shape[1:]
    x = (torch.arange(fit.source_width).double() + 0.5) * fit.scale_x / (columns * stride) * 2 - 1
    y = (torch.arange(fit.source_height).double() + 0.5) * fit.scale_y / (rows * stride) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(logits), -1, -1, -1)
    maps = torch.from_numpy(logits).double().unsqueeze(1)
    sampled = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, 0]
    result: NDArray[np.float64] = sampled.numpy()
    return result


def full_frame(logits: NDArray[np.float32], fit: Fit, *, stride: int) -> NDArray[np.bool_]:
    return dense_logits(logits, fit, stride=stride) > 0


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", SOURCES)
def test_equals_the_full_frame_resize(size: tuple[int, int], stride: int) -> None:
    fit = fit_size(*size, height=192, width=320)
    logits, boxes = ellipses(fit, stride=stride)
    expected = full_frame(logits, fit, stride=stride)
    for rle, wanted in zip(crop_masks(logits, boxes, fit=fit, stride=stride), expected, strict=True):
        mask = rle.decode(*size)
        assert wanted.any()
        # float32 against float64: a pixel whose logit is 0 to rounding may differ.
        assert (mask != wanted).sum() <= 2
        assert (mask & wanted).sum() > 0.99 * (mask | wanted).sum()


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("model_size", [(192, 320), (33, 50), (8, 8)])
@pytest.mark.parametrize("size", [(97, 211), (23, 31), (5, 3), (1, 1)])
def test_noise_in_boxes_of_any_size_equals_the_dense_form(
    size: tuple[int, int], model_size: tuple[int, int], stride: int
) -> None:
    """Up and down, several runs a column, boxes small, whole, outside and impossible in one call."""
    fit = fit_size(*size, height=model_size[0], width=model_size[1])
    rng = np.random.default_rng(0)
    shape = (12, -(-fit.height // stride), -(-fit.width // stride))
    logits = rng.standard_normal(shape).astype(np.float32)
    corners = rng.uniform(-0.3, 1.3, (12, 2, 2)) * size[::-1]
    boxes = np.concatenate((corners.min(1), corners.max(1)), axis=1)
    boxes[3], boxes[5] = np.nan, [0, 0, size[1], size[0]]
    dense = dense_logits(logits, fit, stride=stride)
    grow = 0.1 * (boxes[:, 2:] - boxes[:, :2]) + np.array([stride / fit.scale_x, stride / fit.scale_y])
    some = 0
    for rle, wanted, box, margin in zip(
        crop_masks(logits, boxes, fit=fit, stride=stride), dense, boxes, grow, strict=True
    ):
        inside = np.zeros(size, np.bool_)
        if np.isfinite(box).all():
            x0, y0 = np.floor(box[:2] - margin).astype(int).clip(0)
            x1, y1 = np.ceil(box[2:] + margin).astype(int).clip(0)
            inside[y0:y1, x0:x1] = True
        mask = rle.decode(*size)
        differ = mask != (inside & (wanted > 0))
        assert np.abs(wanted[differ]).max(initial=0) < 1e-5  # float32 against float64
        rows, columns = np.nonzero(mask)
        if rows.size:
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert rle.box_xyxy == tight
            assert rle == encode_crop(mask, 0, 0)
        some += rows.size
    assert some or size == (1, 1)


def test_equals_cv2_where_a_cell_is_a_whole_number_of_pixels() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    logits, boxes = ellipses(fit, stride=4)
    for rle, cells in zip(crop_masks(logits, boxes, fit=fit), logits, strict=True):
        resized = cv2.resize(cells, (1280, 768), interpolation=cv2.INTER_LINEAR)[:720] > 0
        assert (rle.decode(720, 1280) != resized).sum() <= 2


def test_a_mask_is_aligned_with_the_object_it_was_made_from() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    truth = np.zeros((720, 1280), dtype=np.float32)
    truth[160:480, 320:800] = 1  # whole cells of 16 pixels: their edge lies where logits change sign
    cells = cv2.resize(truth, (80, 45), interpolation=cv2.INTER_AREA)
    logits = np.full((1, 48, 80), -1, dtype=np.float32)
    logits[0, :45] = cells * 2 - 1
    (rle,) = crop_masks(logits, np.array([[320.0, 160, 800, 480]]), fit=fit)
    assert rle.box_xyxy == (320, 160, 800, 480)
    difference = rle.decode(720, 1280) != (truth > 0)
    assert difference.sum() < 200  # the four corners are rounded by interpolation


def test_only_the_grown_box_is_looked_at() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    logits = np.ones((1, 48, 80), dtype=np.float32)
    (rle,) = crop_masks(logits, np.array([[320.0, 160, 420, 260]]), fit=fit, grow=0.25)
    cell = 16
    assert rle.box_xyxy == (320 - 25 - cell, 160 - 25 - cell, 420 + 25 + cell, 260 + 25 + cell)


def test_nothing_is_published_outside_the_source() -> None:
    fit = fit_size(480, 640, height=192, width=320)
    logits = np.ones((2, 48, 80), dtype=np.float32)
    boxes = np.array([[-100.0, -100, 5000, 5000], [630, 470, 640, 480]])
    whole, corner = crop_masks(logits, boxes, fit=fit)
    assert whole.box_xyxy == (0, 0, 640, 480)
    assert whole.area == 640 * 480
    assert corner.box_xyxy[2:] == (640, 480)


def test_empty_masks_and_impossible_boxes_give_empty_crops() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    nan, inf = float("nan"), float("inf")
    boxes = np.array(
        [[10, 10, 50, 50], [nan, 0, 5, 5], [0, 0, inf, 5], [5000, 0, 6000, 9], [50, 50, -90, -90]]
    )
    logits = np.ones((5, 48, 80), dtype=np.float32)
    logits[0] = 0  # a logit of 0 is not in the mask
    assert [rle.is_empty for rle in crop_masks(logits, boxes, fit=fit)] == [True] * 5
    assert crop_masks(logits[:0], boxes[:0], fit=fit) == []


def test_infinite_logits_act_as_large_ones() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    logits = np.full((1, 48, 80), -np.inf, dtype=np.float32)
    logits[0, 10:20, 10:30] = np.inf
    (rle,) = crop_masks(logits, np.array([[160.0, 160, 480, 320]]), fit=fit)
    assert rle.box_xyxy == (160, 160, 480, 320)


def test_a_cell_that_is_no_number_is_outside_and_spoils_no_other() -> None:
    fit = fit_size(192, 320, height=192, width=320)
    logits = np.ones((1, 48, 80), dtype=np.float32)
    logits[0, 10, 20] = np.nan
    (rle,) = crop_masks(logits, np.array([[0.0, 0, 320, 192]]), fit=fit)
    hole = ~rle.decode(192, 320)
    assert hole[38:46, 78:86][2:6, 2:6].all()
    assert 16 <= hole.sum() <= 64


def test_one_cell_maps_are_constant() -> None:
    fit = fit_size(4, 4, height=4, width=4)
    (rle,) = crop_masks(np.ones((1, 1, 1), np.float32), np.array([[1.0, 1, 2, 2]]), fit=fit)
    assert rle.area == 16


@pytest.mark.parametrize(
    ("logits", "boxes", "message"),
    [
        ((48, 80), (1, 4), r"mask_logits must be \(N, h, w\)"),
        ((2, 48, 80), (3, 4), r"boxes_xyxy \(N, 4\), got \(2, 48, 80\) and \(3, 4\)"),
        ((2, 45, 80), (2, 4), r"must be 48×80 for a model input of 192×320 at stride 4, got 45×80"),
    ],
)
def test_contradicting_shapes_are_named(
    logits: tuple[int, ...], boxes: tuple[int, ...], message: str
) -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    with pytest.raises(ValueError, match=message):
        crop_masks(np.zeros(logits, np.float32), np.zeros(boxes), fit=fit)
