"""What a window should come to: labels, boxes and masks of its instances, and where they are visible.

Source: the target format is ours; boxes of the visible part and masks at stride 4 as in model.md 1.7 and 5.

Dimensions: N instances, T frames, H × W pixels, h × w mask cells (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ops.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh

MASK_STRIDE = 4
"""Pixels per mask cell, along both axes."""


class Lattice(NamedTuple):
    """Every `stride`-th pixel along both axes, from row `top` and column `left` on."""

    stride: int
    top: int
    left: int

    @classmethod
    def of_step(cls, stride: int, step: int) -> Lattice:
        """The lattice of a step: stride² steps look at every pixel once."""
        return cls(stride, *divmod(step % stride**2, stride))

    def rows(self, count: int) -> Tensor:
        """The lattice's rows of a picture of `count`, int64."""
        return torch.arange(self.top, count, self.stride)

    def columns(self, count: int) -> Tensor:
        """The lattice's columns of a picture of `count`, int64."""
        return torch.arange(self.left, count, self.stride)


@dataclass(frozen=True)
class Target:
    """The instances of one window, each visible in at least one of its frames.

    labels: (N,) int64 index of the class output; boxes: (N, T, 4) cxcywh in 0..1 of the visible part, zeros
    where absent; masks: (N, T, h, w) float 0 or 1 at stride 4; present: (N, T) bool, visible in the frame.
    ignore: (T, h, w) bool, cells that are ignored (crowds), or None. fine_masks: (N, T, h', w') float 0
    or 1, the pixels of `lattice`, for the mask losses; both None where those look at masks.
    Raises ValueError if the shapes or types do not belong together.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    present: Tensor
    ignore: Tensor | None = None
    fine_masks: Tensor | None = None
    lattice: Lattice | None = None

    def __post_init__(self) -> None:
        wanted: dict[str, tuple[int | None, ...]] = {
            "labels": (self.num_instances,),
            "present": (self.num_instances, None),
            "boxes": (self.num_instances, self.num_frames, 4),
            "masks": (self.num_instances, self.num_frames, None, None),
        }
        if self.ignore is not None:
            wanted["ignore"] = (self.num_frames, *self.masks.shape[2:])
        if self.fine_masks is not None:
            wanted["fine_masks"] = (self.num_instances, self.num_frames, None, None)
        for name, shape in wanted.items():
            have = tuple(getattr(self, name).shape)
            if len(have) != len(shape) or any(w not in (None, g) for g, w in zip(have, shape, strict=True)):
                spelled = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(f"{name} of a target have shape {have}, expected ({spelled})")
        if self.labels.dtype != torch.int64 or self.present.dtype != torch.bool:
            raise ValueError(
                f"labels and present of a target are {self.labels.dtype} and {self.present.dtype}, "
                "expected torch.int64 and torch.bool"
            )

    @property
    def num_instances(self) -> int:
        return self.labels.shape[0] if self.labels.dim() else 0

    @property
    def num_frames(self) -> int:
        return self.present.shape[-1] if self.present.dim() else 0

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Target:
        """The same target on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Target(
            labels=move(self.labels),
            boxes=move(self.boxes),
            masks=move(self.masks),
            present=move(self.present),
            ignore=None if self.ignore is None else move(self.ignore),
            fine_masks=None if self.fine_masks is None else move(self.fine_masks),
            lattice=self.lattice,
        )

    @property
    def finest_masks(self) -> Tensor:
        """What the mask losses compare with: `fine_masks`, or `masks` where there are none."""
        return self.masks if self.fine_masks is None else self.fine_masks

    def select(self, chosen: Tensor) -> Target:
        """The target of some of its instances, by int64 indices or a bool mask (N,)."""
        return replace(
            self,
            labels=self.labels[chosen],
            boxes=self.boxes[chosen],
            masks=self.masks[chosen],
            present=self.present[chosen],
            fine_masks=None if self.fine_masks is None else self.fine_masks[chosen],
        )

    @classmethod
    def from_clip(
        cls,
        masks: NDArray[Any] | Tensor,
        labels: NDArray[Any] | Tensor,
        *,
        ignore: NDArray[Any] | Tensor | None = None,
        lattice: Lattice | None = None,
    ) -> Target:
        """Target of a clip's visible pixels: masks (N, T, H, W) bool, labels (N,), ignore (T, H, W) bool;
        with the pixels of a lattice as `fine_masks` where one is given.

        An instance without a pixel in any frame is left out: there is nothing to find. A mask cell belongs to
        an instance where at least half of its pixels do; where an instance is visible yet fills no cell by
        half, it keeps the cell that it fills most, so that a present instance never has an empty mask. A cell
        is ignored where at least half of its pixels are.
        Raises ValueError for other shapes or masks that are not bool.
        """
        masks, labels = _tensor(masks), _tensor(labels)
        if masks.dim() != 4 or masks.dtype != torch.bool or tuple(labels.shape) != (masks.shape[0],):
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)} and labels {tuple(labels.shape)}, "
                "expected bool (N, T, H, W) and (N,)"
            )
        if ignore is not None:
            ignore = _tensor(ignore)
            if ignore.dtype != torch.bool or ignore.shape != masks.shape[1:]:
                raise ValueError(
                    f"ignored pixels are {ignore.dtype} {tuple(ignore.shape)}, expected bool "
                    f"{tuple(masks.shape[1:])}"
                )
            ignore = cell_shares(ignore) >= 0.5
        present = _any(_any(masks))  # (N, T)
        seen = present.any(dim=1)
        if not bool(seen.all()):
            masks, labels, present = masks[seen], labels[seen], present[seen]
        return cls(
            labels=labels.to(torch.int64),
            boxes=visible_boxes(masks),
            masks=coarse_masks(masks),
            present=present,
            ignore=ignore,
            fine_masks=None
            if lattice is None
            else masks[..., lattice.top :: lattice.stride, lattice.left :: lattice.stride].float(),
            lattice=lattice,
        )


