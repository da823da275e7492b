"""Where a step would wait for the device, counted on a CPU: each value or size that the host reads from a
tensor.

A GPU works behind its caller, who waits only when a value is read (`item`, `tolist`, `bool`, a copy to the
host) or when a size depends on values (`nonzero`, indexing by a mask, `unique`). On a CPU these are the same
operations. Tensors that lie on the host with a GPU, too, do not count: the optimiser's step counts, and
copies that `cpu` gave.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]

READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
}
INDEXES = {"aten::index", "aten::index_put_", "aten::index_put"}
CALLS = {Tensor.cpu, Tensor.numpy, Tensor.tolist}


def _in_an_optimiser() -> bool:
    return any("torch/optim/" in frame.filename for frame in traceback.extract_stack())


def _line_of_ours() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path != Path(__file__) and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "torch"


class Waits(TorchDispatchMode):
    """Counts them by the line that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()
        self.host: dict[int, Tensor] = {}
        """By identity; held, so that none is given again."""
        self.silent = False

    def note(self) -> None:
        if not self.silent and not _in_an_optimiser():
            self.lines[_line_of_ours()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        result = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if given and all(id(each) in self.host for each in given):
            # What is made of a copy on the host lies there, too.
            self.keep_as_host(result)
            return result
        by_mask = name in INDEXES and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or by_mask:
            self.note()
        return result

    def keep_as_host(self, result: Any) -> None:
        """These tensors are on the host with a GPU, too."""
        self.host |= {id(each): each for each in tree_leaves(result) if isinstance(each, Tensor)}


class _Calls(TorchFunctionMode):
    """What a tensor on a CPU does without an operation: one read, however many values."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in CALLS or id(args[0]) in self._waits.host:
            return func(*args, **(kwargs or {}))
        self._waits.note()
        before, self._waits.silent = self._waits.silent, True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._waits.silent = before
        if func is Tensor.cpu:
            result = result.view(result.shape)  # another tensor: the one given is the device's
            self._waits.keep_as_host(result)
        return result


def count_waits(call: Any) -> Counter[str]:
    """The lines that would wait in one call, with how often."""
    with Waits() as waits, _Calls(waits):
        call()
    return waits.lines
