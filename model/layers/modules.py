"""Small helpers around torch.nn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ops.constants import kept

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """nn.ModuleList that keeps its members' type for the type checker."""
    return cast(Sequence[M], nn.ModuleList(modules))


def split_dim(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """One dimension as several: (…, a·b, …) → (…, a, b, …); one size may be -1. A view where it can be."""
    dim %= x.dim()
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


class LayerNorm(nn.LayerNorm):
    """Layer norm that stays in the type of its own weights, whatever comes in (float32 in a half network)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group norm, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ChannelNorm(LayerNorm):
    """Layer norm over the channels of each cell of a map (N, C, h, w): what a cell becomes depends on no
    other cell, as with group norm it would (on crops, or next to padding)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Head(nn.Linear):
    """A linear map whose answer is a coordinate or a score: it stays in the type of its own weights (float32
    in a half network and under autocast)."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A block that computes in the types of its tensors, whatever autocast is on for the device.

    Where none is on it does nothing: exported graphs must not hold a region of autocast, which not every
    runtime takes.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return cast(AbstractContextManager[None], torch.autocast(kind, enabled=False))


class HeadConv(nn.Conv2d):
    """The same as a 1×1 convolution over a map."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type of coordinates next to tensors of a type: 8 bits of mantissa cannot name a pixel of 640."""
    return torch.float32 if dtype.itemsize == 2 else dtype


@kept
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers as a tensor, (n,)."""
    return torch.tensor(values, dtype=dtype)
