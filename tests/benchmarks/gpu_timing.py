"""Times of steps on a GPU: one by one, replayed in a graph, and as a caller on the host sees them.

On a CPU all of it runs too, by the host's clock and without a graph: so a dry run of the report walks these lines.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

ROUNDS = 15
DRY_ROUNDS = 2
"""On a CPU, where times mean nothing; a round is one call there."""
WARM_SECONDS = 0.3
"""Idle clocks rise within this time."""


class Graph(Protocol):
    def replay(self) -> None: ...


class _CallAgain:
    """Stands for a graph on a CPU: the step is done again, its results go where the first ones are."""

    def __init__(self, step: Callable[[], Any]) -> None:
        self._step = step
        self.result = step()

    def replay(self) -> None:
        for own, new in zip(tree_leaves(self.result), tree_leaves(self._step()), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new)


def _rounds(device: torch.device) -> int:
    return ROUNDS if device.type == "cuda" else DRY_ROUNDS


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def another_stream(device: torch.device, *, busy: bool = False) -> Iterator[None]:
    """Work within goes to a stream of its own, behind 50 ms of nothing if `busy`; waited for at the end."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        if busy:
            torch.cuda._sleep(100_000_000)
        yield
    stream.synchronize()


def capture(step: Callable[[], Any], device: torch.device) -> tuple[Graph, Any]:
    """A graph of one step, warmed up outside of it."""
    if device.type != "cuda":
        again = _CallAgain(step)
        return again, again.result
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step()
    return graph, result


def warm_up(step: Callable[[], Any], device: torch.device) -> None:
    """Repeat a step until the clocks are up; RuntimeError is the step's."""
    until = time.perf_counter() + (WARM_SECONDS if device.type == "cuda" else 0.0)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    while time.perf_counter() < until:
        step()
        synchronize(device)


def time_us(step: Callable[[], Any], device: torch.device, *, calls: int) -> float:
    """Median over rounds of the time of a call, when `calls` of them follow each other; NaN where it fails."""
    try:
        warm_up(step, device)
    except RuntimeError as exc:
        print(f"not timed: {exc}", file=sys.stderr)
        return float("nan")
    return statistics.median(_round_us(step, device, calls) for _ in range(_rounds(device)))


def _round_us(step: Callable[[], Any], device: torch.device, calls: int) -> float:
    """Microseconds of a call."""
    if device.type != "cuda":
        began = time.perf_counter()
        step()
        return (time.perf_counter() - began) * 1e6
    stream = torch.cuda.current_stream(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(stream)
    for _ in range(calls):
        step()
    end.record(stream)
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) * 1e3 / calls


def graph_time_us(step: Callable[[], Any], device: torch.device, *, calls: int = 20) -> float:
    """The same with the calls in a graph: what the device takes, without Python and the driver."""

    calls = calls if device.type == "cuda" else 1

    def many() -> Any:
        return [step() for _ in range(calls)][-1]

    graph, _ = capture(many, device)
    return time_us(graph.replay, device, calls=1) / calls


def wall_time_us(step: Callable[[], Any], device: torch.device) -> float:
    """Median over rounds from the call until the device has done all of it, by the host's clock."""
    warm_up(step, device)
    synchronize(device)
    times = []
    for _ in range(_rounds(device)):
        begin = time.perf_counter()
        step()
        synchronize(device)
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)
