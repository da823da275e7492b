"""Engines that come while a stream runs: loaded by a thread, or built by another process of low priority.
Ours."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch

from model.config import Precision
from model.engines.cache import EngineCache, engine_key
from model.engines.halves import HalvesSpec
from model.errors import EngineError
from model.network import Network

__all__ = ["Builder", "Loading", "build_engine", "first_line"]

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
"""An engine, as its user knows it."""


class Loading(Generic[Made]):
    """Loads an engine in a thread, which the program's end waits for: torch must not be left by force."""

    def __init__(self, load: Callable[[], Made | None]) -> None:
        self.done = False
        self.engine: Made | None = None
        self._load = load
        # A thread of a daemon, as a stream's are, would be one, too, and die within torch at the end.
        self._thread = threading.Thread(target=self._run, name="engine-loader", daemon=False)
        self._thread.start()

    def join(self) -> Made | None:
        """Wait for it; return the engine."""
        self._thread.join()
        return self.engine

    def _run(self) -> None:
        try:
            self.engine = self._load()
        finally:
            self.done = True


class Builder(Generic[Made]):
    """Builds an engine in a process of low priority, then loads and checks it in a thread."""

    def __init__(
        self,
        weights: Path,
        spec: HalvesSpec,
        root: Path,
        load: Callable[[], Made | None],
        *,
        precision: Precision,
        classes: Sequence[str],
    ) -> None:
        self.done = False
        self.engine: Made | None = None
        self._load = load
        self._began = time.monotonic()
        command = [sys.executable, "-m", "model", "compile", "--low-priority"]
        command += ["--weights", str(weights.resolve())]
        command += ["--height", str(spec.height), "--width", str(spec.width)]
        command += ["--num-frames", str(spec.num_frames), "--num-kept", str(spec.num_kept)]
        command += ["--threads", str(torch.get_num_threads()), "--cache", str(root.resolve())]
        command += ["--precision", precision]
        command += [] if spec.with_cues else ["--no-cues"]
        command += ["--classes", *classes]
        logger.info("compiling the network in the background; eager serves meanwhile")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # Into a file: torch's own helper processes hold a pipe open after the process itself has ended.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process has ended)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=environment,
            cwd=Path(__file__).parents[2],  # elsewhere `-m model` might be somebody else's
        )
        weakref.finalize(self, _kill, self._process)  # also at the end of the program
        threading.Thread(target=self._wait, name="engine-builder", daemon=True).start()

    def _wait(self) -> None:
        if self._process.wait() == 0:
            self.engine = Loading(self._load).join()
            if self.engine is not None:
                logger.info("compiled in %.0f s", time.monotonic() - self._began)
            else:
                logger.warning("what was compiled is not for this program (edited since?); eager goes on")
        elif self._process.returncode > 0:
            self._said.seek(0)
            said = self._said.read().strip()[-300:]
            logger.warning("engine inductor could not be built, eager goes on: %s", said)
        self.done = True


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        process.kill()


def build_engine(network: Network, spec: HalvesSpec, *, cache: EngineCache) -> Path:
    """The folder of the compiled engine of a `prepared` network, built if it is not there yet.

    Raises EngineError where it cannot be built, with the remedy.
    """
    from model.engines.inductor import build_packages

    key = engine_key(network, spec, engine="inductor")
    try:
        return cache.make(key, lambda path: build_packages(network, spec, path))
    except Exception as exc:  # torch's compiler has no base class of its own
        raise EngineError(
            f"engine 'inductor' is not available: {first_line(exc)}; it needs a C++ compiler (g++) and "
            f"room in {str(cache.root)!r}; model.engine=eager runs without"
        ) from exc


def first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else ''}"
