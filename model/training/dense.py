"""Dense losses: every cell of the encoder says whether an object's centre lies there and how large it is.

Source: CenterNet's penalty-reduced focal loss on Gaussian peaks (Zhou et al., arXiv 1904.07850); that dense
pre-training makes a small network learn is training.md's finding. Ours: the level follows from the object's
size, the box loss counts near a peak, and a foreground map of the mask branch is trained along.

Dimensions: N frames, P positions of all levels, K outputs, n visible (instance, frame) pairs, h × w mask
cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.position import pixel_centres
from model.layers.selection import DenseOutput, QuerySelection
from model.training.losses import giou
from model.training.targets import Target
from ops.levels import Sizes, level_starts

LEVEL_SIZES = (48.0, 96.0, 192.0)
"""Longer side, in pixels, up to which an object belongs to the first, second, third level."""

SPREAD = 0.15
"""Standard deviation of a peak, in sides of the object's box; at least half a cell."""

NEAR = 0.5
"""Height of a peak from which on a cell's box counts."""


class DenseHeads(nn.Module):
    """What only training needs: a foreground map and, where the network selects no queries, cell heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.foreground = nn.Conv2d(config.mask_channels, 1, 1)
        self.selection = QuerySelection(config) if config.query_selection == "learned" else None


@dataclass(frozen=True)
class DenseTargets:
    """heat: (N, P, K) 0..1, exactly 1 at one cell per visible instance; boxes: (N, P, 4) of the nearest
    instance; near: (N, P) weight of a cell's box; ignored: (N, P) bool, cells that no peak need not deny, or
    None."""

    heat: Tensor
    boxes: Tensor
    near: Tensor
    num_peaks: Tensor
    """() how many instances are visible, over all frames."""
    ignored: Tensor | None = None


def dense_targets(
    targets: Sequence[Target], sizes: Sizes, *, image_size: tuple[int, int], num_outputs: int
) -> DenseTargets:
    """Targets of all frames of all windows, window by window (N = Σ T); one output stands for all labels."""
    height, width = image_size
    device = targets[0].boxes.device
    centres = pixel_centres(sizes, device, torch.float32)  # (P, 2)
    starts = level_starts(sizes)
    level = torch.cat([torch.full((starts[i + 1] - starts[i],), i, device=device) for i in range(len(sizes))])
    pixels = centres.new_tensor([width, height])
    num_frames = sum(target.num_frames for target in targets)
    P = centres.shape[0]
    heat = torch.zeros(num_frames, P, num_outputs, device=device)
    boxes = torch.zeros(num_frames, P, 4, device=device)
    near = torch.zeros(num_frames, P, device=device)
    bounds = centres.new_tensor(LEVEL_SIZES[: len(sizes) - 1])
    frame = 0
    num_peaks = torch.zeros((), dtype=torch.int64, device=device)
    for target in targets:
        labels = torch.zeros_like(target.labels) if num_outputs == 1 else target.labels  # (n,)
        for t in range(target.num_frames):
            if target.num_instances:
                # Who is not there has no peak: picking those who are would wait for the device.
                seen, wanted = target.present[:, t], target.boxes[:, t]  # (n,), (n, 4)
                num_peaks += seen.sum()
                sides = wanted[:, 2:] * pixels
                own = torch.bucketize(sides.amax(dim=1), bounds)  # (n,)
                stride = 8.0 * 2.0 ** own.float()
                spread = torch.maximum(SPREAD * sides, 0.5 * stride[:, None])  # (n, 2)
                distance = (centres[None] - wanted[:, None, :2]) * pixels  # (n, P, 2)
                peak = torch.exp(-0.5 * (distance / spread[:, None]).square().sum(-1))
                peak = peak * (level[None] == own[:, None])
                peak = peak.scatter(1, peak.argmax(dim=1, keepdim=True), 1.0) * seen[:, None]
                value, owner = peak.max(dim=0)  # (P,)
                boxes[frame] = wanted[owner]
                near[frame] = value * (value >= NEAR)
                heat[frame].t().scatter_reduce_(0, labels[:, None].expand_as(peak), peak, "amax")
            frame += 1
    ignored = ignored_frames(targets)
    if ignored is not None:
        x, y = (centres * centres.new_tensor([ignored.shape[2], ignored.shape[1]])).long().unbind(-1)
        ignored = ignored[:, y, x]  # (N, P)
    return DenseTargets(heat, boxes, near, num_peaks, ignored)


def dense_losses(output: DenseOutput, wanted: DenseTargets) -> dict[str, Tensor]:
    """The unweighted terms "centre", "cell_l1" and "cell_giou"."""
    with torch.autocast(output.logits.device.type, enabled=False):
        logits = output.logits.float()
        score = logits.sigmoid()
        peak = wanted.heat >= 1.0
        found = (1 - score).square() * F.softplus(-logits)
        empty = (1 - wanted.heat).pow(4) * score.square() * F.softplus(logits)
        if wanted.ignored is not None:
            empty = empty * ~wanted.ignored[..., None]
        centre = torch.where(peak, found, empty).sum() / wanted.num_peaks.clamp(min=1)
        weight = wanted.near
        total = weight.sum().clamp(min=1e-6)
        boxes = output.boxes.float()
        # Cells without weight compare their box with itself: picking the others would wait for the device.
        truth = torch.where(weight[..., None] > 0, wanted.boxes, boxes.detach())
        distance = (boxes - truth).abs().sum(dim=-1)
        apart = 1 - giou(boxes, truth)
        return {
            "centre": centre,
            "cell_l1": (weight * distance).sum() / total,
            "cell_giou": (weight * apart).sum() / total,
        }


def foreground_loss(logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """Binary cross-entropy plus dice of the foreground map (N, 1, h, w) against the union of the masks."""
    with torch.autocast(logits.device.type, enabled=False):
        union = torch.cat(
            [
                target.masks.amax(dim=0) if target.num_instances else target.masks.sum(dim=0)
                for target in targets
            ]
        )
        logits = logits.float()[:, 0]
        if logits.shape[-2:] != union.shape[-2:]:
            union = F.interpolate(union[:, None], size=logits.shape[-2:])[:, 0]
        score = logits.sigmoid()
        counted = _counted(targets, union)
        if counted is not None:
            score, union = score * counted, union * counted
        overlap = 1 - (2 * (score * union).sum() + 1) / (score.sum() + union.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, union, weight=counted) + overlap


def ignored_frames(targets: Sequence[Target]) -> Tensor | None:
    """Ignored mask cells of all frames of all windows, (N, h, w) bool; None where there are none."""
    if all(target.ignore is None for target in targets):
        return None
    return torch.cat(
        [
            target.masks.new_zeros(target.masks.shape[1:]).bool() if target.ignore is None else target.ignore
            for target in targets
        ]
    )


def _counted(targets: Sequence[Target], union: Tensor) -> Tensor | None:
    """1 for the cells of the union's map (N, h, w) that count: those of instances, and those not ignored."""
    ignored = ignored_frames(targets)
    if ignored is None:
        return None
    if ignored.shape[-2:] != union.shape[-2:]:
        ignored = F.interpolate(ignored[:, None].float(), size=union.shape[-2:])[:, 0] > 0
    return (~ignored | (union > 0)).float()
