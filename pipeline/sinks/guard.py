"""A sink's fault is that sink's: a sink behind a guard never ends the stream that feeds it.

A guarded sink goes on being called, so that it can recover by itself. What it did not take is counted, its
fault stands in the health of the sources concerned (the log says it once, with the remedy) until it has taken
results for a while, and the report shows both. What cannot start ends the stream before the first frame.
Ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pipeline.errors import StreamError
from pipeline.health import Activity, Condition, Health
from pipeline.sinks.protocol import Sink
from pipeline.types import End, FrameResult, Gap, SourceState

logger = logging.getLogger(__name__)

STEADY_SECONDS = 5.0
"""A fault is over when the sink has taken results for so long without another."""


@runtime_checkable
class CountsLosses(Protocol):
    """A sink that counts itself what it did not keep, because it holds results before it writes them."""

    @property
    def num_lost(self) -> Mapping[str, int]:
        """Source id → results that were given to it and are lost."""


@dataclass
class _Standing:
    """A fault that stands for one source."""

    error: Exception
    last: float
    """When the newest of its kind was seen, in monotonic seconds."""


class GuardedSink:
    """A sink whose faults go into `health` instead of out of its methods; itself a `Sink`.

    `name` is the sink's in the report, `condition` its condition in the health of the sources it fails for.
    `start` alone raises what the sink raises. Exceptions that are none of the sink's (KeyboardInterrupt)
    pass. One thread calls all methods.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        name: str,
        health: Mapping[str, Health],
        condition: Condition = "sink",
        steady_seconds: float = STEADY_SECONDS,
        activity: Activity | None = None,
    ) -> None:
        """activity: told of each call, so that a sink that does not come back is seen."""
        self.sink = sink
        self.name = name
        self._health = health
        self._condition: Condition = condition
        self._steady_seconds = steady_seconds
        self._activity = activity or Activity()
        self._standing: dict[str, _Standing] = {}
        self._shared: _Standing | None = None
        """A fault that is no source's own: of `poll` or `close`."""
        self._num_faults = 0
        self._num_refused = dict.fromkeys(health, 0)
        self._newest: str | None = None

    def start(self) -> None:
        """Start the sink; raises what it raises."""
        self.sink.start()

    def write(self, result: FrameResult) -> None:
        """Give it a result; one that it raises at counts as not taken."""
        source = result.source
        if not self._call([source], self.sink.write, result):
            self._num_refused[source] += 1
            return
        standing = self._standing.get(source)
        if standing is not None and time.monotonic() - standing.last >= self._steady_seconds:
            del self._standing[source]
            self._end_unless_faulty(source)
        self._settle()

    def _settle(self) -> None:
        """A fault of all sources is over when no call has failed for a while, whatever source it was for."""
        if self._shared is None or time.monotonic() - self._shared.last < self._steady_seconds:
            return
        self._shared = None
        for source in self._health:
            self._end_unless_faulty(source)

    def _end_unless_faulty(self, source: str) -> None:
        if self._shared is None and source not in self._standing:
            self._health[source].end(self._condition)

    def gap(self, gap: Gap) -> None:
        """Tell it of a gap."""
        self._call([gap.source], self.sink.gap, gap)

    def state(self, source: str, state: SourceState) -> None:
        """Tell it a source's state."""
        self._call([source], self.sink.state, source, state)

    def end(self, end: End) -> None:
        """Tell it that a source has ended."""
        self._call([end.source], self.sink.end, end)

    def poll(self) -> None:
        """Let it do what it does while nothing comes."""
        if self._call(None, self.sink.poll):
            self._settle()

    def close(self) -> None:
        """Close it."""
        self._call(None, self.sink.close)

    @property
    def fault(self) -> Exception | None:
        """The first fault that stands: the sink does not work, or did not when the stream ended."""
        shared = [] if self._shared is None else [self._shared]
        return next((each.error for each in [*self._standing.values(), *shared]), None)

    @property
    def num_not_taken(self) -> dict[str, int]:
        """Source id → results that the sink was given and does not have, each revision counted."""
        if isinstance(self.sink, CountsLosses):
            return dict(self.sink.num_lost)
        return dict(self._num_refused)

    def report(self) -> dict[str, Any]:
        """Return the sink's part of the report (docs/report.md)."""
        not_taken = self.num_not_taken
        return {
            "name": self.name,
            "state": "ok" if self.fault is None else "failed",
            "fault": self._newest,
            "faults": self._num_faults,
            "not_taken": sum(not_taken.values()),
            "sources": not_taken,
        }

    def _call(self, sources: list[str] | None, call: Callable[..., None], *arguments: object) -> bool:
        """Return whether the call went well; its fault is that of the sink, for these sources (None: all)."""
        self._activity.at(f"the sink {self.name}", *(sources or ()))
        try:
            call(*arguments)
        except Exception as error:
            logger.debug("%s: %s failed", self.name, call.__name__, exc_info=True)
            self._fail(sources, error)
            return False
        finally:
            self._activity.idle()
        return True

    def _fail(self, sources: list[str] | None, error: Exception) -> None:
        self._num_faults += 1
        self._newest = _told(error)
        detail = f"{self._newest}; the stream goes on without what {self.name} does not take"
        now = time.monotonic()
        if sources is None:
            self._shared = _Standing(error if self._shared is None else self._shared.error, now)
        for source in self._health if sources is None else sources:
            if sources is not None:
                self._standing.setdefault(source, _Standing(error, now)).last = now
            self._health[source].begin(self._condition, detail)


def _told(error: Exception) -> str:
    """What happened: our own faults name the remedy, others are told by their type."""
    return str(error) if isinstance(error, StreamError) else f"{type(error).__name__}: {error}"
