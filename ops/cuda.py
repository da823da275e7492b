"""CUDA kernels compiled by NVRTC through CuPy and launched on torch's stream; those of `vis::deform_attn`.

The only importer of CuPy, and only once a CUDA tensor arrives. No kernel is needed for a result: where one is
not usable (`ops.kernel`), the portable form of `ops.bag` runs. No synchronisation and no CuPy memory on the
hot path: raw pointers of torch's tensors, its own allocator.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

import logging
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.check import compare_with_portable
from ops.kernel import Compiler, KernelTable, Ready, Run, Scalar
from ops.launch import DeformAttnConfig, Launch, plan_deform_attn

__all__ = [
    "CupyCompiler",
    "DeformAttnKernels",
    "cupy_compiler",
    "deform_attn_backward_cuda",
    "deform_attn_cuda",
    "kernels",
    "nvrtc_ptx",
]

logger = logging.getLogger(__name__)

_MAX_INDEX = 2**31


class CupyCompiler:
    """Compiles by NVRTC (CuPy keeps the result on disk) and launches on torch's current stream."""

    def __init__(self) -> None:
        """Raises RuntimeError where CuPy is missing or sees no GPU, with the remedy."""
        try:
            import cupy
        except ImportError as exc:
            raise RuntimeError(
                "CuPy is not installed; for torch with CUDA 12: pip install 'mssts-stream[cu12]', "
                "with CUDA 13: 'mssts-stream[cu13]'"
            ) from exc
        if not cupy.cuda.is_available():
            raise RuntimeError("CuPy sees no GPU: is its wheel (cu12 or cu13) the one for the driver?")
        self._cupy: Any = cupy
        self._streams: dict[tuple[int, int], Any] = {}

    def __call__(self, launch: Launch[Any], device: torch.device) -> Run:
        index = torch.cuda.current_device() if device.index is None else device.index
        module = self._cupy.RawModule(
            code=launch.code,
            options=("--std=c++17",),
            name_expressions=(launch.expression,),
        )
        # The driver's function, of the device that is current now: skips the look-up of each call.
        function = module.get_function(launch.expression).kernel
        block = (launch.threads,)

        def run(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            # CuPy would pass a plain int as 64 bits.
            values = (np.int32(value) if isinstance(value, int) else value for value in scalars)
            function((blocks,), block, (*addresses, *values), stream=self._current_stream(index))

        return run

    def _current_stream(self, index: int) -> Any:
        address = torch.cuda.current_stream(index).cuda_stream
        stream = self._streams.get((index, address))
        if stream is None:
            stream = self._streams[index, address] = self._cupy.cuda.ExternalStream(address, index)
        return stream


def nvrtc_ptx(launch: Launch[Any], capability: tuple[int, int]) -> str:
    """The launch's kernel as PTX, by the NVRTC that CuPy finds; needs no GPU.

    Raises RuntimeError where CuPy or NVRTC is missing, or with the compiler's words where it fails.
    """
    major, minor = capability
    try:
        from cupy.cuda import nvrtc

        program = nvrtc.createProgram(launch.code, "kernel.cu", (), ())
    except Exception as exc:  # ImportError, or a class of the loader's own for a library that is not there
        raise RuntimeError(f"no NVRTC through CuPy: {type(exc).__name__}: {exc}") from exc
    try:
        nvrtc.addNameExpression(program, launch.expression)
        nvrtc.compileProgram(program, ("--std=c++17", f"--gpu-architecture=compute_{major}{minor}"))
        text = nvrtc.getPTX(program)
    except nvrtc.NVRTCError as exc:
        raise RuntimeError(f"NVRTC: {exc}: {nvrtc.getProgramLog(program)}") from exc
    finally:
        nvrtc.destroyProgram(program)
    return text.decode().rstrip("\0") if isinstance(text, bytes) else str(text)


@lru_cache(maxsize=1)
def cupy_compiler() -> CupyCompiler | None:
    """The compiler of all kernels; None, said once, where CuPy is missing or sees no GPU."""
    try:
        return CupyCompiler()
    except RuntimeError as exc:
        logger.warning("no CUDA kernels, the portable forms run: %s", exc)
        return None


class DeformAttnKernels:
    """The kernels of `vis::deform_attn` for all configurations met, each compiled once."""

    def __init__(self, compiler: Compiler) -> None:
        self._table = KernelTable(compiler, operator="deform_attn", plan=plan_deform_attn, check=_check)
        self.switched_off = self._table.switched_off
        """Kernels that are not used, and why."""

    def forward(self, arguments: DeformAttnArguments) -> Tensor | None:
        """As `ops.deform_attn`; None where the kernel is switched off."""
        if _too_large(*arguments.tensors):
            return None
        call = partial(_forward, arguments=arguments)
        return self._table.use("forward", arguments.value.device, _config(arguments), call)

    def backward(self, grad: Tensor, arguments: DeformAttnArguments) -> tuple[Tensor, Tensor, Tensor] | None:
        """Gradients of value, sampling and reference; None where the kernel is switched off.

        That of `value` is summed by atomics: its last bits differ from run to run. Where torch is set to
        deterministic algorithms, the answer is None.
        """
        if torch.are_deterministic_algorithms_enabled() or _too_large(*arguments.tensors):
            return None
        call = partial(_backward, grad=grad, arguments=arguments)
        return self._table.use("backward", arguments.value.device, _config(arguments), call)


def _config(arguments: DeformAttnArguments) -> DeformAttnConfig:
    value, sampling, reference = arguments.tensors
    return DeformAttnConfig(
        value=value.dtype,
        sampling=sampling.dtype,
        reference=reference.dtype,
        num_heads=value.shape[2],
        head_dim=value.shape[3],
        num_levels=arguments.num_levels,
        num_points=arguments.num_points,
        coordinates=reference.shape[-1],
        per_level=reference.dim() == 4,
    )


def _too_large(value: Tensor, sampling: Tensor, reference: Tensor) -> bool:
    """Whether the kernels' 32-bit indices do not reach: elements of a batch element's value, queries."""
    per_element = value.shape[1] * value.shape[2] * value.shape[3]
    return max(per_element, sampling.shape[0] * sampling.shape[1]) >= _MAX_INDEX


def _aligned(tensor: Tensor, alignment: int) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % alignment == 0 else tensor.clone()


def _forward(ready: Ready[DeformAttnConfig], arguments: DeformAttnArguments) -> Tensor:
    value = _aligned(arguments.value, ready.launch.alignment)
    sampling, reference = arguments.sampling.contiguous(), arguments.reference.contiguous()
    B, Q = sampling.shape[:2]
    result = torch.empty(B, Q, value.shape[2] * value.shape[3], dtype=value.dtype, device=value.device)
    if B * Q:
        addresses = tuple(t.data_ptr() for t in (result, value, sampling, reference))
        ready(B * Q, addresses, (B * Q, Q, value.shape[1], *arguments.geometry[:2]))
    return result


def _backward(
    ready: Ready[DeformAttnConfig], grad: Tensor, arguments: DeformAttnArguments
) -> tuple[Tensor, Tensor, Tensor]:
    value = _aligned(arguments.value, ready.launch.alignment)
    sampling, reference = arguments.sampling.contiguous(), arguments.reference.contiguous()
    grad = _aligned(grad.to(value.dtype), ready.launch.alignment)
    B, Q = sampling.shape[:2]
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    grad_sampling, grad_reference = torch.empty_like(sampling), torch.empty_like(reference)
    if B * Q:
        outputs = (grad_value, grad_sampling, grad_reference)
        addresses = tuple(t.data_ptr() for t in (*outputs, grad, value, sampling, reference))
        ready(B * Q, addresses, (B * Q, Q, value.shape[1], *arguments.geometry[:2]))
    return grad_value.to(value.dtype), grad_sampling, grad_reference


def _check(ready: Ready[DeformAttnConfig], device: torch.device) -> None:
    """Compare a kernel with the portable form. Raises ArithmeticError where they differ."""
    config = ready.launch.config
    one = ready.launch.kernel == "forward"
    compare_with_portable(
        partial(_forward, ready) if one else None,
        None if one else partial(_backward, ready),
        dtype=config.value,
        sampling=config.sampling,
        reference=config.reference,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_levels=config.num_levels,
        num_points=config.num_points,
        coordinates=config.coordinates,
        per_level=config.per_level,
        device=device,
    )


@lru_cache(maxsize=1)
def kernels() -> DeformAttnKernels | None:
    """The kernels through CuPy; None where it is missing or sees no GPU."""
    compiler = cupy_compiler()
    return None if compiler is None else DeformAttnKernels(compiler)


def deform_attn_cuda(arguments: DeformAttnArguments) -> Tensor:
    """Forward of `vis::deform_attn` on CUDA: the kernel where it is usable, else the portable form."""
    usable = kernels()
    result = usable.forward(arguments) if usable is not None else None
    return deform_attn_bag(arguments) if result is None else result


def deform_attn_backward_cuda(grad: Tensor, arguments: DeformAttnArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of `vis::deform_attn` on CUDA: the kernel where it is usable, else the portable form."""
    usable = kernels()
    result = usable.backward(grad, arguments) if usable is not None else None
    return deform_attn_backward_bag(grad, arguments) if result is None else result
