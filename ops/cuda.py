"""The CUDA kernels at work: compiled by NVRTC through CuPy, checked, launched on torch's current stream.

The only importer of CuPy, and only once a CUDA tensor arrives. No kernel is needed for a result: where one
cannot be had, or fails, it is switched off with one line in the log, and the portable form of `ops.bag` runs.
No synchronisation and no CuPy memory on the hot path: raw pointers of torch's tensors, its own allocator.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.check import compare_with_portable
from ops.launch import KERNEL_SOURCE, DeformAttnConfig, Launch, Pass, plan_deform_attn

__all__ = ["CupyCompiler", "DeformAttnKernels", "deform_attn_backward_cuda", "deform_attn_cuda", "kernels"]

logger = logging.getLogger(__name__)

Run = Callable[[int, tuple[int, ...], tuple[int, ...]], None]
"""Launches a kernel on the current stream of its device: (blocks, addresses, ints)."""

_MAX_INDEX = 2**31


class LaunchFailed(RuntimeError):
    """A kernel that was ready could not be launched; the cause is what the driver or CuPy said."""


class Compiler(Protocol):
    """Makes a launch runnable on a device; whatever it raises switches that kernel off."""

    def __call__(self, launch: Launch, device: torch.device) -> Run: ...


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

    def __call__(self, launch: Launch, device: torch.device) -> Run:
        index = torch.cuda.current_device() if device.index is None else device.index
        module = self._cupy.RawModule(
            code=KERNEL_SOURCE.read_text(encoding="utf-8"),
            options=("--std=c++17",),
            name_expressions=(launch.expression,),
        )
        # The driver's function, of the device that is current now: skips the look-up of each call.
        function = module.get_function(launch.expression).kernel
        block = (launch.threads,)

        def run(blocks: int, addresses: tuple[int, ...], ints: tuple[int, ...]) -> None:
            function((blocks,), block, (*addresses, *map(np.int32, ints)), stream=self._current_stream(index))

        return run

    def _current_stream(self, index: int) -> Any:
        address = torch.cuda.current_stream(index).cuda_stream
        stream = self._streams.get((index, address))
        if stream is None:
            stream = self._streams[index, address] = self._cupy.cuda.ExternalStream(address, index)
        return stream


class DeformAttnKernels:
    """The kernels of `vis::deform_attn` for all configurations met, each compiled once."""

    def __init__(self, compiler: Compiler) -> None:
        self.switched_off: dict[tuple[torch.device, Pass, DeformAttnConfig], str] = {}
        """Kernels that are not used, and why."""
        self._compiler = compiler
        self._ready: dict[tuple[torch.device, Pass, DeformAttnConfig], tuple[Launch, Run]] = {}
        self._lock = threading.RLock()

    def forward(
        self,
        value: Tensor,
        sampling: Tensor,
        reference: Tensor,
        height0: int,
        width0: int,
        num_levels: int,
        num_points: int,
    ) -> Tensor | None:
        """As `ops.deform_attn`; None where the kernel is switched off."""
        tensors = (value, sampling, reference)
        with _on(value.device):
            found = self._get("forward", value.device, _config(*tensors, num_levels, num_points))
            if found is None or _too_large(*tensors):
                return None
            try:
                return _forward(found, tensors, (height0, width0))
            except LaunchFailed as exc:
                self._switch_off(found[0], value.device, exc)
                return None

    def backward(
        self,
        grad: Tensor,
        value: Tensor,
        sampling: Tensor,
        reference: Tensor,
        height0: int,
        width0: int,
        num_levels: int,
        num_points: int,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Gradients of value, sampling and reference; None where the kernel is switched off.

        That of `value` is summed by atomics: its last bits differ from run to run. Where torch is set to
        deterministic algorithms, the answer is None.
        """
        if torch.are_deterministic_algorithms_enabled():
            return None
        tensors = (value, sampling, reference)
        with _on(value.device):
            found = self._get("backward", value.device, _config(*tensors, num_levels, num_points))
            if found is None or _too_large(*tensors):
                return None
            try:
                return _backward(found, grad, tensors, (height0, width0))
            except LaunchFailed as exc:
                self._switch_off(found[0], value.device, exc)
                return None

    def _get(self, kernel: Pass, device: torch.device, config: DeformAttnConfig) -> tuple[Launch, Run] | None:
        key = (device, kernel, config)
        found = self._ready.get(key)
        if found is not None or key in self.switched_off:
            return found
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"the {kernel} kernel of deform_attn would be compiled while a CUDA graph is captured; "
                "call the operator once with the same shapes and dtypes before the capture"
            )
        with self._lock:
            if key not in self._ready and key not in self.switched_off:
                self._prepare(key)
            return self._ready.get(key)

    def _prepare(self, key: tuple[torch.device, Pass, DeformAttnConfig]) -> None:
        """Plan, compile, compare with the portable form on random input: each failure switches off."""
        device, kernel, config = key
        try:
            launch = plan_deform_attn(kernel, config)
        except ValueError as exc:
            self.switched_off[key] = str(exc)
            logger.info("deform_attn runs in its portable form: %s", exc)
            return
        try:
            found = (launch, self._compiler(launch, device))
            _check(found, device)
        except torch.OutOfMemoryError:
            raise  # no fault of the kernel
        except Exception as exc:  # the compiler, the driver, the comparison
            self._switch_off(launch, device, exc)
        else:
            self._ready[key] = found

    def _switch_off(self, launch: Launch, device: torch.device, exc: Exception) -> None:
        key = (device, launch.kernel, launch.config)
        with self._lock:
            self._ready.pop(key, None)
            self.switched_off[key] = f"{type(exc).__name__}: {exc}"
        logger.warning(
            "kernel %s switched off on %s, the portable form goes on: %s: %s",
            launch.expression,
            device,
            type(exc).__name__,
            exc,
        )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one: allocations, the driver and CuPy all go by it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _config(
    value: Tensor, sampling: Tensor, reference: Tensor, num_levels: int, num_points: int
) -> DeformAttnConfig:
    return DeformAttnConfig(
        value=value.dtype,
        sampling=sampling.dtype,
        reference=reference.dtype,
        num_heads=value.shape[2],
        head_dim=value.shape[3],
        num_levels=num_levels,
        num_points=num_points,
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


def _launch(
    found: tuple[Launch, Run],
    addresses: tuple[int, ...],
    value: Tensor,
    sampling: Tensor,
    size0: tuple[int, int],
) -> None:
    launch, run = found
    B, Q = sampling.shape[:2]
    try:
        run(launch.blocks(B * Q), addresses, (B * Q, Q, value.shape[1], *size0))
    except Exception as exc:  # each CuPy has its own classes for the driver's errors
        raise LaunchFailed(f"{type(exc).__name__}: {exc}") from exc


def _forward(
    found: tuple[Launch, Run], tensors: tuple[Tensor, Tensor, Tensor], size0: tuple[int, int]
) -> Tensor:
    value = _aligned(tensors[0], found[0].alignment)
    sampling, reference = (tensor.contiguous() for tensor in tensors[1:])
    B, Q = sampling.shape[:2]
    result = torch.empty(B, Q, value.shape[2] * value.shape[3], dtype=value.dtype, device=value.device)
    if B * Q:
        addresses = tuple(t.data_ptr() for t in (result, value, sampling, reference))
        _launch(found, addresses, value, sampling, size0)
    return result


def _backward(
    found: tuple[Launch, Run],
    grad: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor],
    size0: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    value = _aligned(tensors[0], found[0].alignment)
    sampling, reference = (tensor.contiguous() for tensor in tensors[1:])
    grad = _aligned(grad.to(value.dtype), found[0].alignment)
    B, Q = sampling.shape[:2]
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    grad_sampling, grad_reference = torch.empty_like(sampling), torch.empty_like(reference)
    if B * Q:
        outputs = (grad_value, grad_sampling, grad_reference)
        addresses = tuple(t.data_ptr() for t in (*outputs, grad, value, sampling, reference))
        _launch(found, addresses, value, sampling, size0)
    return grad_value.to(value.dtype), grad_sampling, grad_reference


def _check(found: tuple[Launch, Run], device: torch.device) -> None:
    """Compare a kernel with the portable form. Raises ArithmeticError where they differ."""
    config = found[0].config
    one = found[0].kernel == "forward"
    compare_with_portable(
        (lambda *tensors: _forward(found, tensors[:3], tensors[3:5])) if one else None,
        None if one else (lambda grad, *tensors: _backward(found, grad, tensors[:3], tensors[3:5])),
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
    """The kernels through CuPy; None, said once, where it is missing or sees no GPU."""
    try:
        return DeformAttnKernels(CupyCompiler())
    except RuntimeError as exc:
        logger.warning("no CUDA kernels, deform_attn runs in its portable form: %s", exc)
        return None


def deform_attn_cuda(
    value: Tensor,
    sampling: Tensor,
    reference: Tensor,
    height0: int,
    width0: int,
    num_levels: int,
    num_points: int,
) -> Tensor:
    """Forward of `vis::deform_attn` on CUDA: the kernel where it is usable, else the portable form."""
    arguments = (value, sampling, reference, height0, width0, num_levels, num_points)
    usable = kernels()
    result = usable.forward(*arguments) if usable is not None else None
    return deform_attn_bag(*arguments) if result is None else result


def deform_attn_backward_cuda(
    grad: Tensor,
    value: Tensor,
    sampling: Tensor,
    reference: Tensor,
    height0: int,
    width0: int,
    num_levels: int,
    num_points: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of `vis::deform_attn` on CUDA: the kernel where it is usable, else the portable form."""
    arguments = (grad, value, sampling, reference, height0, width0, num_levels, num_points)
    usable = kernels()
    result = usable.backward(*arguments) if usable is not None else None
    return deform_attn_backward_bag(*arguments) if result is None else result
