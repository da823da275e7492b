"""An engine next to eager, on random input: how far its answers lie from eager's. Ours.

Queries are chosen and ordered by their scores, and rounding decides between two that nearly tie. So each of
eager's queries is compared with the nearest of the engine's, wherever that stands, and in half precision one
in four may have been chosen otherwise.

Dimensions: B windows, T frames, k kept queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.engines.halves import Half, HalvesSpec, example_inputs
from model.network import Network

__all__ = ["TOLERANCE", "engine_error", "frames_error"]

Halves = tuple[Half, Mapping[int, Half]]
"""The first half, and the second by the number of windows in a call."""

TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest error of an engine against eager."""

_ANSWERED = {torch.float32: 1.0, torch.float16: 0.75, torch.bfloat16: 0.75}
"""Part of eager's queries that must be among the engine's."""


@torch.inference_mode()
def engine_error(
    network: Network, specs: Mapping[int, HalvesSpec], engine: Halves, eager: Halves, *, seed: int = 0
) -> float:
    """The largest difference between both halves of both, on the random input of a seed, relative to the
    largest value of an output; NaN where the engine gives any.

    specs: by the number of windows in a call, as the second halves.
    """
    frame, _ = example_inputs(network, specs[1], seed=seed)
    answered = _ANSWERED[next(network.parameters()).dtype]
    errors = [_apart(*pair) for pair in zip(engine[0](*frame), eager[0](*frame), strict=True)]
    for size, decode in engine[1].items():
        _, windows = example_inputs(network, specs[size], seed=seed)
        outputs = (_by_query(half(*windows)) for half in (decode, eager[1][size]))
        errors += [_answers_apart(*pair, answered=answered) for pair in zip(*outputs, strict=True)]
    return float(torch.stack(errors).max())  # not Python's max, which may drop a NaN


@torch.inference_mode()
def frames_error(
    network: Network, spec: HalvesSpec, half: Half, eager: Half, *, size: int, seed: int = 0
) -> float:
    """The largest difference between `size` frames encoded in one call and eager one by one, as above."""
    frames = [example_inputs(network, spec, seed=seed + number)[0] for number in range(size)]
    together = half(*map(torch.cat, zip(*frames, strict=True)))
    alone = map(torch.cat, zip(*(eager(*frame) for frame in frames), strict=True))
    return float(torch.stack([_apart(*pair) for pair in zip(together, alone, strict=True)]).max())


def _apart(got: Tensor, wanted: Tensor) -> Tensor:
    """The largest difference."""
    return (got.float() - wanted.float()).abs().max() / _largest(wanted)


def _largest(values: Tensor) -> Tensor:
    return values.float().abs().max().clamp(min=1e-6)


def _answers_apart(got: Sequence[Tensor], wanted: Sequence[Tensor], *, answered: float) -> Tensor:
    """The difference that so large a part of a window's queries keeps, over all outputs."""
    to_each = torch.stack(
        [
            torch.stack([(ours.float() - row).abs().amax(dim=1) for row in theirs.float()]) / _largest(theirs)
            for ours, theirs in zip(got, wanted, strict=True)
        ]
    ).amax(dim=0)  # (k of eager, k of the engine)
    num_answered = math.ceil(answered * len(to_each))
    return to_each.amin(dim=1).kthvalue(num_answered).values


def _by_query(outputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """Of each window logits, boxes, masks and embeddings, (k, …) each."""
    logits, boxes, masks, embeddings, _ = outputs
    parts = (logits, boxes.transpose(1, 2), masks, embeddings)
    return [[part[window].flatten(1) for part in parts] for window in range(len(logits))]
