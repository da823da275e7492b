"""Targets from the visible pixels of a clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.training.targets import Lattice, Target, coarse_masks, ignored_shares


def clip_masks(N: int, T: int, H: int = 16, W: int = 24) -> np.ndarray:
    return np.zeros((N, T, H, W), dtype=bool)


def test_boxes_and_presence_are_those_of_the_visible_pixels() -> None:
    masks = clip_masks(2, 2)
    masks[0, 0, 4:8, 6:18] = True
    masks[0, 0, 5, 10:12] = False  # something in front: the box stays
    masks[1, 1, 15, 23] = True
    target = Target.from_clip(masks, np.array([3, 1]))
    assert target.labels.tolist() == [3, 1]
    assert target.present.tolist() == [[True, False], [False, True]]
    expected = torch.zeros(2, 2, 4)
    expected[0, 0] = torch.tensor([12 / 24, 6 / 16, 12 / 24, 4 / 16])
    expected[1, 1] = torch.tensor([23.5 / 24, 15.5 / 16, 1 / 24, 1 / 16])
    torch.testing.assert_close(target.boxes, expected)


def test_a_cell_belongs_to_an_instance_from_half_of_its_pixels_on() -> None:
    masks = clip_masks(1, 1)
    masks[0, 0, 4:6, 8:12] = True  # 8 of 16 pixels of cell (1, 2)
    masks[0, 0, 4:6, 12:15] = True  # 6 of 16 of its neighbour
    target = Target.from_clip(masks, np.zeros(1, dtype=np.int64))
    assert target.masks.shape == (1, 1, 4, 6)
    assert target.masks.nonzero().tolist() == [[0, 0, 1, 2]]
    assert target.masks.dtype == torch.float32


def test_a_visible_instance_keeps_its_fullest_cell_and_an_absent_one_stays_empty() -> None:
    masks = clip_masks(1, 3)
    masks[0, 0, 3, 3:9] = True  # one row: 1, 4 and 1 pixels of three cells
    masks[0, 2, 0, 23] = True
    target = Target.from_clip(masks, np.zeros(1, dtype=np.int64))
    assert target.masks.nonzero().tolist() == [[0, 0, 0, 1], [0, 2, 0, 5]]
    assert not target.masks[0, 1].any()


def test_cells_that_the_border_cuts_count_their_own_pixels_alone() -> None:
    masks = torch.zeros(1, 1, 10, 9, dtype=torch.bool)
    masks[0, 0, 8:, 8] = True
    assert coarse_masks(masks).nonzero().tolist() == [[0, 0, 2, 2]]
    masks[0, 0, :4, :4] = True
    masks[0, 0, 9, 8] = False  # 1 of the 2 pixels that the cell has
    assert coarse_masks(masks).nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 2, 2]]


def test_flipped_and_read_only_arrays_are_taken(recwarn: pytest.WarningsRecorder) -> None:
    masks = clip_masks(1, 1)
    masks[0, 0, :4, :4] = True
    flipped = masks[..., ::-1]
    masks.flags.writeable = False
    labels = np.zeros(1, dtype=np.int64)
    assert Target.from_clip(flipped, labels).masks.nonzero().tolist() == [[0, 0, 0, 5]]
    assert Target.from_clip(masks, labels).masks.nonzero().tolist() == [[0, 0, 0, 0]]
    assert not recwarn.list


@pytest.mark.parametrize("size", [(16, 24), (13, 18)])
def test_many_random_masks_agree_with_their_definition(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((6, 3, *size)) < np.linspace(0, 0.8, 6)[:, None, None, None]
    target = Target.from_clip(masks, np.arange(6))
    kept = masks[masks.any(axis=(1, 2, 3))]
    assert target.labels.tolist() == [1, 2, 3, 4, 5]
    for n, t in np.ndindex(kept.shape[:2]):
        rows, columns = np.nonzero(kept[n, t])
        if len(rows) == 0:
            assert not target.present[n, t]
            continue
        x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        box = [(x0 + x1) / 2 / size[1], (y0 + y1) / 2 / size[0], (x1 - x0) / size[1], (y1 - y0) / size[0]]
        np.testing.assert_allclose(target.boxes[n, t], box, rtol=1e-6)
        share = np.array(
            [
                [kept[n, t, y : y + 4, x : x + 4].mean() for x in range(0, size[1], 4)]
                for y in range(0, size[0], 4)
            ]
        )
        cells = share >= 0.5 if share.max() >= 0.5 else share == share.max()
        if cells.sum() > 1 and share.max() < 0.5:  # a tie: any one of the fullest cells
            assert target.masks[n, t].sum() == 1
            assert cells[target.masks[n, t].numpy() > 0].all()
        else:
            np.testing.assert_array_equal(target.masks[n, t].numpy(), cells)


def test_an_instance_without_a_pixel_is_left_out() -> None:
    masks = clip_masks(3, 2)
    masks[1, 0, :8, :8] = True
    target = Target.from_clip(masks, np.array([5, 6, 7]))
    assert target.labels.tolist() == [6]
    nothing = Target.from_clip(clip_masks(0, 2), np.zeros(0, dtype=np.int64))
    assert nothing.num_instances == 0
    assert nothing.num_frames == 2
    assert nothing.boxes.shape == (0, 2, 4)
    assert nothing.masks.shape == (0, 2, 4, 6)
    assert nothing.to("cpu").labels.dtype == torch.int64


def test_shapes_and_types_that_do_not_fit_are_named() -> None:
    masks = clip_masks(2, 2)
    masks[:] = True
    with pytest.raises(ValueError, match=r"masks are torch.bool \(2, 2, 16, 24\) and labels \(3,\)"):
        Target.from_clip(masks, np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match=r"torch.uint8"):
        Target.from_clip(masks.astype(np.uint8), np.zeros(2, dtype=np.int64))
    good = Target.from_clip(masks, np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match=r"boxes of a target have shape \(2, 1, 4\), expected \(2, 2, 4\)"):
        Target(good.labels, good.boxes[:, :1], good.masks, good.present)
    with pytest.raises(ValueError, match=r"torch.float32 and torch.bool"):
        Target(good.labels.float(), good.boxes, good.masks, good.present)


def test_ignored_pixels_become_cells() -> None:
    masks = clip_masks(1, 2)
    masks[0] = True
    ignore = np.zeros((2, 16, 24), dtype=bool)
    ignore[0, :4, :6] = True  # a cell and half of the next
    ignore[1, :, 20:21] = True  # a quarter of each cell
    target = Target.from_clip(masks, np.zeros(1, dtype=np.int64), ignore=ignore)
    assert target.ignore is not None
    assert target.ignore.nonzero().tolist() == [[0, 0, 0], [0, 0, 1]]
    assert target.select(torch.tensor([0])).ignore is target.ignore
    moved = target.to("cpu").ignore
    assert moved is not None
    assert torch.equal(moved, target.ignore)
    with pytest.raises(
        ValueError, match=r"ignored pixels are torch.bool \(16, 24\), expected bool \(2, 16, 24\)"
    ):
        Target.from_clip(masks, np.zeros(1, dtype=np.int64), ignore=ignore[0])


def test_fine_masks_are_the_pixels_of_a_lattice_and_go_where_the_others_go() -> None:
    masks = clip_masks(2, 2)
    masks[0, :, 2:4, 2:4] = masks[1, 1, :1, :1] = True
    targets = [
        Target.from_clip(masks, np.zeros(2, dtype=np.int64), lattice=Lattice.of_step(2, step))
        for step in range(4)
    ]
    seen = np.zeros(masks.shape, dtype=int)
    for target in targets:
        assert target.lattice is not None
        assert target.fine_masks is not None
        assert torch.equal(target.masks, coarse_masks(torch.from_numpy(masks)))
        rows, columns = (target.lattice.rows(16).numpy(), target.lattice.columns(24).numpy())
        assert (target.fine_masks.numpy() == masks[:, :, rows][:, :, :, columns]).all()
        seen[:, :, rows[:, None], columns] += 1
    assert (seen == 1).all()  # four steps look at every pixel once
    chosen = targets[0].to("cpu").select(torch.tensor([1]))
    assert torch.equal(chosen.finest_masks, targets[0].finest_masks[1:])
    assert chosen.lattice == targets[0].lattice == targets[0].select(torch.tensor([0])).lattice
    without = Target.from_clip(masks, np.zeros(2, dtype=np.int64))
    assert without.finest_masks is without.masks


def test_the_share_of_a_box_on_ignored_cells() -> None:
    ignore = torch.zeros(2, 4, 4, dtype=torch.bool)
    ignore[0, :, :2] = True  # the left half of frame 0
    left, middle, right = [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.3, 0.3], [0.8, 0.5, 0.2, 0.2]
    boxes = torch.tensor([[left, middle, right, [0.5, 0.5, 0.0, 0.0]]]).repeat(2, 1, 1, 1)[:, 0]
    torch.testing.assert_close(ignored_shares(boxes, ignore), torch.tensor([0.5, 0.25, 0.0, 0.0]))
    torch.testing.assert_close(ignored_shares(boxes[:1], ignore[:1]), torch.tensor([1.0, 0.5, 0.0, 0.0]))
    outside = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])  # half of the box is beyond the image: not ignored
    torch.testing.assert_close(ignored_shares(outside, ignore[:1]), torch.tensor([0.5]))
