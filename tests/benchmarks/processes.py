"""run_stream.py as users run it, in a process of its own, read by a real subscriber in this one; and what the
rest of the machine did meanwhile."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from pipeline.types import MaskMessage
from pipeline.wire.subscriber import Subscriber

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "cam"
_TICKS = os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


class Arrival(NamedTuple):
    """A message and when it was here."""

    message: MaskMessage
    monotonic_seconds: float
    wall_ns: int
    """Nanoseconds since 1970, the clock of `captured_ns`."""


class StreamRun:
    """run_stream.py on a source (or `num_sources` times on it, cam, cam2, …), and a subscriber to all; a context
    manager that ends the process.

    settings: dotted config keys and their values; environment: all of it. `block`: the stream starts when the
    subscriber is there and waits for it, as a file can; without, it never waits.
    """

    def __init__(
        self,
        source: str,
        settings: Mapping[str, object],
        *,
        environment: Mapping[str, str],
        arguments: Sequence[str] = (),
        block: bool = True,
        num_sources: int = 1,
    ) -> None:
        names = [SOURCE, *(f"{SOURCE}{number}" for number in range(2, num_sources + 1))]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        given = {**settings, **({"publish.wait_for_subscribers": 1, "publish.block": True} if block else {})}
        words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        sets = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read after the process)
        self._subscriber = Subscriber(
            address, source=SOURCE if num_sources == 1 else None, timeout_seconds=120
        )
        self.started = time.monotonic()
        """When the process was started, on the clock of `Arrival.monotonic_seconds`."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "run_stream.py")),
                *(part for name in names for part in ("--source", f"{name}={source}")),
                *("--publish", address, *sets, *arguments),
            ],
            cwd=ROOT,
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        threading.Thread(target=self._watch, name="stream-run", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def arrivals(self) -> Iterator[Arrival]:
        """Messages as they come, to the source's end (of several sources without an end). Raises RuntimeError with the process's words if it
        fails."""
        try:
            for message in self._subscriber:
                yield Arrival(message, time.monotonic(), time.time_ns())
        except TimeoutError:
            raise RuntimeError(f"run_stream.py is silent: {self.said()}") from None
        if self._process.poll():
            raise RuntimeError(f"run_stream.py ended with {self._process.returncode}: {self.said()}")

    def cpu_seconds(self) -> float:
        """Processor time of the stream's process so far, all threads (Linux)."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS

    def said(self) -> str:
        """The end of what the process wrote to stderr."""
        self._said.seek(0)
        return self._said.read()[-600:].strip()

    def stop(self) -> None:
        """End the process as Ctrl-C does. Raises RuntimeError with its words where it ends with an error."""
        self._subscriber.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(timeout=60)
        finally:
            self._process.kill()
        if code != 0:
            raise RuntimeError(f"run_stream.py ended with {code}: {self.said()}")

    def _watch(self) -> None:
        """A process that fails says no end: stop listening."""
        if self._process.wait() != 0:
            self._subscriber.close()


class OtherWork:
    """A context manager: `cores` are those that other programs kept busy meanwhile, None where unknown.

    Counts time that a virtual machine's host took away. Own work is this process and the children that have
    ended.
    """

    cores: float | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic(), _busy_seconds(), _own_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began, busy, own = self._began
        now = _busy_seconds()
        if busy is not None and now is not None:
            others = now - busy - (_own_seconds() - own)
            self.cores = max(0.0, others / (time.monotonic() - began))


def _busy_seconds() -> float | None:
    """Processor time of everything since the start: user, nice, system, irq, softirq, steal (proc(5))."""
    if not _STAT.exists():
        return None
    numbers = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:]]
    return sum(numbers[:3] + numbers[5:8]) / _TICKS


def _own_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)
