"""The windows' process as the stream sees it: fed with the newest pictures, listened to, ended. Ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
_CLOSE_SECONDS = 2.0


class Viewer:
    """A process with a window for each source; no method waits for it, except where said.

    A picture that comes before the one before it was sent takes its place: a window shows the newest. One
    thread calls all methods; another one of its own writes to the process.
    """

    def __init__(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        path = str(Path(__file__).with_name("windows.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the stream
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._said = b""
        self._changed = threading.Condition()
        self._items: dict[str, tuple[str, NDArray[np.uint8] | None]] = {}
        self._closing = False
        self._writer = threading.Thread(target=self._write_all, name="viewer", daemon=True)
        self._writer.start()
        self.ready = False
        """Whether windows can be opened; what is shown before is kept, the newest of each source."""
        self._waiting_since: float | None = None

    @property
    def process_id(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self._process.poll() is not None

    @property
    def seconds_silent(self) -> float:
        """How long a picture waits to be shown."""
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since

    @property
    def complaint(self) -> str:
        """The last that the process, or the window system in it, has said about a fault."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip() and "font" not in line.lower()]
        return told[0] if told else f"status {self._process.poll()}"

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Wait until windows can be opened; False where the process ended, or does not answer in time."""
        deadline = time.monotonic() + timeout_seconds
        while not self.ready and not self.ended and time.monotonic() < deadline:
            self.events()
            time.sleep(0.01)
        return self.ready

    def show(self, source: str, title: str, picture: NDArray[np.uint8] | None = None) -> None:
        """Show a picture (H, W, 3) RGB, which nobody changes any more, or a title alone."""
        if picture is not None and self._waiting_since is None:
            self._waiting_since = time.monotonic()
        with self._changed:
            if picture is None and source in self._items:
                picture = self._items[source][1]
            self._items[source] = (title, picture)
            self._changed.notify()

    def events(self) -> list[list[str]]:
        """Return what the process has said since: `["hidden", source]` and `["quit"]`."""
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read(65_536):
            self._said += chunk
        *lines, self._said = self._said.split(b"\n")
        events = []
        for words in map(json.loads, lines):
            if words[0] == "ready":
                self.ready = True
            elif words[0] == "shown":
                self._waiting_since = None
            else:
                events.append(words)
        return events

    def close(self) -> None:
        """End the process; waits up to four seconds for it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(_CLOSE_SECONDS)
        if self._writer.is_alive():
            self._process.kill()
            self._writer.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._complaints.close()

    def _write_all(self) -> None:
        """Write the newest items as fast as the process takes them, until it ends or `close`."""
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        while True:
            with self._changed:
                while not self._items and not self._closing:
                    self._changed.wait()
                if not self._items:
                    return
                source = next(iter(self._items))
                title, picture = self._items.pop(source)
            head: dict[str, object] = {"source": source, "title": title}
            if picture is not None:
                head |= {"height": picture.shape[0], "width": picture.shape[1]}
            try:
                _write(pipe, json.dumps(head).encode() + b"\n")
                if picture is not None:
                    _write(pipe, np.ascontiguousarray(picture).data.cast("B"))
            except BrokenPipeError:
                return  # it has ended, as `ended` says


def _write(pipe: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(pipe, view) :]
