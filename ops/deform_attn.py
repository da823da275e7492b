"""`vis::deform_attn`: schema, shape inference, gradient, and the choice of implementation by device.

Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159) with the softmax over samples and the
location arithmetic inside, so that an implementation may fuse them. The schema is one that a TensorRT
plugin can take: tensors first, then scalar ints. Our layout of `sampling` differs from the published one:
planar, not interleaved.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.cuda import deform_attn_backward_cuda, deform_attn_cuda
from ops.levels import level_sizes, level_starts
from ops.native import deform_attn_backward_cpu, deform_attn_cpu

__all__ = ["deform_attn"]

_ARGUMENTS = (
    "Tensor value, Tensor sampling, Tensor reference, int height0, int width0, int num_levels, int num_points"
)

_library: Any = torch.library.Library("vis", "DEF")  # type: ignore[no-untyped-call]
_library.define(f"deform_attn({_ARGUMENTS}) -> Tensor")
_library.define(f"deform_attn_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")


def _implement(
    key: str,
    forward: Callable[[DeformAttnArguments], Tensor],
    backward: Callable[[Tensor, DeformAttnArguments], tuple[Tensor, Tensor, Tensor]],
) -> None:
    """Register both directions for a dispatch key; torch hands the arguments over one by one."""
    _library.impl("deform_attn", lambda *flat: forward(DeformAttnArguments(*flat)), key)
    _library.impl("deform_attn_backward", lambda grad, *flat: backward(grad, DeformAttnArguments(*flat)), key)


_implement("CompositeExplicitAutograd", deform_attn_bag, deform_attn_backward_bag)
_implement("CPU", deform_attn_cpu, deform_attn_backward_cpu)
_implement("CUDA", deform_attn_cuda, deform_attn_backward_cuda)


def _fake(value: Tensor, sampling: Tensor, *_: Any) -> Tensor:
    # No check of shapes: TensorRT's plugin builder calls this with every dimension 5.
    return value.new_empty((value.shape[0], sampling.shape[1], value.shape[2] * value.shape[3]))


def _fake_backward(
    grad: Tensor, value: Tensor, sampling: Tensor, reference: Tensor, *_: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        sampling.new_empty(sampling.shape),
        reference.new_empty(reference.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, sampling, reference, *ctx.geometry = inputs
    ctx.save_for_backward(value, sampling, reference)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.vis.deform_attn_backward(grad, *ctx.saved_tensors, *ctx.geometry)
    wanted = ctx.needs_input_grad[:3]
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), None, None, None, None)


torch.library.register_fake("vis::deform_attn", _fake, lib=_library)
torch.library.register_fake("vis::deform_attn_backward", _fake_backward, lib=_library)
torch.library.register_autograd("vis::deform_attn", _backward, setup_context=_setup_context, lib=_library)


def deform_attn(
    value: Tensor,
    sampling: Tensor,
    reference: Tensor,
    height0: int,
    width0: int,
    num_levels: int,
    num_points: int,
) -> Tensor:
    """Sample each query's points from all levels and sum them with its softmaxed weights, per head.

    value      (B, S, M, D) features of all levels, finest first, each row-major; S = Σ height_l·width_l.
    sampling   (B, Q, 3·M·L·K) planar [x offsets | y offsets | logits], each in (head, level, point) order.
    reference  (B, Q, 2|4), or (B, Q, L, 2|4) per level, normalised to 0..1: (x, y) or (cx, cy, w, h).
    height0, width0  size of level 0 in positions; size_{l+1} = ceil(size_l / 2).

    Returns (B, Q, M·D) in the dtype of `value`. With weights = softmax of the logits over the L·K samples
    of a head:

        out[q, m] = Σ_{l,k} weights[q, m, l, k] · bilinear(value_l[m], location[q, m, l, k])
        2-d: location = reference + offset / (width_l, height_l)
        4-d: location = (cx, cy) + offset / K · (w, h) · 0.5

    Bilinear: pixel i has its centre at (i + 0.5) / size (`align_corners=False`), zero outside. Positions
    and weights are computed in float32 where `value` is of a half type. Differentiable once in its three
    tensors. The result of a batch element on the CPU does not depend on the rest of the batch, bit for bit.

    Raises ValueError for shapes that contradict each other, naming both sides.
    """
    arguments = DeformAttnArguments(value, sampling, reference, height0, width0, num_levels, num_points)
    _check(arguments)
    result: Tensor = torch.ops.vis.deform_attn(*arguments)
    return result


def _check(arguments: DeformAttnArguments) -> None:
    value, sampling, reference, height0, width0, num_levels, num_points = arguments
    if min(height0, width0, num_levels, num_points) < 1:
        raise ValueError(
            "height0, width0, num_levels and num_points must be at least 1, "
            f"got {height0}, {width0}, {num_levels}, {num_points}"
        )
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, M, D), got {tuple(value.shape)}")
    B, S, M, _ = value.shape
    expected = level_starts(level_sizes(height0, width0, num_levels=num_levels))[-1]
    if expected != S:
        raise ValueError(
            f"value has {S} positions, but {num_levels} levels from {height0}×{width0}, each half of the "
            f"one before (rounded up), have {expected}"
        )
    channels = 3 * M * num_levels * num_points
    if sampling.dim() != 3 or sampling.shape[0] != B or sampling.shape[2] != channels:
        raise ValueError(
            f"sampling must be (B, Q, 3·M·L·K) = ({B}, Q, {channels}) for {M} heads, {num_levels} levels and "
            f"{num_points} points, got {tuple(sampling.shape)}"
        )
    Q = sampling.shape[1]
    leading = (B, Q) if reference.dim() == 3 else (B, Q, num_levels)
    if tuple(reference.shape[:-1]) != leading or reference.shape[-1] not in (2, 4):
        raise ValueError(
            f"reference must be ({B}, {Q}, 2|4) or ({B}, {Q}, {num_levels}, 2|4), "
            f"got {tuple(reference.shape)}"
        )
    if not value.dtype.is_floating_point:
        raise ValueError(f"value must be of a floating-point dtype, got {value.dtype}")
    if not value.device == sampling.device == reference.device:
        raise ValueError(
            "value, sampling and reference must be on one device, "
            f"got {value.device}, {sampling.device}, {reference.device}"
        )
