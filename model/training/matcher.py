"""Which query answers for which instance: one Hungarian assignment per window and decoder layer.

Source: DETR's matching as SeqFormer's published code has it for clips (model.md 5): a focal class cost, the
Euclidean distance of the boxes over all 4·T numbers, the generalised IoU averaged over T. What differs
(ours): frames where an instance is absent count for neither box term, where the published code compares with
empty boxes; and all layers are copied to the host at once.

Dimensions: B windows, T frames, Q queries, K outputs, N instances of one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.layers.decoder import SAME_THING_IOU, LayerOutput, named_queries, surely_named
from model.training.targets import Target
from ops.boxes import box_cxcywh_to_xyxy, box_iou, generalized_box_iou

Matches = list[tuple[Tensor, Tensor]]
"""Per window: (query indices, instance indices), both int64, sorted by instance."""


@dataclass(frozen=True)
class MatchWeights:
    """Factors of the terms of the matching cost."""

    class_weight: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


DEFAULT_WEIGHTS = MatchWeights()

LEAST_SHARED_IOU = 0.3
"""Overlap from which on a box that stays as the detector found it can hold an instance's mask."""

BARRED = 1e4
"""Cost of a pair that is not allowed."""

FOCAL_ALPHA = 0.25
"""Share of the positive side in every focal term, of the cost and of the losses."""


def match(
    output: LayerOutput, targets: Sequence[Target], *, weights: MatchWeights = DEFAULT_WEIGHTS
) -> Matches:
    """The cheapest one-to-one assignment of queries to instances, per window; see `match_layers`."""
    return match_layers([output], targets, weights=weights)[0]


class NotFiniteError(ValueError):
    """A matching cost is NaN or infinite; the text names the term, the layer and the window."""


@torch.no_grad()
def match_layers(
    outputs: Sequence[LayerOutput],
    targets: Sequence[Target],
    *,
    weights: MatchWeights = DEFAULT_WEIGHTS,
    thing_output: int | None = None,
) -> list[Matches]:
    """`match` for several decoder layers with one copy to the host and one back.

    thing_output: the output of networks with a detector for what it does not name. Then queries are assigned
    twice: those that the detector names to the instances that lie in their boxes, for their masks, and the
    others to the instances that it is not sure of (`covered_instances`), as things. An instance may so have
    two queries, one or none (ours).

    A window with more instances than queries leaves the most expensive instances without a query. The
    indices lie on the device of the outputs.
    Raises ValueError if the number of targets, or their number of frames, is not that of the outputs, or if a
    label is no class output; NotFiniteError if a cost is not finite.
    """
    for output in outputs:
        _check(output, targets)
    costs = [
        cost  # (Q, N)
        for output in outputs
        for index, target in enumerate(targets)
        for cost in _costs(output, index, target, weights, thing_output)
    ]
    # The assignment is the host's work: the only wait for the device in a training step's forward pass.
    host = torch.cat([cost.flatten() for cost in costs]).cpu() if costs else torch.zeros(0)
    if not bool(torch.isfinite(host).all()):
        raise NotFiniteError(_name_the_fault(outputs, targets))

    pairs, counts = [], []
    for cost, flat in zip(costs, torch.split(host, [cost.numel() for cost in costs]), strict=True):
        table = flat.view(cost.shape).numpy()
        queries, instances = linear_sum_assignment(table)
        allowed = table[queries, instances] < BARRED / 2
        rows = torch.stack((torch.from_numpy(queries[allowed]), torch.from_numpy(instances[allowed])))
        pairs.append(rows[:, rows[1].argsort()])
        counts.append(rows.shape[1])
    if not pairs:
        return [[] for _ in outputs]
    chosen = torch.split(torch.cat(pairs, dim=1).to(outputs[0].logits.device), counts, dim=1)
    windows = [(pair[0], pair[1]) for pair in chosen]
    if thing_output is not None:
        windows = [_together(*both) for both in zip(windows[::2], windows[1::2], strict=True)]
    B = len(targets)
    return [windows[layer * B : (layer + 1) * B] for layer in range(len(outputs))]


def covered_instances(output: LayerOutput, window: int, target: Target) -> Tensor:
    """(N,) whether a box that the detector is sure to name shows the instance, in a network with one."""
    sure = surely_named(output.logits[window])  # (Q,)
    covered: Tensor = ((shared_boxes(output, window, target) >= SAME_THING_IOU) & sure[:, None]).any(dim=0)
    return covered


