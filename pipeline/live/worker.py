"""One thread that does what it is given, in order, and that a process does not wait for at its end. Ours.

`concurrent.futures` joins its threads when the interpreter ends, so that a call which never returns would
hold the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class Worker:
    """A daemon thread; `close` ends it."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: list[Future[None]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, call: Callable[Arguments, None], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Future[None]:
        """Do `call` after all that was submitted before; its end or exception is the future's."""
        future: Future[None] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                call(*arguments, **named)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._waiting = [each for each in self._waiting if not each.done()] + [future]
        self._jobs.put(job)
        return future

    def close(self, timeout_seconds: float) -> None:
        """Cancel what has not begun, and wait so long for what has."""
        for future in self._waiting:
            future.cancel()
        self._jobs.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