def visible_boxes(masks: Tensor) -> Tensor:
    """Boxes (N, T, 4), cxcywh in 0..1, around the pixels of masks (N, T, H, W) bool; zeros where none."""
    (x0, x1), (y0, y1) = _extent(_any(masks.transpose(-1, -2))), _extent(_any(masks))
    return box_xyxy_to_cxcywh(torch.stack((x0, y0, x1, y1), dim=-1))


def coarse_masks(masks: Tensor) -> Tensor:
    """Masks (N, T, H, W) bool at stride 4: (N, T, ⌈H/4⌉, ⌈W/4⌉) float 0 or 1, empty only where they are."""
    share = cell_shares(masks)
    if len(masks) == 0:
        return share
    coarse = (share >= 0.5).float()
    fullest = share.amax(dim=(-2, -1))
    lost = (fullest > 0) & (fullest < 0.5)
    if bool(lost.any()):
        rows = share[lost].flatten(1)
        best = F.one_hot(rows.argmax(dim=1), rows.shape[1]).float()
        coarse[lost] = best.view(-1, *share.shape[-2:])
    return coarse


def cell_shares(masks: Tensor) -> Tensor:
    """Share of each mask cell's pixels that are True: (…, H, W) bool to (…, ⌈H/4⌉, ⌈W/4⌉) in 0..1."""
    *rest, H, W = masks.shape
    h, w = -(-H // MASK_STRIDE), -(-W // MASK_STRIDE)
    pixels = F.pad(masks.view(torch.uint8), (0, w * MASK_STRIDE - W, 0, h * MASK_STRIDE - H))
    # Whole planes of uint8 are added: pooling or summing over an axis takes five times as long.
    rows = _add(pixels.view(*rest, h, MASK_STRIDE, w * MASK_STRIDE), dim=-2)
    count = _add(rows.view(*rest, h, w, MASK_STRIDE), dim=-1)
    return count / (_cell_sizes(H, masks.device)[:, None] * _cell_sizes(W, masks.device))


def ignored_shares(boxes: Tensor, ignore: Tensor) -> Tensor:
    """Share of each box's area, all frames together, that lies on ignored cells.

    boxes (T, Q, 4) cxcywh in 0..1, ignore (T, h, w) bool → (Q,) in 0..1.
    """
    x0, y0, x1, y1 = box_cxcywh_to_xyxy(boxes).unbind(-1)
    h, w = ignore.shape[-2:]
    # Area of box ∩ cell = (its overlap along y)·(its overlap along x).
    inside = torch.einsum(
        "tqh,thw,tqw->q", _overlaps(y0, y1, h), ignore.to(boxes.dtype), _overlaps(x0, x1, w)
    )
    area = (boxes[..., 2] * boxes[..., 3]).sum(dim=0)
    return inside / area.clamp(min=torch.finfo(area.dtype).tiny)


def _overlaps(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Length of [low, high] within each of `count` equal cells of 0..1: (…) to (…, count)."""
    edges = torch.arange(count + 1, device=low.device, dtype=low.dtype) / count
    return (torch.minimum(high[..., None], edges[1:]) - torch.maximum(low[..., None], edges[:-1])).clamp(
        min=0
    )


def _tensor(values: NDArray[Any] | Tensor) -> Tensor:
    """A tensor of the values, which may be a read-only or a flipped array; those are copied."""
    if isinstance(values, Tensor):
        return values
    usable = values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return torch.from_numpy(values if usable else values.copy())


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of (…, S) as shares of S; 0 and 0 where none."""
    size = line.shape[-1]
    index = torch.arange(size, device=line.device)
    last = torch.where(line, index + 1, 0).amax(dim=-1)
    first = torch.where(line, index, size).amin(dim=-1).clamp(max=last)
    return first / size, last / size


def _any(masks: Tensor) -> Tensor:
    """`masks.any(dim=-1)` of bool masks; on the CPU PyTorch reduces uint8 three times as fast."""
    return masks.view(torch.uint8).amax(dim=-1).view(torch.bool)


def _add(x: Tensor, *, dim: int) -> Tensor:
    """Sum over a short dimension, in the same type."""
    first, *rest = x.unbind(dim)
    total = first.clone()
    for plane in rest:
        total += plane
    return total


def _cell_sizes(size: int, device: torch.device) -> Tensor:
    """Pixels of each mask cell along an axis of `size` pixels: 4, at the end maybe fewer."""
    starts = torch.arange(0, size, MASK_STRIDE, device=device)
    return (size - starts).clamp(max=MASK_STRIDE)
