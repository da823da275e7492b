"""Small helpers around torch.nn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """nn.ModuleList that keeps its members' type for the type checker."""
    return cast(Sequence[M], nn.ModuleList(modules))


def split_dim(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """One dimension as several: (…, a·b, …) → (…, a, b, …); one size may be -1. A view where it can be."""
    dim %= x.dim()
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])
