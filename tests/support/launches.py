"""How many kernels a GPU is asked to launch for a call, counted without one: it is traced with fake CUDA
tensors.

Every operation that reaches the device counts what torch launches for it: a convolution its own kernel and
one for its bias, a matrix product one (the bias is its epilogue), views and allocations none. A custom
operator of ours counts its kernels (`OURS`). Libraries may launch more for some shapes (split products,
layout changes), so a measured count may lie a little above; tests/benchmarks/gpu_network.py measures it
where there is a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OURS = {"vis::deform_attn": 1}
"""Kernels of our own operators; others of ours are traced through to what they run on a GPU."""

SEVERAL = {"aten::topk": 2, "aten::sort": 2, "aten::nonzero": 3, "aten::native_group_norm": 2}
"""Operations of torch that launch more than one kernel."""

NONE = ("aten::empty", "aten::new_empty", "aten::sym_", "aten::_unsafe_view", "aten::lift_fresh", "prim::")
"""Beginnings of the names of operations that launch nothing."""

ATTENTION = "scaled_dot_product_attention"
"""One kernel on a GPU, and one more for a mask that it wants in its own layout; a trace without a GPU takes
it apart."""


class _Attention(TorchFunctionMode):
    """Lets an attention count as what a GPU launches for it."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self._launches = launches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._launches.silent = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._launches.silent = False
            masked = (kwargs or {}).get("attn_mask") is not None
            self._launches.by_operation[ATTENTION] += 1 + masked


class Launches(TorchDispatchMode):
    """Counts launches by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: Counter[str] = Counter()
        self.silent = False

    @property
    def total(self) -> int:
        return sum(self.by_operation.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.silent:
            self.by_operation[func._schema.name] += launches_of(func, args, kwargs or {}, result)
        return result


def launches_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Kernels that one call of an operation launches."""
    name = func._schema.name
    if name in OURS:
        return OURS[name]
    if name.startswith(NONE) or _is_view(func):
        return 0
    if isinstance(result, torch.Tensor) and not result.numel():
        return 0
    if name == "aten::convolution":
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        return 1 if bias is None else 2
    if name == "aten::_to_copy" and isinstance(result, torch.Tensor) and result.dtype == args[0].dtype:
        return int(not result.is_set_to(args[0]))
    return SEVERAL.get(name, 1)


def _is_view(func: Any) -> bool:
    """Whether all that the operation returns are other views of what it is given."""
    returns = func._schema.returns
    return bool(returns) and all(
        each.alias_info is not None and not each.alias_info.is_write for each in returns
    )


def count_launches(call: Callable[[], object]) -> Launches:
    """The launches of the second call of two: constants are there then."""
    call()
    with Launches() as launches, _Attention(launches):
        call()
    return launches
