"""What is wrong with a running source or with what serves it: conditions that begin and end.

`Health` belongs to one source. Whoever finds a fault begins a condition and ends it when it is over: the
decode thread, the inference thread, a watchdog, a sink's guard. Each change is one line of the log, and a
condition that lasts is said again after a minute. `Vitals` is what a heartbeat carries: fresh counters, the
age of the last result and the conditions. `Activity` is what a thread is at. Ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

logger = logging.getLogger(__name__)

Condition = Literal[
    "undecodable",
    "damaged",
    "frozen",
    "black",
    "clock",
    "behind",
    "hung",
    "publish",
    "record",
    "display",
    "sink",
]
"""undecodable: packets come, pictures do not. damaged: pictures that the decoder calls corrupt. frozen,
black: what the camera shows. clock: its times are wrong, arrival counts. behind: the model does not keep up.
hung: a stage has not answered. publish, record, display, sink: that sink failed."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

FIRST_SECONDS = 15.0
"""How long the first item of a stage may take, with which engines warm up."""
_TIMES_THE_LONGEST = 4

REMIND_SECONDS = 60.0
"""A condition that lasts is logged again so often."""


@dataclass(frozen=True)
class Trouble:
    """One condition that holds now."""

    condition: str
    detail: str
    """One sentence for people, with the remedy where there is one."""
    since_ns: int
    """Wall clock (ns since 1970) when it began."""


@dataclass(frozen=True)
class Vitals:
    """A source's counters and conditions at one moment."""

    read: int
    published: int
    dropped: Mapping[str, int]
    packet_errors: int
    reconnects: int
    damaged: int
    """Pictures that the decoder called corrupt."""
    last_result_age_ms: int | None
    """Milliseconds since the newest result was handed to the sinks; None before the first."""
    health: tuple[Trouble, ...] = ()


@dataclass
class _Held:
    trouble: Trouble
    logged: float
    """Monotonic seconds."""


class Health:
    """The conditions of one source; all methods may be called from any thread."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._counts: dict[str, int] = {}

    def begin(self, condition: Condition, detail: str) -> None:
        """Say that a condition holds; again while it lasts: the newest detail counts."""
        now = time.monotonic()
        with self._lock:
            held = self._held.get(condition)
            if held is None:
                trouble = Trouble(condition, detail, time.time_ns())
                self._held[condition] = _Held(trouble, now)
                self._counts[condition] = self._counts.get(condition, 0) + 1
            else:
                held.trouble = Trouble(condition, detail, held.trouble.since_ns)
                if now - held.logged < REMIND_SECONDS:
                    return
                held.logged = now
        logger.warning("%s: %s: %s", self.source, condition, detail)

    def end(self, condition: Condition) -> None:
        """Say that a condition is over; nothing where it did not hold."""
        with self._lock:
            held = self._held.pop(condition, None)
        if held is not None:
            seconds = (time.time_ns() - held.trouble.since_ns) / 1e9
            logger.info("%s: %s is over after %.1f s", self.source, condition, seconds)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """The conditions that hold, in the order in which they began."""
        with self._lock:
            return tuple(held.trouble for held in self._held.values())

    @property
    def counts(self) -> dict[str, int]:
        """How often each condition has begun, of those that ever did."""
        with self._lock:
            return dict(self._counts)


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
        self._first: dict[str, float] = {}
        """How long the first item of a stage took, with which engines warm up."""
        self._longest: dict[str, float] = {}
        """The longest of the others."""

    def at(self, stage: str, *sources: str) -> None:
        """The thread begins with an item of a stage; what it was at before is done."""
        self.idle()
        self._work = Work(stage, sources, time.monotonic())

    def idle(self) -> None:
        """The thread is done, and waits for others."""
        work, self._work = self._work, None
        if work is not None:
            lasted = time.monotonic() - work.since
            if work.stage not in self._first:
                self._first[work.stage] = lasted
            else:
                self._longest[work.stage] = max(lasted, self._longest.get(work.stage, 0.0))

    @property
    def work(self) -> Work | None:
        """What the thread is at."""
        return self._work

    def usual_seconds(self, stage: str) -> float:
        """The longest that an item of a stage took so far, the first one apart; 0 before there were two."""
        return self._longest.get(stage, 0.0)

    def overdue(self, seconds: float) -> Work | None:
        """What the thread is at, if it has been at it for more than `seconds` and far longer than ever."""
        work = self._work
        if work is None:
            return None
        longest = self._longest.get(work.stage, self._first.get(work.stage))
        patience = FIRST_SECONDS if longest is None else max(seconds, _TIMES_THE_LONGEST * longest)
        return work if time.monotonic() - work.since > patience else None
