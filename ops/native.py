"""The CPU kernel of `vis::deform_attn` at work: compiled once by the machine's C++ compiler, checked, called.

The kernel is `ops/kernels/deform_attn.cpp`; where it is not available the portable form of `ops.bag` runs.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.check import compare_with_portable
from ops.library import build_kernel, kernel_or_none

__all__ = ["NativeKernels", "deform_attn_backward_cpu", "deform_attn_cpu", "native_kernels"]

SOURCE = Path(__file__).parent / "kernels" / "deform_attn.cpp"
_MAX_SAMPLES, _MAX_LEVELS = 64, 16
"""What the code has room for (`kMaxSamples`, `kMaxLevels`)."""

_C_NAMES = {torch.float32: "float", torch.float64: "double"}


class NativeKernels:
    """The compiled library. Results do not depend on the number of threads, bit for bit."""

    def __init__(self, library: Path) -> None:
        """Raises OSError for a library that cannot be loaded."""
        self._library = ctypes.CDLL(str(library))

    def forward(self, arguments: DeformAttnArguments) -> Tensor:
        """As `ops.deform_attn`, for `usable` arguments."""
        value = arguments.value
        tensors = _same_dtype(*arguments.tensors)
        B, Q = arguments.sampling.shape[:2]
        result = torch.empty(B, Q, value.shape[2] * value.shape[3], dtype=tensors[0].dtype)
        self._call("forward", (result, *tensors), tensors, arguments.geometry)
        return result.to(value.dtype)

    def backward(self, grad: Tensor, arguments: DeformAttnArguments) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of value, sampling and reference, for `usable` arguments."""
        value, sampling, reference = arguments.tensors
        tensors = _same_dtype(value, sampling, reference)
        outputs = (torch.zeros_like(tensors[0]), torch.empty_like(tensors[1]), torch.empty_like(tensors[2]))
        grad = grad.to(tensors[0].dtype).contiguous()
        self._call("backward", (*outputs, grad, *tensors), tensors, arguments.geometry)
        return (
            outputs[0].to(value.dtype),
            outputs[1].to(sampling.dtype),
            outputs[2].to(reference.dtype),
        )

    def _call(
        self,
        kernel: str,
        arguments: tuple[Tensor, ...],
        tensors: tuple[Tensor, Tensor, Tensor],
        geometry: tuple[int, int, int, int],
    ) -> None:
        value, sampling, reference = tensors
        numbers = (
            *value.shape,
            sampling.shape[1],
            *geometry,
            reference.shape[-1],
            int(reference.dim() == 4),
        )
        function = self._library[f"deform_attn_{kernel}_{_C_NAMES[value.dtype]}"]
        failed = function(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in arguments),
            (ctypes.c_int64 * len(numbers))(*numbers),
            ctypes.c_int(torch.get_num_threads()),
        )
        if failed:
            raise RuntimeError(f"the CPU kernel of deform_attn has no room for {numbers}")


def usable(arguments: DeformAttnArguments) -> bool:
    """Whether there is something to compute, and the kernel has room for the samples of a head."""
    num_levels, num_points = arguments.num_levels, arguments.num_points
    has_room = num_levels <= _MAX_LEVELS and num_levels * num_points <= _MAX_SAMPLES
    return has_room and arguments.reference.numel() > 0 and arguments.value.numel() > 0


def _same_dtype(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contiguous tensors of the type that positions are computed in."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    value, sampling, reference = (tensor.to(dtype).contiguous() for tensor in tensors)
    return value, sampling, reference


def load(folder: Path) -> NativeKernels:
    """Build, load and compare with the portable form. Raises as `build_kernel`, and ArithmeticError."""
    kernels = NativeKernels(build_kernel(SOURCE, folder))
    for dtype in (torch.float32, torch.float64):
        compare_with_portable(kernels.forward, kernels.backward, dtype=dtype, num_heads=2, head_dim=24)
    return kernels


@lru_cache(maxsize=1)
def native_kernels() -> NativeKernels | None:
    """The CPU kernels; None, said once, where they are not available."""
    return kernel_or_none(load, operator="deform_attn")


def deform_attn_cpu(arguments: DeformAttnArguments) -> Tensor:
    """Forward of `vis::deform_attn` on a CPU: the kernel where it is usable, else the portable form."""
    kernels = native_kernels()
    if kernels is None or not usable(arguments):
        return deform_attn_bag(arguments)
    return kernels.forward(arguments)


def deform_attn_backward_cpu(grad: Tensor, arguments: DeformAttnArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of `vis::deform_attn` on a CPU: the kernel where it is usable, else the portable form."""
    kernels = native_kernels()
    if kernels is None or not usable(arguments):
        return deform_attn_backward_bag(grad, arguments)
    return kernels.backward(grad, arguments)
