"""A kernel of `vis::deform_attn` next to the portable form, on random input: what each is asked before use.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.levels import level_sizes, level_starts

__all__ = ["compare_with_portable"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Norm of the error against float64, relative: a few roundings of the type."""


def compare_with_portable(
    forward: Callable[[DeformAttnArguments], Tensor | None] | None,
    backward: Callable[[Tensor, DeformAttnArguments], tuple[Tensor, ...] | None] | None,
    *,
    dtype: torch.dtype,
    num_heads: int,
    head_dim: int,
    sampling: torch.dtype | None = None,
    reference: torch.dtype | None = None,
    num_levels: int = 3,
    num_points: int = 2,
    coordinates: int = 2,
    per_level: bool = True,
    device: torch.device | str = "cpu",
) -> None:
    """Compare with the portable form in float64 on the CPU; levels go down to a pixel. None is left out.

    dtype is that of value; sampling and reference have it too unless given.

    Raises ArithmeticError where they differ by more than rounding.
    """
    L, K, M, D = num_levels, num_points, num_heads, head_dim
    B, Q, size0 = 2, 19, (9, 6)
    generator = torch.Generator().manual_seed(0)
    S = level_starts(level_sizes(*size0, num_levels=L))[-1]

    def random(*shape: int, kind: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(kind)

    value = random(B, S, M, D, kind=dtype)
    maps = random(B, Q, 3 * M * L * K, kind=sampling or dtype)
    shape = (B, Q, L, coordinates) if per_level else (B, Q, coordinates)
    points = torch.rand(shape, generator=generator, device="cpu").to(reference or dtype)
    call = DeformAttnArguments(value.to(device), maps.to(device), points.to(device), *size0, L, K)
    exact = DeformAttnArguments(value.double(), maps.double(), points.double(), *size0, L, K)
    tolerance = max(_TOLERANCE[tensor.dtype] for tensor in call.tensors)
    if forward is not None:
        _compare((forward(call),), (deform_attn_bag(exact),), tolerance)
    if backward is not None:
        grad = random(B, Q, M * D, kind=dtype)
        _compare(backward(grad.to(device), call), deform_attn_backward_bag(grad.double(), exact), tolerance)


def _compare(got: tuple[Tensor | None, ...] | None, wanted: tuple[Tensor, ...], tolerance: float) -> None:
    if got is None:
        raise ArithmeticError("there is no result to compare with the portable form")
    for index, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        if ours is None:
            raise ArithmeticError("there is no result to compare with the portable form")
        error = float((ours.cpu().double() - theirs).norm() / theirs.norm())  # once a kernel, so it may wait
        if not error <= tolerance:
            raise ArithmeticError(
                f"output {index} differs from the portable form by {error:.1e} of its norm, "
                f"allowed {tolerance:.0e}"
            )
