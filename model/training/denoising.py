"""Denoising queries: noised true boxes that the decoder must bring back, without any matching.

Source: DN-DETR (Li et al., arXiv 2203.01305) and the negative queries of DINO. What differs (ours): a query
stands for an instance in all T frames, its noise is the same in each, and it sees only itself and the
network's own queries.

Dimensions: B windows, T frames, D denoising queries, Q queries, N instances, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.decoder import UNSEEN, Decoder, ExtraQueries
from model.training.matcher import Matches
from model.training.targets import Target

NOISE = 0.4
"""Largest shift of a positive query's box and change of its sides, in sides of the box."""
FIXED_NOISE = 0.15
"""The same where the network does not refine boxes: about as much as a detector is wrong."""

NEGATIVE_SHARE = 3
"""Every third query is a negative: its box lies next to its instance, and it must score as background."""


CLAIMED_LOGIT = (-0.5, 1.5)
"""Mean and deviation of the class logit that a query claims, where a detector's queries bring theirs."""


class DenoisingContent(nn.Module):
    """Content of a denoising query, by the class that it claims; only training has it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.outputs, config.hidden_dim)


@dataclass(frozen=True)
class Denoising:
    """Queries for the decoder and which instances their answers are to be compared with."""

    extra: ExtraQueries
    matches: Matches
    num_named: int = 0
    """The first of the queries, those that claim a name of a detector."""


def denoising_queries(
    content: DenoisingContent | None,
    decoder: Decoder,
    targets: Sequence[Target],
    *,
    num_queries: int,
    generator: torch.Generator,
) -> Denoising:
    """D queries for every window, two thirds of them noised boxes of its instances, the rest negatives.

    content: None where the decoder starts from a detector's boxes: the first half of the queries then claims
    a class as those do, negatives as surely as the others, and the rest are things that no detector names.
    generator: on the CPU, so that every device draws the same noise.
    """
    assert decoder.selection is not None
    D, Q = num_queries, decoder.num_queries
    device = targets[0].boxes.device
    num_named = 0 if content is not None else D // 2
    largest = torch.full((D, 1), NOISE, device=device)
    largest[:num_named] = FIXED_NOISE
    num_labels = content.embed.num_embeddings if content is not None else decoder.num_outputs
    noised = [
        _noised(target, largest=largest, num_labels=num_labels, generator=generator) for target in targets
    ]
    reference = torch.stack([each.reference for each in noised])  # (B, T, D, 4)
    claimed = torch.stack([each.labels for each in noised])  # (B, D)
    class_logits = None
    if content is not None:
        embedded = content.embed(claimed)
    else:
        assert decoder.start is not None
        claimed[:, num_named:] = num_labels - 1
        class_logits = _claims(claimed, num_labels, generator=generator)
        embedded = decoder.start.content(class_logits, num_boxes=num_named)
    mask = torch.zeros(Q + D, Q + D, dtype=torch.bool, device=device)
    mask[:, :Q] = True
    mask[Q:, Q:] = torch.eye(D, dtype=torch.bool, device=device)
    extra = ExtraQueries(
        content=embedded,
        position=decoder.selection.embed(reference[:, targets[0].num_frames // 2]),
        reference=reference,
        mask=mask,
        class_logits=class_logits,
    )
    return Denoising(extra, [each.match for each in noised], num_named)


class _Noised(NamedTuple):
    """The queries of one window."""

    reference: Tensor
    """(T, D, 4)."""
    labels: Tensor
    """(D,) the class that each claims, sometimes a wrong one."""
    match: tuple[Tensor, Tensor]
    """Positive queries and their instances."""


def _noised(target: Target, *, largest: Tensor, num_labels: int, generator: torch.Generator) -> _Noised:
    """The D queries of a window; largest (D, 1) is the noise of a positive one, in sides of its box."""
    D, T, N = len(largest), target.num_frames, target.num_instances
    device = target.boxes.device
    noise = (torch.rand(D, 4, generator=generator) * 2 - 1).to(device)
    flip = torch.rand(D, generator=generator).to(device)
    other = torch.randint(num_labels, (D,), generator=generator).to(device)
    if N == 0:
        anywhere = torch.rand(D, 4, generator=generator).to(device).expand(T, D, 4) * 0.5 + 0.25
        nobody = torch.zeros(0, dtype=torch.int64, device=device)
        return _Noised(anywhere, other, (nobody, nobody))
    place = torch.arange(D, device=device)
    negative = place % NEGATIVE_SHARE == NEGATIVE_SHARE - 1
    # Positives take turns among themselves: else, of three instances, one would have negatives alone.
    turn = torch.where(negative, place // NEGATIVE_SHARE, place - place // NEGATIVE_SHARE)
    order = torch.randperm(N, generator=generator).to(device)
    chosen = order[turn % N]
    boxes = _known_boxes(target)[chosen]  # (D, T, 4)
    far = noise * NOISE + torch.where(noise >= 0, 1.0, -1.0) * 0.6
    change = torch.where(negative[:, None], far, noise * largest)
    moved = torch.cat(
        (
            boxes[..., :2] + change[:, None, :2] * boxes[..., 2:],
            boxes[..., 2:] * (1 + noise[:, None, 2:] * largest[:, None]),
        ),
        dim=-1,
    ).clamp(1e-3, 1 - 1e-3)
    # On the host, which need not wait for the device to know how many there are.
    positive = torch.tensor([each for each in range(D) if each % NEGATIVE_SHARE != NEGATIVE_SHARE - 1])
    positive = positive.to(device)
    by_instance = chosen[positive].argsort(stable=True)
    return _Noised(
        moved.transpose(0, 1),
        torch.where(flip < 0.2, other, target.labels[chosen]),
        (positive[by_instance], chosen[positive][by_instance]),
    )


def _claims(claimed: Tensor, num_labels: int, *, generator: torch.Generator) -> Tensor:
    """Class logits (B, D, K) of queries that claim a class (B, D) as a detector's queries do."""
    mean, deviation = CLAIMED_LOGIT
    noise = torch.randn(*claimed.shape, 1, generator=generator).to(claimed.device) * deviation + mean
    return noise.new_full((*claimed.shape, num_labels), UNSEEN).scatter(2, claimed[..., None], noise)


def _known_boxes(target: Target) -> Tensor:
    """Boxes (N, T, 4) where absent frames take the box of the nearest frame that shows the instance."""
    frames = torch.arange(target.num_frames, device=target.boxes.device)
    distance = (frames[:, None] - frames[None]).abs()[None].expand(target.num_instances, -1, -1)
    distance = distance.masked_fill(~target.present[:, None], target.num_frames)
    nearest = distance.argmin(dim=-1)  # (N, T)
    return target.boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
