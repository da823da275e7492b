"""Losses of masks: values by hand, and what they look at, cells or pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.training.losses import at_pixels, counted_cells, dice_loss, mask_losses
from model.training.targets import Lattice, Target
from ops.masks import crop_masks
from ops.preprocess import fit_size

T = 2


def test_dice_loss_of_hand_computed_values() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[200.0, -200.0], [-200.0, 200.0]]])
    wanted = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    # Σp = 2, Σt = 2, Σpt = 1: 1 − 3/5; then a perfect mask.
    torch.testing.assert_close(dice_loss(logits, wanted), torch.tensor([0.4, 0.0]))
    empty = dice_loss(torch.full((1, 4), -200.0), torch.zeros(1, 4))
    torch.testing.assert_close(empty, torch.zeros(1))


def test_mask_losses_of_hand_computed_values() -> None:
    logits = torch.zeros(2, T, 2, 2)
    wanted = torch.zeros(2, T, 2, 2)
    wanted[0, 0] = 1.0  # instance 1 is empty, as if absent everywhere
    terms = mask_losses(logits, wanted, num_instances=4.0)
    cell = 0.25 * math.log(2.0)
    assert terms["mask"].item() == pytest.approx((0.5 * cell + 0.75 * cell) / 4)
    # 1 − (2·2 + 1)/(4 + 4 + 1) and 1 − 1/(4 + 0 + 1)
    assert terms["dice"].item() == pytest.approx((4 / 9 + 4 / 5) / 4)
    with pytest.raises(ValueError, match=r"\(2, 2, 2, 2\), target masks \(2, 2, 2, 3\)"):
        mask_losses(logits, torch.zeros(2, T, 2, 3), num_instances=1.0)


# Frames of 2×2 cells, `cells` of them the instance's in each of `seen` frames of T, none in the others.
# Unsure, every score 0.5: a cell of the instance costs 0.25·0.5²·0.693147 = u = 0.0433217, another 3u.
# Sure, 0.8 on the instance and 0.2 elsewhere: f = 0.25·0.2²·0.223144 = 0.00223144, and 3f.
@pytest.mark.parametrize(
    ("num_frames", "seen", "cells", "unsure", "sure"),
    [
        # u·(1 + 3·3)/4; 1 − (2·0.5 + 1)/(2 + 1 + 1). f·10/4; Σp = 0.8 + 3·0.2: 1 − (1.6 + 1)/(1.4 + 1 + 1)
        (1, 1, 1, (0.108304, 0.5), (0.00557859, 0.235294)),
        # u·(1 + 7·3)/8; 1 − 2/(4 + 1 + 1). f·22/8; Σp = 0.8 + 7·0.2: 1 − 2.6/(2.2 + 1 + 1)
        (2, 1, 1, (0.119135, 0.666667), (0.00613645, 0.380952)),
        # u·(3 + 17·3)/20; 1 − (3 + 1)/(10 + 3 + 1). f·54/20; Σp = 2.4 + 3.4: 1 − (4.8 + 1)/(5.8 + 3 + 1)
        (5, 3, 1, (0.116969, 0.714286), (0.00602488, 0.408163)),
        # u·(18 + 126·3)/144; 1 − (18 + 1)/(72 + 18 + 1). f·396/144; Σp = 14.4 + 25.2: 1 − 29.8/58.6
        (36, 9, 2, (0.119135, 0.791209), (0.00613645, 0.491468)),
    ],
)
def test_mask_losses_by_hand_from_one_frame_to_36(
    num_frames: int, seen: int, cells: int, unsure: tuple[float, float], sure: tuple[float, float]
) -> None:
    wanted = torch.zeros(1, num_frames, 4)
    wanted[:, :seen, :cells] = 1.0
    wanted = wanted.view(1, num_frames, 2, 2)
    for logits, (focal, dice) in (
        (torch.zeros_like(wanted), unsure),
        (math.log(4.0) * (2 * wanted - 1), sure),
    ):
        terms = mask_losses(logits, wanted, num_instances=2.0)
        assert terms["mask"].item() == pytest.approx(focal / 2, rel=1e-5)
        assert terms["dice"].item() == pytest.approx(dice / 2, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_masks_of_pixels_teach_where_in_a_cell_the_edge_lies(stride: int) -> None:
    """A small disc: what a stream cuts out of logits that learnt its cells is rough, of those that learnt its
    pixels right."""
    y, x = np.mgrid[:48, :48]
    disc = ((y - 21.5) ** 2 + (x - 25) ** 2 < 7**2)[None, None]

    def learnt(stride: int | None) -> float:
        logits = torch.zeros(1, 1, 12, 12, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)
        for step in range(160):
            lattice = None if stride is None else Lattice.of_step(stride, step)
            wanted = Target.from_clip(disc, np.zeros(1, dtype=np.int64), lattice=lattice).finest_masks
            optimizer.zero_grad()
            terms = mask_losses(logits, wanted, num_instances=1.0, lattice=lattice)
            (terms["mask"] + terms["dice"]).backward()
            optimizer.step()
            schedule.step()
        (crop,) = crop_masks(
            logits.detach()[:, 0].numpy(),
            np.array([[0.0, 0, 48, 48]]),
            fit=fit_size(48, 48, height=48, width=48),
        )
        found = crop.decode(48, 48)
        return float((found & disc[0, 0]).sum() / (found | disc[0, 0]).sum())

    rough, right = learnt(None), learnt(stride)
    assert right > 0.93
    assert right > rough + 0.05


@pytest.mark.parametrize("size", [(12, 20), (1, 2)])
def test_logits_at_pixels_are_those_of_a_resized_map(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    resized = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    for lattice in (Lattice(1, 0, 0), Lattice(2, 1, 0), Lattice(4, 2, 3)):
        wanted = resized[..., lattice.top :: lattice.stride, lattice.left :: lattice.stride]
        torch.testing.assert_close(at_pixels(logits, lattice), wanted)


def test_pixels_are_ignored_where_their_cells_are() -> None:
    clip = np.zeros((1, T, 16, 16), dtype=bool)
    clip[0, :, 4:8, 4:8] = True
    ignore = np.zeros((T, 16, 16), dtype=bool)
    ignore[:, :, :8] = True
    lattice = Lattice(2, 1, 0)
    wanted = Target.from_clip(clip, np.zeros(1, dtype=np.int64), ignore=ignore, lattice=lattice)
    counted = counted_cells([wanted], [(torch.tensor([0]), torch.tensor([0]))])
    assert counted is not None
    expected = torch.ones(8, 8)
    expected[:, :4] = 0
    expected[2:4, 2:4] = 1  # the instance's own
    assert torch.equal(counted, expected.expand(1, T, 8, 8))
    with pytest.raises(ValueError, match=r"mask logits are \(1, 2, 3, 3\), target masks \(1, 2, 8, 8\)"):
        mask_losses(torch.zeros(1, T, 3, 3), wanted.finest_masks, num_instances=1.0, lattice=lattice)
