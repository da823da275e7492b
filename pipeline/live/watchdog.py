"""Watches a stream's threads from outside: a stage that does not answer shows in health. Ours.

A thread says what it is at (`Activity`), and that it waits for work. What lasts far longer than it ever did
counts as hung. A watchdog cannot end a thread; it tells of it, and at a stop the stream goes without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.health import Health

logger = logging.getLogger(__name__)

HUNG_SECONDS = 5.0
"""A stage that is at one item for so long, and for four times the longest so far, counts as hung."""
FIRST_SECONDS = 15.0
"""The same for its first item, with which engines warm up."""
_TIMES_THE_LONGEST = 4
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Work:
    """What a thread is at."""

    stage: str
    """For people, e.g. "the model"."""
    sources: tuple[str, ...]
    """Those that wait for it; none: all."""
    since: float
    """Monotonic seconds."""


class Activity:
    """What one thread is at; written by that thread, read by any."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._longest: dict[str, float] = {}

    def at(self, stage: str, *sources: str) -> None:
        """The thread begins with an item of a stage; what it was at before is done."""
        self.idle()
        self._work = Work(stage, sources, time.monotonic())

    def idle(self) -> None:
        """The thread is done, and waits for others."""
        work, self._work = self._work, None
        if work is not None:
            lasted = time.monotonic() - work.since
            self._longest[work.stage] = max(lasted, self._longest.get(work.stage, 0.0))

    def overdue(self, seconds: float) -> Work | None:
        """What the thread is at, if it has been at it for more than `seconds` and far longer than ever."""
        work = self._work
        if work is None:
            return None
        longest = self._longest.get(work.stage)
        patience = FIRST_SECONDS if longest is None else max(seconds, _TIMES_THE_LONGEST * longest)
        return work if time.monotonic() - work.since > patience else None


class Watchdog:
    """A thread that begins and ends the condition `hung` of sources whose stages do not answer."""

    def __init__(self, activities: Mapping[str, Activity], healths: Mapping[str, Health]) -> None:
        """activities: by the name of the thread. healths: by source."""
        self._activities = activities
        self._healths = healths
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Compare what the threads are at with what they were ever at."""
        found: dict[str, str] = {}
        for thread, activity in self._activities.items():
            work = activity.overdue(HUNG_SECONDS)
            if work is not None:
                seconds = time.monotonic() - work.since
                for source in work.sources or self._healths:
                    found[source] = f"{work.stage} has not answered for {seconds:.0f} s ({thread} thread)"
        for source, health in self._healths.items():
            if source in found:
                health.begin("hung", found[source])
            else:
                health.end("hung")
