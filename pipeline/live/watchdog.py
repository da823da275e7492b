"""Watches a stream's threads from outside: a stage that does not answer shows in health. Ours.

A thread says what it is at (`Activity`), and that it waits for work. What lasts far longer than it ever did
counts as hung. A watchdog cannot end a thread; it tells of it, and at a stop the stream goes without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from pipeline.health import Activity, Health, Work

logger = logging.getLogger(__name__)

HUNG_SECONDS = 5.0
"""A stage that is at one item for so long, and for four times the longest so far, counts as hung."""
STUCK_SECONDS = 4.0
"""So long after a stop a sink that does not answer is left behind."""
_LOOK_SECONDS = 0.25


class Watchdog:
    """A thread that begins and ends the condition `hung` of sources whose stages do not answer."""

    def __init__(
        self,
        activities: Mapping[str, Activity],
        healths: Mapping[str, Health],
        *,
        stopped: threading.Event,
        on_stuck: Callable[[Work], None],
    ) -> None:
        """activities: by the name of the thread, of which "sinks" is the caller's. healths: by source.
        stopped: set when a stop is asked for. on_stuck: called once, by the watchdog, where the caller's
        thread is still at one sink long after a stop."""
        self._activities = activities
        self._healths = healths
        self._stopped = stopped
        self._on_stuck = on_stuck
        self._stop_seen: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; by any thread."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            self.look()
            if (work := self._stuck()) is not None:
                self._on_stuck(work)
                return

    def _stuck(self) -> Work | None:
        """The sink that holds the caller's thread although the stream should have stopped."""
        if not self._stopped.is_set():
            return None
        now = time.monotonic()
        self._stop_seen = self._stop_seen or now
        work = self._activities["sinks"].work
        if work is None or now - self._stop_seen < STUCK_SECONDS or now - work.since < STUCK_SECONDS - 1:
            return None
        return work

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
