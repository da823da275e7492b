"""Constants (sines, cells, geometry of a pyramid): made once for their arguments and device, then kept.

A constant that is made again in each call costs a GPU a copy from the host, which waits, and which no CUDA
graph can hold. Ours.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

__all__ = ["kept"]

P = ParamSpec("P")
R = TypeVar("R")

_KEPT = 64
"""Results of one function that are kept, those used last."""

_FAKE = torch._C._TorchDispatchModeKey.FAKE
"""Under this key torch keeps the fake mode that is active."""


def kept(make: Callable[P, R]) -> Callable[P, R]:
    """Decorator: keeps what a function makes of its arguments, all hashable, on their `device`.

    `make` works on the CPU whatever the device, so that a constant has the same bits everywhere; its result,
    a tensor or a (named) tuple of tensors, is then brought to `device`. Nobody may write into it.

    A constant serves the next who asks, so it is made without gradient and outside of inference mode, and is
    real even where `torch.export` traces with fake tensors. Under any other fake mode it is a fake tensor of
    that mode and is given to that mode alone.
    """
    signature = inspect.signature(make)

    @lru_cache(maxsize=_KEPT)
    def made(mode: FakeTensorMode | None, *args: Any, **kwargs: Any) -> Any:
        device = signature.bind(*args, **kwargs).arguments["device"]
        with torch.inference_mode(False), torch.no_grad():
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                constant = make(*args, **kwargs)
                if mode is None:
                    return tree_map_only(Tensor, lambda tensor: tensor.to(device), constant)
            return tree_map_only(Tensor, lambda tensor: mode.from_tensor(tensor).to(device), constant)

    @wraps(make)
    def constant(*args: P.args, **kwargs: P.kwargs) -> R:
        mode = None if torch.compiler.is_exporting() else torch._C._get_dispatch_mode(_FAKE)
        return cast(R, made(mode, *args, **kwargs))  # type: ignore[arg-type]

    return constant
