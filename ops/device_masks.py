"""`ops.masks.crop_masks` on a GPU: from mask logits to COCO run lengths by a kernel on torch's stream.

The kernel is `ops/kernels/mask_rle.cu`; it takes the steps of `crop_masks` one by one, so that its runs are
equal to the last one. How it comes to be used, and when not, is `ops.kernel`'s.

N masks of h × w cells.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.cuda import cupy_compiler
from ops.kernel import Compiler, KernelTable, Ready
from ops.launch import MASK_RUNS_HEADER, MaskRunsConfig, plan_mask_runs
from ops.masks import CropMasks, MakeSums, crop_masks
from ops.preprocess import Fit, fit_size
from ops.rle import EMPTY, CropRLE, write_counts

__all__ = [
    "CAPACITY",
    "CropMasksOnDevice",
    "DeviceRuns",
    "DeviceSums",
    "MaskRunsKernels",
    "crop_masks_on",
    "crops_of_runs",
    "mask_runs_cuda",
    "mask_sums_on",
]

CAPACITY = 4096
"""Counts of a mask that there is room for, if not told: two a column of a mask as wide as 2K."""

_MAX_INDEX = 2**31
_FIRST_ROWS = 8
"""Rows of sums that are taken at first."""

Rows = slice | list[int]
"""Which of the masks."""


class DeviceRuns(NamedTuple):
    """Masks as run lengths down the columns of the rectangle of their ones, zeros first, as COCO counts them.

    All are int32 views of one tensor, `packed`, so that one copy brings all of them to the host.
    """

    counts: Tensor
    """(N, capacity), the first num_runs of a row; the rest means nothing, nor does a row that overflowed."""
    num_runs: Tensor
    """(N,) counts of each mask, of zeros and of ones, even where it overflowed; 0 for a mask without ones."""
    overflowed: Tensor
    """(N,) 1 where the counts are more than the capacity, else 0."""
    rectangles: Tensor
    """(N, 4) x, y, width, height in source pixels; all 0 for a mask without ones."""
    packed: Tensor
    """(N, 6 + capacity)."""

    @classmethod
    def of(cls, packed: Tensor) -> "DeviceRuns":
        """The views of what the kernel writes, on whatever device."""
        return cls(packed[:, MASK_RUNS_HEADER:], packed[:, 4], packed[:, 5], packed[:, :4], packed)


class _Job(NamedTuple):
    """Masks and where they lie."""

    mask_logits: Tensor
    boxes_xyxy: Tensor
    fit: Fit
    stride: int
    grow: float
    capacity: int


class MaskRunsKernels:
    """The kernels from mask logits to runs, one for each pair of dtypes."""

    def __init__(self, compiler: Compiler) -> None:
        self._table = KernelTable(compiler, operator="mask encoding", plan=plan_mask_runs, check=_check)
        self.switched_off = self._table.switched_off
        """Kernels that are not used, and why."""

    def device_runs(
        self,
        mask_logits: Tensor,
        boxes_xyxy: Tensor,
        *,
        fit: Fit,
        stride: int = 4,
        grow: float = 0.1,
        capacity: int = CAPACITY,
    ) -> DeviceRuns | None:
        """The runs of masks within their boxes; None where the kernel is switched off.

        mask_logits (N, h, w), boxes_xyxy (N, 4) in source pixels, stride and grow are as `crop_masks` takes
        them; logits are float32, float16 or bfloat16, boxes float32 or float64.

        Raises ValueError for shapes that contradict each other or the fit, and for a capacity below 1.
        """
        job = _job(mask_logits, boxes_xyxy, fit, stride, grow, capacity)
        if _too_large(job):
            return None
        config = MaskRunsConfig(mask_logits.dtype, boxes_xyxy.dtype)
        return self._table.use("mask_runs", mask_logits.device, config, partial(_runs, job=job))


def _job(mask_logits: Tensor, boxes_xyxy: Tensor, fit: Fit, stride: int, grow: float, capacity: int) -> _Job:
    cells = (-(-fit.height // stride), -(-fit.width // stride))
    shapes = tuple(mask_logits.shape), tuple(boxes_xyxy.shape)
    if len(shapes[0]) != 3 or shapes[0][1:] != cells or shapes[1] != (shapes[0][0], 4):
        raise ValueError(
            f"mask_logits must be (N, {cells[0]}, {cells[1]}) for a model input of {fit.height}×{fit.width} "
            f"at stride {stride}, and boxes_xyxy (N, 4), got {shapes[0]} and {shapes[1]}"
        )
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, got {capacity}")
    return _Job(mask_logits.contiguous(), boxes_xyxy.contiguous(), fit, stride, grow, capacity)


def _too_large(job: _Job) -> bool:
    """Whether 32-bit counts do not reach: pixels of a frame."""
    return job.fit.source_height * job.fit.source_width >= _MAX_INDEX


def _runs(ready: Ready[MaskRunsConfig], job: _Job) -> DeviceRuns:
    logits, boxes, fit = job.mask_logits, job.boxes_xyxy, job.fit
    num, rows, columns = logits.shape
    make = partial(torch.empty, dtype=torch.int32, device=logits.device)
    packed = make(num, MASK_RUNS_HEADER + job.capacity)
    scratch = make(num, 3, fit.source_width)
    factors = (
        fit.scale_x / job.stride,
        fit.scale_y / job.stride,
        job.grow,
        job.stride / fit.scale_x,
        job.stride / fit.scale_y,
    )
    if num:
        ready(
            num,
            tuple(tensor.data_ptr() for tensor in (packed, scratch, logits, boxes)),
            (job.capacity, rows, columns, fit.source_height, fit.source_width, *map(np.float64, factors)),
        )
    return DeviceRuns.of(packed)


def crops_of_runs(runs: DeviceRuns) -> list[CropRLE | None]:
    """Encode what the kernel gave; None for each mask that overflowed. Waits for the kernel."""
    packed = _to_host(runs.packed).numpy()  # the one copy, of what is to be sent from the host
    crops: list[CropRLE | None] = [None if row[5] else EMPTY for row in packed]
    used = [(index, row) for index, row in enumerate(packed) if row[4] and not row[5]]
    if used:
        lengths = [row[MASK_RUNS_HEADER : MASK_RUNS_HEADER + row[4]].astype(np.uint32) for _, row in used]
        for (index, row), text in zip(used, write_counts(lengths), strict=True):
            x, y, width, height = row[:4].tolist()
            crops[index] = CropRLE(x, y, width, height, text)
    return crops


def _to_host(tensor: Tensor) -> Tensor:
    """A tensor on the host, through pinned memory: the copy waits for its own stream alone."""
    if not tensor.is_cuda:
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return pinned


def _completed(runs: DeviceRuns | None, host: Callable[[Rows], list[CropRLE]]) -> list[CropRLE]:
    """The masks of `runs`, and by `host` those that overflowed, or all where there are no runs."""
    if runs is None:
        return host(slice(None))
    crops = crops_of_runs(runs)
    left = [index for index, crop in enumerate(crops) if crop is None]
    others = iter(host(left) if left else ())
    return [next(others) if crop is None else crop for crop in crops]


class CropMasksOnDevice:
    """`crop_masks` of arrays on the host by the kernel of a GPU: the same arguments, equal results.

    On a stream of its own, so that masks do not wait for windows that the network is at.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kernel_is_off = False
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def __call__(
        self,
        mask_logits: NDArray[np.float32],
        boxes_xyxy: NDArray[np.floating],
        *,
        fit: Fit,
        stride: int = 4,
        grow: float = 0.1,
    ) -> list[CropRLE]:
        """As `crop_masks`; waits for the device, where the kernel is not switched off."""

        def host(rows: Rows) -> list[CropRLE]:
            return crop_masks(mask_logits[rows], boxes_xyxy[rows], fit=fit, stride=stride, grow=grow)

        if self._kernel_is_off:
            return host(slice(None))
        with self.stream():
            logits, boxes = (
                torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
                for array in (mask_logits, boxes_xyxy)
            )
            return self.of_tensors(logits, boxes, host, fit=fit, stride=stride, grow=grow)

    def stream(self) -> AbstractContextManager[object]:
        """Within it, torch works on this stream; on a CPU nothing is changed."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def reads(self, tensor: Tensor) -> None:
        """Say that this stream uses a tensor of another one: its memory is kept until that is done."""
        if self._stream is not None:
            tensor.record_stream(self._stream)

    def of_tensors(
        self,
        mask_logits: Tensor,
        boxes_xyxy: Tensor,
        host: Callable[[Rows], list[CropRLE]],
        *,
        fit: Fit,
        stride: int,
        grow: float,
    ) -> list[CropRLE]:
        """`crop_masks` of tensors, within `stream()`; `host` makes the rows that the kernel cannot."""
        runs = None
        if not self._kernel_is_off:
            runs = mask_runs_cuda(mask_logits, boxes_xyxy, fit=fit, stride=stride, grow=grow)
            self._kernel_is_off = runs is None
        return _completed(runs, host)


class DeviceSums:
    """Sums of mask logits on a device (`ops.masks.MaskSums`), on the stream of their own masks.

    Rows are taken as they are used: memory of a device is not backed by need. Only indices go to the device
    and only run lengths come back, so a mask is copied to the host once for comparing and never back.
    """

    on_device = True

    def __init__(
        self, num_rows: int, num_places: int, cells: tuple[int, int], *, crop: CropMasksOnDevice
    ) -> None:
        self._crop = crop
        self._num_rows = num_rows
        self._num_places = num_places
        self._cells = cells
        with crop.stream():
            self._sums = self._zeros(min(num_rows, _FIRST_ROWS))

    def clear(self, rows: slice, places: Sequence[int]) -> None:
        """As `MaskSums.clear`."""
        start, stop, _ = rows.indices(len(self._sums))
        with self._crop.stream():
            for place in places:  # a fill each: no index goes to the device
                self._sums[start:stop, place].zero_()

    def add(
        self,
        rows: NDArray[np.intp],
        places: NDArray[np.intp],
        logits: Tensor | NDArray[np.float32],
        chosen: NDArray[np.intp],
        first: int,
    ) -> None:
        """As `MaskSums.add`; logits (N, F, h, w) on the device, or (N, F, h · w) of the host."""
        if not len(rows) or not len(places):
            return
        with self._crop.stream():
            self._grow(int(rows.max()) + 1)
            flat = (rows[:, None] * self._num_places + places).ravel()
            if isinstance(logits, Tensor):
                self._crop.reads(logits)
                picked = logits[:, first:].index_select(0, self._index(chosen))
            else:
                picked = torch.from_numpy(logits[chosen, first:]).to(self._crop.device)
            table = self._sums.view(-1, self._cells[0] * self._cells[1])
            # Each row and place is there once: the order of sums is that of windows.
            table.index_add_(0, self._index(flat), picked.reshape(len(flat), -1).float())

    def crops(self, rows: Sequence[int], place: int, *, fit: Fit, stride: int) -> list[CropRLE]:
        """As `MaskSums.crops`; waits for the device."""
        with self._crop.stream():
            grid = self._sums[:, place].index_select(0, self._index(np.array(rows)))
            grid = grid.view(-1, *self._cells)
            whole = torch.tensor([[0.0, 0, fit.source_width, fit.source_height]]).expand(len(rows), 4)

            def host(which: Rows) -> list[CropRLE]:
                return crop_masks(grid[which].cpu().numpy(), whole[which].numpy(), fit=fit, stride=stride)

            boxes = whole.to(self._crop.device)
            return self._crop.of_tensors(grid, boxes, host, fit=fit, stride=stride, grow=0.0)

    def _grow(self, num_rows: int) -> None:
        if num_rows > len(self._sums):
            wanted = min(self._num_rows, max(num_rows, 2 * len(self._sums)))
            self._sums = torch.cat([self._sums, self._zeros(wanted - len(self._sums))])

    def _zeros(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, self._num_places, *self._cells, device=self._crop.device)

    def _index(self, numbers: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(self._crop.device)


def mask_sums_on(device: torch.device) -> MakeSums | None:
    """Sums on a device where there is a kernel for their masks, compiled and checked now; None elsewhere."""
    crop = crop_masks_on(device)
    return partial(DeviceSums, crop=crop) if isinstance(crop, CropMasksOnDevice) else None


def crop_masks_on(device: torch.device) -> CropMasks:
    """`crop_masks` on a device where there is a kernel for it, compiled and checked now, else on the host."""
    if device.type != "cuda" or not _kernels():
        return crop_masks
    crop = CropMasksOnDevice(device)
    fit = fit_size(32, 32, height=32, width=32)
    crop(np.zeros((1, 8, 8), np.float32), np.zeros((1, 4), np.float32), fit=fit)
    return crop


def _check(ready: Ready[MaskRunsConfig], device: torch.device) -> None:
    """Compare with `crop_masks`, run by run. Raises ArithmeticError where they differ."""
    config = ready.launch.config
    fit = fit_size(97, 211, height=45, width=64)
    y, x = torch.arange(12.0, device="cpu")[:, None], torch.arange(16.0, device="cpu")
    blob = 3 - torch.hypot(x - 7, (y - 4) * 1.3)
    noise = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(0), device="cpu")
    logits = torch.cat([blob[None], -blob[None], blob[None] - 9, noise]).to(config.logits)
    boxes = torch.tensor([[60.0, 40, 120, 60], [-9, -9, 999, 999]] * 3, dtype=config.boxes, device="cpu")
    wanted = crop_masks(logits.float().numpy(), boxes.numpy(), fit=fit)
    job = _job(logits.to(device), boxes.to(device), fit, 4, 0.1, CAPACITY)
    got = crops_of_runs(_runs(ready, job))
    for index, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        if ours != theirs:
            raise ArithmeticError(f"mask {index} differs from the portable form: {ours} instead of {theirs}")


@lru_cache(maxsize=1)
def _kernels() -> MaskRunsKernels | None:
    compiler = cupy_compiler()
    return None if compiler is None else MaskRunsKernels(compiler)


def mask_runs_cuda(
    mask_logits: Tensor,
    boxes_xyxy: Tensor,
    *,
    fit: Fit,
    stride: int = 4,
    grow: float = 0.1,
    capacity: int = CAPACITY,
) -> DeviceRuns | None:
    """The runs of masks on their GPU: arguments and errors as of `MaskRunsKernels.device_runs`.

    Waits for nothing; before a CUDA graph is captured, it must have run once with the same dtypes, else
    RuntimeError. None where the tensors are not on a GPU, without CuPy, and where the kernel is switched off.
    """
    usable = _kernels() if mask_logits.is_cuda and boxes_xyxy.is_cuda else None
    if usable is None:
        return None
    return usable.device_runs(mask_logits, boxes_xyxy, fit=fit, stride=stride, grow=grow, capacity=capacity)
