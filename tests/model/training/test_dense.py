"""Dense targets and losses: a peak per visible instance, on the level of its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.layers.position import image_level_sizes, pixel_centres
from model.layers.selection import DenseOutput
from model.training.dense import DenseHeads, DenseTargets, dense_losses, dense_targets, foreground_loss
from model.training.targets import Target
from ops.levels import level_starts

HEIGHT, WIDTH = 128, 192
SIZES = image_level_sizes(HEIGHT, WIDTH, 4)


def target(boxes: list[list[list[float]]], labels: list[int] | None = None) -> Target:
    """Target of boxes (N, T, 4) in pixels cxcywh, all zeros for an absent one; masks are the boxes'."""
    pixels = torch.tensor(boxes).reshape(len(boxes), -1, 4)
    N, T = pixels.shape[:2]
    masks = torch.zeros(N, T, HEIGHT // 4, WIDTH // 4)
    for n in range(N):
        for t in range(T):
            x, y, w, h = (value / 4 for value in pixels[n, t].tolist())
            masks[n, t, round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)] = 1
    return Target(
        labels=torch.tensor(labels or [0] * N),
        boxes=pixels / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]),
        masks=masks,
        present=(pixels[..., 2] > 0),
    )


def made(targets: list[Target], *, num_outputs: int = 1) -> DenseTargets:
    return dense_targets(targets, SIZES, image_size=(HEIGHT, WIDTH), num_outputs=num_outputs)


def level_of(cell: int) -> int:
    starts = level_starts(SIZES)
    return max(level for level in range(len(SIZES)) if starts[level] <= cell)


@pytest.mark.parametrize(("side", "level"), [(12.0, 0), (40.0, 0), (60.0, 1), (110.0, 2)])
def test_an_instance_has_one_peak_on_the_level_of_its_size(side: float, level: int) -> None:
    wanted = made([target([[[90.0, 60.0, side, side / 2]]])])
    peaks = (wanted.heat[0, :, 0] == 1.0).nonzero()[:, 0].tolist()
    assert len(peaks) == 1
    assert level_of(peaks[0]) == level
    centre = pixel_centres(SIZES, torch.device("cpu"), torch.float32)[peaks[0]] * torch.tensor(
        [WIDTH, HEIGHT]
    )
    stride = 8 * 2**level
    assert ((centre - torch.tensor([90.0, 60.0])).abs() <= stride / 2 + 1e-3).all()
    warm = (wanted.heat[0, :, 0] > 0.01).nonzero()[:, 0].tolist()
    assert {level_of(cell) for cell in warm} == {level}
    assert wanted.num_peaks == 1


def test_only_visible_frames_have_peaks_and_frames_are_in_order() -> None:
    absent = [0.0, 0.0, 0.0, 0.0]
    first = target([[[40.0, 40.0, 20.0, 20.0], absent], [[140.0, 90.0, 20.0, 20.0]] * 2])
    second = target([[absent, [100.0, 60.0, 30.0, 30.0]]])
    wanted = made([first, second])
    assert wanted.heat.shape == (4, len(wanted.heat[0]), 1)
    assert (wanted.heat == 1).sum(dim=(1, 2)).tolist() == [2, 1, 0, 1]
    assert wanted.num_peaks == 4
    assert not wanted.near[2].any()


def test_the_box_of_a_cell_is_the_nearest_instances() -> None:
    both = target([[[40.0, 40.0, 46.0, 46.0]], [[72.0, 40.0, 46.0, 46.0]]])
    wanted = made([both])
    cells = (wanted.near[0] > 0).nonzero()[:, 0]
    centres = pixel_centres(SIZES, torch.device("cpu"), torch.float32)[cells]
    assert len(cells) >= 4
    for cell, centre in zip(cells.tolist(), centres, strict=True):
        nearest = int((both.boxes[:, 0, :2] - centre).square().sum(dim=1).argmin())
        assert torch.equal(wanted.boxes[0, cell], both.boxes[nearest, 0])
    assert (wanted.near[0][cells] >= 0.5).all()


def test_each_class_has_its_own_heat() -> None:
    wanted = made(
        [target([[[40.0, 40.0, 24.0, 24.0]], [[140.0, 80.0, 24.0, 24.0]]], labels=[2, 0])], num_outputs=3
    )
    assert (wanted.heat[0] == 1).sum(dim=0).tolist() == [1, 0, 1]


def outputs_for(wanted: DenseTargets, *, sure: float = 9.0) -> DenseOutput:
    """What a network that knows everything says."""
    logits = torch.where(wanted.heat == 1, sure, -sure)
    return DenseOutput(logits, wanted.boxes.clamp(1e-3, 1))