def shared_boxes(output: LayerOutput, window: int, target: Target) -> Tensor:
    """IoU of queries' and instances' boxes (Q, N), mean over the frames where the instance is present."""
    with torch.autocast(output.logits.device.type, enabled=False):
        boxes = output.boxes[window].detach().float()  # (T, Q, 4)
        wanted = target.boxes.float().transpose(0, 1)  # (T, N, 4)
        present = target.present.float().t()[:, None]  # (T, 1, N)
        overlap = box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
        return (overlap * present).sum(dim=0) / present.sum(dim=0).clamp(min=1)


def _costs(
    output: LayerOutput, window: int, target: Target, weights: MatchWeights, thing_output: int | None
) -> tuple[Tensor, ...]:
    """The cost of every pair (Q, N), BARRED where it is not allowed: once, or of names and of things."""
    cost = sum_terms(match_terms(output, window, target), weights)
    if thing_output is None:
        return (cost,)
    named = named_queries(output.logits[window])[:, None]
    things = replace(target, labels=torch.full_like(target.labels, thing_output))
    of_things = sum_terms(match_terms(output, window, things), weights)
    elsewhere = shared_boxes(output, window, target) < LEAST_SHARED_IOU
    covered = covered_instances(output, window, target)
    # One cost for all that is barred: else what it would have cost would decide among the others.
    return cost.masked_fill(~named | elsewhere, BARRED), of_things.masked_fill(named | covered, BARRED)


def _together(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The pairs of two assignments, sorted by instance."""
    queries, instances = torch.cat((first[0], second[0])), torch.cat((first[1], second[1]))
    order = instances.argsort(stable=True)
    return queries[order], instances[order]


def match_terms(output: LayerOutput, window: int, target: Target) -> dict[str, Tensor]:
    """The unweighted cost terms "class", "l1" and "giou" of one window, (Q, N) each, float32.

    class: α(1−p)²·(−log p) − (1−α)p²·(−log(1−p)) with p the score of the instance's class;
    l1: √(Σ (box − box*)² · T / counted), the sum over the 4 coordinates and the counted frames, those where
    the instance is present. With all T counted it is the published distance over 4·T numbers. A missing frame
    counts as being as far off as the counted ones are in the mean square, so that boxes weigh as much against
    the class for an instance that is seen briefly as for one that is always there (ours);
    giou: −GIoU, mean over the counted frames.
    """
    with torch.autocast(output.logits.device.type, enabled=False):
        logits = output.logits[window].float()[:, target.labels]  # (Q, N)
        score = logits.sigmoid()
        found = FOCAL_ALPHA * (1 - score).square() * F.softplus(-logits)
        missed = (1 - FOCAL_ALPHA) * score.square() * F.softplus(logits)

        boxes = output.boxes[window].float()  # (T, Q, 4)
        wanted = target.boxes.float().transpose(0, 1)  # (T, N, 4)
        present = target.present.float().t()[:, None]  # (T, 1, N)
        squares = (boxes[:, :, None] - wanted[:, None]).square().sum(dim=-1)  # (T, Q, N)
        overlap = generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
        num_present = present.sum(dim=0).clamp(min=1)  # (1, N)
        return {
            "class": found - missed,
            "l1": ((squares * present).sum(dim=0) * target.num_frames / num_present).sqrt(),
            "giou": -(overlap * present).sum(dim=0) / num_present,
        }


def sum_terms(terms: dict[str, Tensor], weights: MatchWeights) -> Tensor:
    """The weighted sum of `match_terms`."""
    return weights.class_weight * terms["class"] + weights.l1 * terms["l1"] + weights.giou * terms["giou"]


def _check(output: LayerOutput, targets: Sequence[Target]) -> None:
    B, T = output.boxes.shape[:2]
    K = output.logits.shape[-1]
    if len(targets) != B:
        raise ValueError(f"{len(targets)} targets for {B} windows; give one per window")
    for index, target in enumerate(targets):
        if target.num_frames != T:
            raise ValueError(f"target {index} has {target.num_frames} frames, the window has {T}")
        # On another device the check would wait for it; there the indexing itself fails.
        if target.num_instances and target.labels.device.type == "cpu":
            low, high = int(target.labels.min()), int(target.labels.max())
            if low < 0 or high >= K:
                raise ValueError(f"labels of target {index} go from {low} to {high}, allowed: 0 to {K - 1}")


def _name_the_fault(outputs: Sequence[LayerOutput], targets: Sequence[Target]) -> str:
    for layer, output in enumerate(outputs):
        for window, target in enumerate(targets):
            for name, term in match_terms(output, window, target).items():
                if not bool(torch.isfinite(term).all()):
                    return (
                        f"the {name} cost of decoder layer {layer}, window {window} is not finite: the "
                        "network's outputs or the targets hold NaN or infinity; lower the learning rate or "
                        "look at the batch"
                    )
    return "the weights of the matching cost make it overflow; lower them"
