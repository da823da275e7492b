"""Times of steps on a GPU: one by one, replayed in a graph, and as a caller on the host sees them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 15


def capture(step: Callable[[], Any], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of one step, warmed up outside of it."""
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


def time_us(step: Callable[[], Any], device: torch.device, *, calls: int) -> float:
    """Median over rounds of the time of a call, when `calls` of them follow each other; NaN where it fails."""
    try:
        for _ in range(3):
            step()
    except RuntimeError as exc:
        print(f"not timed: {exc}", file=sys.stderr)
        return float("nan")
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            step()
        end.record()
        torch.cuda.synchronize(device)
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def graph_time_us(step: Callable[[], Any], device: torch.device, *, calls: int = 20) -> float:
    """The same with the calls in a graph: what the device takes, without Python and the driver."""

    def many() -> None:
        for _ in range(calls):
            step()

    graph, _ = capture(many, device)
    return time_us(graph.replay, device, calls=1) / calls


def wall_time_us(step: Callable[[], Any], device: torch.device) -> float:
    """Median over rounds from the call until the device has done all of it, by the host's clock."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        step()
    wait()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        step()
        wait()
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)
