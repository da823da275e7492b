"""`ops.yuv.yuv_to_input` on a GPU: one kernel, on torch's current stream, from planes to the model's input.

The kernel is `ops/kernels/preprocess.cu`; how it comes to be used, and when not, is `ops.kernel`'s.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ops.cuda import cupy_compiler
from ops.kernel import Compiler, KernelTable, Ready
from ops.launch import PreprocessConfig, plan_preprocess
from ops.preprocess import IMAGENET_MEAN, IMAGENET_STD, Fit, fit_size
from ops.yuv import ColourMatrix, YuvFilter, YuvPlanes, YuvToRgb, yuv_to_input

__all__ = ["FromPlanes", "PreprocessKernels", "preprocess_cuda", "preprocess_on"]

_MAX_BYTES = 2**31
_MAX_PRODUCT = 2**29
"""Cells times pixels of an axis, of which the kernel makes 32-bit numerators."""

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest error of a value, which is 2.7 at most: a rounding of the type, or some of float32."""

_SCALES = tuple(1 / (255 * std) for std in IMAGENET_STD)
_SHIFTS = tuple(mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))


class FromPlanes(Protocol):
    """From the planes of a picture to the model's input, as `ops.yuv.yuv_to_input`; None where it cannot."""

    def __call__(
        self,
        planes: Sequence[Tensor],
        *,
        matrix: ColourMatrix,
        full_range: bool,
        height: int,
        width: int,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Fit] | None: ...


class _Job(NamedTuple):
    """A picture and what is to become of it."""

    picture: YuvPlanes
    colours: YuvToRgb
    fit: Fit
    taps: YuvFilter


class PreprocessKernels:
    """The kernels from YUV to the model's input, one for each dtype of it."""

    def __init__(self, compiler: Compiler) -> None:
        self._table = KernelTable(compiler, operator="preprocessing", plan=plan_preprocess, check=_check)
        self.switched_off = self._table.switched_off
        """Kernels that are not used, and why."""

    def preprocess(
        self,
        planes: Sequence[Tensor],
        *,
        matrix: ColourMatrix,
        full_range: bool,
        height: int,
        width: int,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Fit] | None:
        """As `ops.yuv.yuv_to_input`, in float32, float16 or bfloat16; None where the kernel is switched off.

        None, too, for sizes that 32-bit indices do not reach: 8K to 16384 × 16384 is well within them.
        """
        job = _job(planes, matrix, full_range, height, width)
        if _too_large(job):
            return None
        config = PreprocessConfig(dtype)
        output = self._table.use("preprocess", planes[0].device, config, partial(_preprocess, job=job))
        return None if output is None else (output, job.fit)


def _job(planes: Sequence[Tensor], matrix: ColourMatrix, full_range: bool, height: int, width: int) -> _Job:
    luma, blue, red = YuvPlanes.of(planes)
    if luma.stride(1) != 1:
        luma = luma.contiguous()
    if blue.stride() != red.stride():
        blue, red = blue.contiguous(), red.contiguous()
    fit = fit_size(*luma.shape, height=height, width=width)
    return _Job(
        YuvPlanes(luma, blue, red), YuvToRgb.of(matrix, full_range=full_range), fit, YuvFilter.of(fit)
    )


def _too_large(job: _Job) -> bool:
    fit, taps = job.fit, job.taps
    products = (taps.cells_high * fit.content_height, taps.cells_wide * fit.content_width)
    planes = (fit.source_height * job.picture.luma.stride(0), 3 * fit.height * fit.width)
    return max(products) >= _MAX_PRODUCT or max(planes) >= _MAX_BYTES


def _preprocess(ready: Ready[PreprocessConfig], job: _Job) -> Tensor:
    picture, colours, fit, taps = job
    output = torch.empty(
        3, fit.height, fit.width, dtype=ready.launch.config.output, device=picture.luma.device
    )
    lines = (picture.luma.stride(0), *picture.blue.stride())
    cells = (taps.fold, taps.cells_high, taps.cells_wide, int(taps.area))
    sizes = (fit.content_height, fit.content_width, fit.height, fit.width)
    factors = (
        colours.luma_scale,
        colours.luma_shift,
        colours.red_of_red,
        colours.green_of_blue,
        colours.green_of_red,
        colours.blue_of_blue,
        *_SCALES,
        *_SHIFTS,
    )
    ready(
        fit.height * fit.width,
        tuple(tensor.data_ptr() for tensor in (output, *picture)),
        (*lines, *cells, *sizes, *map(np.float32, factors)),
    )
    return output


def _check(ready: Ready[PreprocessConfig], device: torch.device) -> None:
    """Compare with the readable form in float64. Raises ArithmeticError where they differ."""
    dtype = ready.launch.config.output
    generator = torch.Generator().manual_seed(0)
    for (H, W), (height, width) in (((48, 64), (13, 15)), ((9, 7), (20, 31)), ((45, 31), (12, 9))):
        luma = torch.randint(256, (H, W), generator=generator, dtype=torch.uint8, device="cpu")
        chroma = torch.randint(
            256, (-(-H // 2), -(-W // 2), 2), generator=generator, dtype=torch.uint8, device="cpu"
        )
        wanted, _ = yuv_to_input(
            (luma, chroma), matrix="bt709", full_range=False, height=height, width=width, dtype=torch.float64
        )
        planes = (luma.to(device), chroma.to(device))
        got = _preprocess(ready, _job(planes, "bt709", False, height, width))
        error = float((got.cpu().double() - wanted).abs().max())  # once a kernel, so it may wait
        if not error <= _TOLERANCE[dtype]:
            raise ArithmeticError(
                f"{H}×{W} to {height}×{width} differs from the portable form by {error:.1e}, "
                f"allowed {_TOLERANCE[dtype]:.0e}"
            )


@lru_cache(maxsize=1)
def _kernels() -> PreprocessKernels | None:
    compiler = cupy_compiler()
    return None if compiler is None else PreprocessKernels(compiler)


def preprocess_cuda(
    planes: Sequence[Tensor],
    *,
    matrix: ColourMatrix,
    full_range: bool,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Fit] | None:
    """Convert, resize, normalise and pad a picture on its GPU: arguments and result as of `yuv_to_input`.

    Waits for nothing; before a CUDA graph is captured, it must have run once with the same dtype, else
    RuntimeError. None where the planes are not on a GPU, without CuPy, and where the kernel is switched off.
    """
    usable = _kernels() if all(plane.is_cuda for plane in planes) else None
    if usable is None:
        return None
    return usable.preprocess(
        planes, matrix=matrix, full_range=full_range, height=height, width=width, dtype=dtype
    )


def preprocess_on(device: torch.device, dtype: torch.dtype) -> FromPlanes | None:
    """`preprocess_cuda` on a device where its kernel works for that dtype, tried here; else None."""
    if device.type != "cuda":
        return None
    planes = [torch.zeros(shape, dtype=torch.uint8, device=device) for shape in ((2, 2), (1, 1, 2))]
    found = preprocess_cuda(planes, matrix="bt709", full_range=False, height=2, width=2, dtype=dtype)
    return None if found is None else preprocess_cuda
