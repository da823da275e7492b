"""A half as one CUDA graph: hundreds of launches become one, and the host has nothing to do between them.

Source: torch's CUDA graphs. Never run on a GPU yet (docs/gpu-pending.md).

Dimensions: as the half's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.engines.halves import Half

__all__ = ["GraphedHalf", "Upload"]


_WARM_UP = 3
"""Calls before the capture: libraries choose their kernels and take their memory, kernels are compiled."""


class GraphedHalf:
    """A half captured once on example inputs, replayed for others of the same shapes.

    Inputs are copied into the graph's own, unless they are these, results out of it: what a call returns
    stays valid. Works on its device's current stream, whichever device is the calling thread's. Raises
    RuntimeError (torch's) where the half cannot be captured.
    """

    def __init__(self, half: Half, example: tuple[Tensor, ...], *, device: torch.device) -> None:
        self._device = device
        self.inputs = tuple(tensor.clone() for tensor in example)
        """The graph's own; what is written here need not be copied."""
        with torch.cuda.device(device):
            side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    half(*self.inputs)
            torch.cuda.current_stream(device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = half(*self.inputs)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.clone() for output in self.lend(*tensors))

    def lend(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The graph's own results, which the next call overwrites."""
        with torch.cuda.device(self._device):
            for own, given in zip(self.inputs, tensors, strict=True):
                if own is not given:
                    own.copy_(given, non_blocking=True)
            self._graph.replay()
        return self._outputs


class Upload:
    """Host tensors to a GPU through pinned memory on a stream of its own, next to what the GPU computes.

    `depth` sets of buffers are used in turn; a set is written again once its copy has ended.
    """

    def __init__(self, device: torch.device, *, depth: int = 2) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._sets: list[tuple[dict[tuple[int, torch.dtype, torch.Size], Tensor], torch.cuda.Event]] = []
        for _ in range(depth):
            self._sets.append(({}, torch.cuda.Event()))  # type: ignore[no-untyped-call]
        self._turn = 0

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors, of any strides, on the device, ready for the current stream; the host waits for its
        buffers alone."""
        buffers, copied = self._sets[self._turn]
        self._turn = (self._turn + 1) % len(self._sets)
        copied.synchronize()
        placed = []
        with torch.cuda.stream(self._stream):
            for index, tensor in enumerate(tensors):
                key = (index, tensor.dtype, tensor.shape)
                if key not in buffers:
                    buffers[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                buffers[key].copy_(tensor)
                placed.append(buffers[key].to(self._device, non_blocking=True))
            copied.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for tensor in placed:
            tensor.record_stream(current)
        return tuple(placed)