def test_right_answers_cost_nothing_and_wrong_ones_do() -> None:
    wanted = made([target([[[40.0, 40.0, 24.0, 40.0], [50.0, 40.0, 24.0, 40.0]]])])
    right = dense_losses(outputs_for(wanted), wanted)
    assert right.keys() == {"centre", "cell_l1", "cell_giou"}
    assert all(float(value) < 0.01 for value in right.values())
    inverse = dense_losses(outputs_for(wanted, sure=-9.0), wanted)
    assert inverse["centre"] > 100
    shifted = DenseOutput(outputs_for(wanted).logits, wanted.boxes + torch.tensor([0.1, 0.0, 0.0, 0.0]))
    moved = dense_losses(shifted, wanted)
    assert float(moved["cell_l1"]) == pytest.approx(0.1, abs=1e-4)
    assert float(moved["cell_giou"]) > 0.5


def test_the_centre_loss_is_centernets() -> None:
    wanted = made([target([[[40.0, 40.0, 24.0, 24.0]]])])
    logits = torch.linspace(-3, 3, wanted.heat.numel()).view_as(wanted.heat)
    expected = 0.0
    for score, heat in zip(logits.sigmoid().flatten().tolist(), wanted.heat.flatten().tolist(), strict=True):
        log = torch.log(torch.tensor(score if heat == 1 else 1 - score, dtype=torch.float64))
        weight = (1 - score) ** 2 if heat == 1 else (1 - heat) ** 4 * score**2
        expected -= weight * float(log)
    loss = dense_losses(DenseOutput(logits, wanted.boxes.clamp(1e-3, 1)), wanted)["centre"]
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


def test_gradients_push_the_right_way_and_are_finite_without_instances() -> None:
    wanted = made([target([[[40.0, 40.0, 24.0, 24.0]]])])
    logits = torch.zeros_like(wanted.heat, requires_grad=True)
    boxes = wanted.boxes.clamp(0.01, 1) + 0.01
    boxes.requires_grad_()
    losses = dense_losses(DenseOutput(logits, boxes), wanted)
    of_logits, of_boxes = gradients(torch.stack(list(losses.values())).sum(), logits, boxes)
    peak = wanted.heat == 1
    assert (of_logits[peak] < 0).all()
    assert (of_logits[wanted.heat < 0.5] > 0).all()
    assert (of_boxes[wanted.near == 0] == 0).all()
    assert (of_boxes[wanted.near > 0] != 0).any()

    nothing = made([empty_target()])
    losses = dense_losses(DenseOutput(logits, boxes), nothing)
    of_logits, of_boxes = gradients(torch.stack(list(losses.values())).sum(), logits, boxes)
    assert of_logits.isfinite().all()
    assert (of_logits > 0).all()
    assert not of_boxes.any()


def empty_target() -> Target:
    return Target(
        labels=torch.zeros(0, dtype=torch.int64),
        boxes=torch.zeros(0, 1, 4),
        masks=torch.zeros(0, 1, HEIGHT // 4, WIDTH // 4),
        present=torch.zeros(0, 1, dtype=torch.bool),
    )


def test_the_foreground_is_the_union_of_the_instances() -> None:
    both = target([[[40.0, 40.0, 24.0, 24.0]], [[44.0, 40.0, 24.0, 24.0]]])
    union = both.masks.amax(dim=0)[None]
    right = foreground_loss((union * 2 - 1) * 12, [both])
    assert 0 <= float(right) < 0.01
    assert foreground_loss((1 - union * 2) * 12, [both]) > 10
    # A map at half the resolution is compared with the masks at its own.
    coarse = torch.zeros(1, 1, HEIGHT // 8, WIDTH // 8, requires_grad=True)
    foreground_loss(coarse, [both]).backward()
    assert coarse.grad is not None
    assert coarse.grad.isfinite().all()
    assert foreground_loss(torch.full((1, 1, HEIGHT // 4, WIDTH // 4), -12.0), [empty_target()]) < 0.01


def test_ignored_cells_count_for_nothing() -> None:
    plain = target([[[40.0, 40.0, 24.0, 24.0]]])
    ignore = torch.zeros(1, HEIGHT // 4, WIDTH // 4, dtype=torch.bool)
    ignore[:, :, 24:] = True  # the right half
    crowd = Target(plain.labels, plain.boxes, plain.masks, plain.present, ignore)
    wanted = made([crowd])
    logits = torch.zeros_like(wanted.heat, requires_grad=True)
    loss = dense_losses(DenseOutput(logits, wanted.boxes.clamp(1e-3, 1)), wanted)["centre"]
    (gradient,) = gradients(loss, logits)
    right = pixel_centres(SIZES, torch.device("cpu"), torch.float32)[:, 0] > 0.5
    assert not gradient[0, right].any()
    assert gradient[0, ~right].any()
    scores = torch.zeros(1, 1, HEIGHT // 4, WIDTH // 4, requires_grad=True)
    (gradient,) = gradients(foreground_loss(scores, [crowd]), scores)
    assert not gradient[..., 24:].any()
    assert gradient[..., :24].any()


def test_heads_are_made_where_the_network_has_none() -> None:
    assert DenseHeads(ModelConfig(query_selection="encoder")).selection is None
    assert DenseHeads(ModelConfig(query_selection="learned")).selection is not None
