"""The losses of a window: class, boxes and masks of the matched queries, on every decoder layer.

Source: terms and weights of SeqFormer's published code (model.md 5). What differs (ours): a frame where an
instance is absent counts in no box loss (the published code compares with an empty box), and means over
frames are taken over the frames that count. Masks belong to cells or pixels as `model.training.targets` says.
Everything is computed in float32, under autocast too.

Dimensions: B windows, T frames, Q queries, C width, K outputs, N instances of a window, M the most matched
queries of any window, n matched queries of all windows together, h × w mask cells (stride 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from model.layers.decoder import SAME_THING_IOU, LayerOutput, named_queries
from model.training.matcher import FOCAL_ALPHA, Matches, covered_instances, match_layers, shared_boxes
from model.training.targets import MASK_STRIDE, Lattice, Target, ignored_shares
from ops.boxes import box_cxcywh_to_xyxy, generalized_box_iou

__all__ = [
    "LossWeights",
    "MaskFunction",
    "Target",
    "WindowLosses",
    "count_instances",
    "counted_cells",
    "detection_losses",
    "dice_loss",
    "focal_loss",
    "giou",
    "mask_losses",
    "matched_masks",
    "matched_targets",
    "weighted_sum",
    "window_losses",
    "window_losses_and_masks",
]

MaskFunction = Callable[[Tensor, Tensor], Tensor]
"""Queries (B, M, C) and their centres (B, T, M, 2 or 4) in 0..1 → mask logits (B, M, T, h, w)."""

Reduction = Literal["none", "sum", "mean"]

FOCAL_GAMMA = 2.0


@dataclass(frozen=True)
class LossWeights:
    """Factors of the loss terms, the same for every decoder layer."""

    class_weight: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    mask: float = 2.0
    dice: float = 5.0
    masks_on_all_layers: bool = False
    """Mask terms for every decoder layer (the paper's); else for the last, which costs the least."""

    def of(self, term: str) -> float:
        """Factor of a term of `detection_losses` or `mask_losses`."""
        return float(getattr(self, "class_weight" if term == "class" else term))


DEFAULT_WEIGHTS = LossWeights()


@dataclass(frozen=True)
class WindowLosses:
    """What `window_losses_and_masks` computes.

    total: the weighted sum, with gradients. terms: each term, unweighted and detached. matches and
    mask_logits (n, T, h, w), window by window: the last layer's.
    """

    total: Tensor
    terms: dict[str, Tensor]
    matches: Matches
    mask_logits: Tensor


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = FOCAL_ALPHA,
    gamma: float = FOCAL_GAMMA,
    reduction: Reduction = "none",
) -> Tensor:
    """Sigmoid focal loss of logits and targets of one shape, targets in 0..1: −α_t (1 − p_t)^γ log p_t.

    Source: Lin et al., arXiv 1708.02002.
    """
    score = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missing = score + targets - 2 * score * targets  # 1 − p_t
    loss = (alpha * targets + (1 - alpha) * (1 - targets)) * missing**gamma * entropy
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def dice_loss(logits: Tensor, targets: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """1 − (2 Σ p·t + 1) / (Σ p + Σ t + 1), (n,): each row of (n, …) logits and targets on its own.

    counted: 1 where an element counts and 0 where it does not, of the same shape; None: all count.
    """
    score, wanted = logits.flatten(1).sigmoid(), targets.flatten(1)
    if counted is not None:
        score, wanted = score * counted.flatten(1), wanted * counted.flatten(1)
    overlap = (score * wanted).sum(dim=1)
    return 1 - (2 * overlap + 1) / (score.sum(dim=1) + wanted.sum(dim=1) + 1)


def giou(first_cxcywh: Tensor, second_cxcywh: Tensor) -> Tensor:
    """Generalised IoU of two sets of boxes pair by pair: (…, 4) and (…, 4) to (…), −1..1."""
    first, second = box_cxcywh_to_xyxy(first_cxcywh), box_cxcywh_to_xyxy(second_cxcywh)
    return generalized_box_iou(first[..., None, :], second[..., None, :])[..., 0, 0]


def count_instances(targets: Sequence[Target], device: torch.device) -> float:
    """Instances of the batch, at least 1, averaged over the processes of a running process group.

    Every process must call it equally often: it is a collective operation. device: where the group's backend
    wants its tensors.
    """
    count = float(sum(target.num_instances for target in targets))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = torch.tensor(count, device=device)
        torch.distributed.all_reduce(shared)
        count = shared.item() / torch.distributed.get_world_size()  # a wait: the sum of all processes
    return max(1.0, count)


def detection_losses(
    output: LayerOutput,
    targets: Sequence[Target],
    matches: Matches,
    *,
    num_instances: float,
    thing_output: int | None = None,
) -> dict[str, Tensor]:
    """The unweighted terms "class", "l1" and "giou" of one layer, each summed and divided by num_instances.

    class: focal over all (B, Q, K), one where a query is matched to an instance of that label, without the
    unmatched queries that lie on ignored cells by at least half (and, with a thing_output, those on what the
    detector surely names: the name goes first); l1: |box − box*| summed over the 4
    coordinates, mean over the frames where the instance is present; giou: 1 − GIoU, mean over those frames.
    thing_output: the output that is wanted of queries that a detector does not name, if there is one.
    """
    with torch.autocast(output.logits.device.type, enabled=False):
        logits = output.logits.float()
        wanted = torch.zeros_like(logits)
        for window, (queries, instances) in enumerate(matches):
            labels = targets[window].labels[instances]
            if thing_output is not None:
                named = named_queries(logits[window, queries])
                labels = torch.where(named, labels, thing_output)
            wanted[window, queries, labels] = 1.0
        boxes = torch.cat(
            [output.boxes[window][:, queries].transpose(0, 1) for window, (queries, _) in enumerate(matches)]
        ).float()  # (n, T, 4)
        chosen = matched_targets(targets, matches)
        present = chosen.present.float()  # (n, T)
        distance = (boxes - chosen.boxes.float()).abs().sum(dim=-1)
        apart = 1 - giou(boxes, chosen.boxes.float())
        num_present = present.sum(dim=1).clamp(min=1)
        of_class = focal_loss(logits, wanted)
        if thing_output is not None or any(target.ignore is not None for target in targets):
            over_names = thing_output is not None
            of_class = of_class * _counted_queries(output, targets, matches, over_names=over_names)[..., None]
        return {
            "class": of_class.sum() / num_instances,
            "l1": ((distance * present).sum(dim=1) / num_present).sum() / num_instances,
            "giou": ((apart * present).sum(dim=1) / num_present).sum() / num_instances,
        }


def mask_losses(
    mask_logits: Tensor,
    target_masks: Tensor,
    *,
    num_instances: float,
    counted: Tensor | None = None,
    lattice: Lattice | None = None,
) -> dict[str, Tensor]:
    """The unweighted terms "mask" and "dice" of (n, T, h, w) logits and masks, each divided by num_instances.

    mask: focal, mean over the cells of all frames; dice: over the cells of all frames together. An instance
    has an empty mask where it is absent. counted: 1 for the cells that count, as `counted_cells` gives them.
    With a lattice the masks are its pixels, and the logits are what a stream makes of them there
    (`at_pixels`): masks of cells would teach edges between cells, where few edges are (ours).
    Raises ValueError if the shapes do not belong together.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        logits, wanted = mask_logits.float(), target_masks.float()
        if lattice is not None:
            logits = at_pixels(logits, lattice)
        if logits.shape != wanted.shape:
            raise ValueError(
                f"mask logits are {tuple(mask_logits.shape)}, target masks {tuple(target_masks.shape)}: both "
                "must be (instances, T, h, w) at stride 4 of the same image size, a multiple of 8, or the "
                "targets the lattice of such an image"
            )
        cells = focal_loss(logits, wanted)
        if counted is None:
            per_instance = cells.flatten(1).mean(dim=1)
        else:
            per_instance = (cells * counted).flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1).clamp(
                min=1
            )
        return {
            "mask": per_instance.sum() / num_instances,
            "dice": dice_loss(logits, wanted, counted=counted).sum() / num_instances,
        }


def at_pixels(logits: Tensor, lattice: Lattice) -> Tensor:
    """Logits (…, h, w) at stride 4 as `ops.masks` interpolates them at a lattice's pixels, (…, h', w')."""
    h, w = logits.shape[-2:]
    down = _weights(lattice.rows(h * MASK_STRIDE), h).to(logits)
    across = _weights(lattice.columns(w * MASK_STRIDE), w).to(logits)
    return down @ logits @ across.t()


def _weights(pixels: Tensor, num_cells: int) -> Tensor:
    """Bilinear weights of the cells at each pixel, (pixels, cells): half-pixel centres, clamped."""
    position = ((pixels + 0.5) / MASK_STRIDE - 0.5).clamp(0, num_cells - 1)
    return (1 - (position[:, None] - torch.arange(num_cells)).abs()).clamp(min=0)


def counted_cells(targets: Sequence[Target], matches: Matches) -> Tensor | None:
    """1 for the cells that count and 0 for ignored ones, (n, T, h, w) as `finest_masks`, in the order of the
    matches.

    None if no target ignores anything. A cell of an instance counts for it even where it is ignored.
    """
    if all(target.ignore is None for target in targets):
        return None
    rows = []
    for target, (_, instances) in zip(targets, matches, strict=True):
        masks = target.finest_masks[instances]
        if target.ignore is None:
            rows.append(torch.ones_like(masks))
            continue
        seen = ~target.ignore
        if target.lattice is not None:
            h, w = (side * MASK_STRIDE for side in seen.shape[1:])
            seen = seen[:, target.lattice.rows(h) // MASK_STRIDE]
            seen = seen[:, :, target.lattice.columns(w) // MASK_STRIDE]
        rows.append(torch.maximum(masks, seen.to(masks.dtype)))
    return torch.cat(rows)


def _counted_queries(
    output: LayerOutput, targets: Sequence[Target], matches: Matches, *, over_names: bool
) -> Tensor:
    """(B, Q): 0 for unmatched queries whose boxes lie on ignored cells by at least half, else 1.

    over_names: 0 too for unmatched queries that show the same as a sure name.
    """
    counted = torch.ones_like(output.logits[..., 0], dtype=torch.float32)
    for window, (target, (queries, _)) in enumerate(zip(targets, matches, strict=True)):
        if target.ignore is not None:
            shares = ignored_shares(output.boxes[window].detach().float(), target.ignore)
            counted[window] = (shares < 0.5).float()
        if over_names and target.num_instances:
            on_it = shared_boxes(output, window, target) >= SAME_THING_IOU
            doubled = (on_it & covered_instances(output, window, target)).any(dim=1)
            counted[window] *= (~doubled).float()
        counted[window, queries] = 1.0
    return counted


def matched_targets(targets: Sequence[Target], matches: Matches) -> Target:
    """The matched instances of all windows in a row, in the order of the matches; `ignore` is left out."""
    chosen = [target.select(instances) for target, (_, instances) in zip(targets, matches, strict=True)]
    return Target(
        labels=torch.cat([target.labels for target in chosen]),
        boxes=torch.cat([target.boxes for target in chosen]),
        masks=torch.cat([target.masks for target in chosen]),
        present=torch.cat([target.present for target in chosen]),
        fine_masks=torch.cat([target.finest_masks for target in chosen]),
        lattice=targets[0].lattice,
    )


def matched_masks(output: LayerOutput, matches: Matches, mask_fn: MaskFunction) -> Tensor:
    """Mask logits (n, T, h, w) of the matched queries, window by window, in the order of the matches.

    One call of mask_fn with as many queries for every window as the fullest one has; shorter windows repeat
    their query 0, and those masks are dropped. With nothing matched, n = 0, still part of the graph.
    """
    counts = [len(queries) for queries, _ in matches]
    B, T, _, C = *output.boxes.shape[:3], output.queries.shape[-1]
    chosen = torch.zeros(B, max([1, *counts]), dtype=torch.int64, device=output.queries.device)
    for window, (queries, _) in enumerate(matches):
        chosen[window, : counts[window]] = queries
    queries = output.queries.gather(1, chosen[..., None].expand(-1, -1, C))
    centres = output.centres.gather(2, chosen[:, None, :, None].expand(-1, T, -1, output.centres.shape[-1]))
    masks = mask_fn(queries, centres)  # (B, M, T, h, w)
    return torch.cat([masks[window, :count] for window, count in enumerate(counts)])


def window_losses(
    layers: Sequence[LayerOutput],
    mask_fn: MaskFunction,
    targets: Sequence[Target],
    *,
    weights: LossWeights = DEFAULT_WEIGHTS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms of all layers, and the terms; see `window_losses_and_masks`."""
    losses = window_losses_and_masks(layers, mask_fn, targets, weights=weights)
    return losses.total, losses.terms


def window_losses_and_masks(
    layers: Sequence[LayerOutput],
    mask_fn: MaskFunction,
    targets: Sequence[Target],
    *,
    weights: LossWeights = DEFAULT_WEIGHTS,
    thing_output: int | None = None,
) -> WindowLosses:
    """Match every decoder layer, first to last, and sum its weighted terms.

    Terms are named "class", "l1", "giou", "mask", "dice" for the last layer, "class_0", … for the others.
    mask_fn is called for the last layer, or for every layer if the weights say so, even where no window has
    an instance: then its result counts nothing, but every parameter keeps a gradient (zero), which processes
    that train together need. thing_output as in `detection_losses`.
    Raises ValueError as `match_layers`; collective as `count_instances`.
    """
    matches = match_layers(layers, targets, thing_output=thing_output)
    num_instances = count_instances(targets, layers[0].logits.device)
    last = len(layers) - 1
    total = layers[last].logits.new_zeros((), dtype=torch.float32)
    named: dict[str, Tensor] = {}
    mask_logits = total
    for index, (output, matched) in enumerate(zip(layers, matches, strict=True)):
        terms = detection_losses(
            output, targets, matched, num_instances=num_instances, thing_output=thing_output
        )
        if index == last or weights.masks_on_all_layers:
            mask_logits = matched_masks(output, matched, mask_fn)
            terms |= mask_losses(
                mask_logits,
                matched_targets(targets, matched).finest_masks,
                num_instances=num_instances,
                counted=counted_cells(targets, matched),
                lattice=targets[0].lattice,
            )
        total = total + weighted_sum(terms, weights)
        suffix = "" if index == last else f"_{index}"
        named |= {f"{name}{suffix}": term.detach() for name, term in terms.items()}
    return WindowLosses(total, named, matches[last], mask_logits)


def weighted_sum(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Σ weight·term of the terms of one layer."""
    return torch.stack([weights.of(name) * term for name, term in terms.items()]).sum()
