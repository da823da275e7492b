"""What all CUDA kernels have in common: planned, compiled and checked once, switched off where they fail.

No kernel is needed for a result: where one is not available, or fails, it is switched off with one line in
the log, and the portable form runs from then on. Nothing here knows CuPy (see `ops.cuda`), or what is
computed.
"""

import logging
import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from ops.launch import Launch

__all__ = ["Compiler", "KernelTable", "Ready", "Run", "Scalar"]

logger = logging.getLogger(__name__)

Scalar = int | np.float32 | np.float64
"""A kernel's argument by value; an int is C's 32-bit one."""

Run = Callable[[int, tuple[int, ...], tuple[Scalar, ...]], None]
"""Launches a kernel on the current stream of its device: (blocks, addresses, scalars)."""

ConfigT = TypeVar("ConfigT", bound=Hashable)
ResultT = TypeVar("ResultT")


class LaunchFailed(RuntimeError):
    """A kernel that was ready could not be launched; the cause is what the driver or CuPy said."""


class Compiler(Protocol):
    """Makes a launch runnable on a device; whatever it raises switches that kernel off."""

    def __call__(self, launch: Launch[Any], device: torch.device) -> Run: ...


@dataclass(frozen=True)
class Ready(Generic[ConfigT]):
    """A kernel that can be launched."""

    launch: Launch[ConfigT]
    run: Run

    def __call__(self, num: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
        """Launch the blocks that serve `num` things. Raises LaunchFailed."""
        try:
            self.run(self.launch.blocks(num), addresses, scalars)
        except Exception as exc:  # each CuPy has its own classes for the driver's errors
            raise LaunchFailed(f"{type(exc).__name__}: {exc}") from exc


class KernelTable(Generic[ConfigT]):
    """The kernels of one operator for all configurations met, each compiled and checked once."""

    def __init__(
        self,
        compiler: Compiler,
        *,
        operator: str,
        plan: Callable[[str, ConfigT], Launch[ConfigT]],
        check: Callable[[Ready[ConfigT], torch.device], None],
    ) -> None:
        """plan(kernel, config) raises ValueError for what has no kernel; check raises ArithmeticError where
        a kernel differs from its portable form. `operator` is the name of all in the log."""
        self.switched_off: dict[tuple[torch.device, str, ConfigT], str] = {}
        """Kernels that are not used, and why."""
        self._compiler = compiler
        self._operator = operator
        self._plan = plan
        self._check = check
        self._ready: dict[tuple[torch.device, str, ConfigT], Ready[ConfigT]] = {}
        self._lock = threading.RLock()

    def use(
        self,
        kernel: str,
        device: torch.device,
        config: ConfigT,
        call: Callable[[Ready[ConfigT]], ResultT],
    ) -> ResultT | None:
        """The result of `call`, which launches the kernel it is given; None where it is switched off.

        Raises RuntimeError where a kernel met for the first time would be compiled in a graph's capture.
        """
        with _on(device):
            ready = self._get(kernel, device, config)
            if ready is None:
                return None
            try:
                return call(ready)
            except LaunchFailed as exc:
                self._switch_off(ready.launch, device, exc)
                return None

    def _get(self, kernel: str, device: torch.device, config: ConfigT) -> Ready[ConfigT] | None:
        key = (device, kernel, config)
        ready = self._ready.get(key)
        if ready is not None or key in self.switched_off:
            return ready
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"the {kernel} kernel of {self._operator} would be compiled while a CUDA graph is captured; "
                "call the operator once with the same shapes and dtypes before the capture"
            )
        with self._lock:
            if key not in self._ready and key not in self.switched_off:
                self._prepare(key)
            return self._ready.get(key)

    def _prepare(self, key: tuple[torch.device, str, ConfigT]) -> None:
        """Plan, compile, compare with the portable form on random input: each failure switches off."""
        device, kernel, config = key
        try:
            launch = self._plan(kernel, config)
        except ValueError as exc:
            self.switched_off[key] = str(exc)
            logger.info("%s runs in its portable form: %s", self._operator, exc)
            return
        try:
            ready = Ready(launch, self._compiler(launch, device))
            self._check(ready, device)
        except torch.OutOfMemoryError:
            raise  # no fault of the kernel
        except Exception as exc:  # the compiler, the driver, the comparison
            self._switch_off(launch, device, exc)
        else:
            self._ready[key] = ready

    def _switch_off(self, launch: Launch[ConfigT], device: torch.device, exc: Exception) -> None:
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
