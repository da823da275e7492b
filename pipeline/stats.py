"""Counting and timing of a stream, in constant memory.

`Ledger` counts every frame of a source once: read = published + Σ dropped whenever the queues are empty
(docs/wire.md). `Histogram` keeps latencies in logarithmic bins (error of a percentile below 3 %).
"""

from __future__ import annotations

import math
import threading
from typing import Literal, get_args

DropCause = Literal["cadence", "decode", "stale", "window", "publisher", "stop"]
DROP_CAUSES: tuple[DropCause, ...] = get_args(DropCause)


class Ledger:
    """Frame counters of one source; all methods may be called from any thread.

    Causes: cadence (not picked for the model), decode (given out by the decoder, but not convertible), stale
    (a live source's oldest frame, dropped because inference is behind), window (never in a complete window),
    publisher (a result dropped because the sinks are behind), stop (in a queue when the stream stopped).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = 0
        self._published = 0
        self._dropped: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)
        self._packet_errors = 0
        self._reconnects = 0
        self._damaged = 0
        self._revisions_dropped = 0

    def count_read(self) -> None:
        """The decoder gave out a frame."""
        with self._lock:
            self._read += 1

    def count_published(self) -> None:
        """A frame's first revision was handed to the sinks."""
        with self._lock:
            self._published += 1

    def count_dropped(self, cause: DropCause, number: int = 1) -> None:
        """`number` frames were dropped for `cause`."""
        with self._lock:
            self._dropped[cause] += number

    def count_packet_error(self) -> None:
        """A packet could not be decoded (outside the ledger: such a frame was never read)."""
        with self._lock:
            self._packet_errors += 1

    def count_reconnect(self) -> None:
        """A live source was opened again."""
        with self._lock:
            self._reconnects += 1

    def count_damaged(self) -> None:
        """The decoder called a picture corrupt (outside the ledger: it was read like any other)."""
        with self._lock:
            self._damaged += 1

    def count_revision_dropped(self) -> None:
        """A later revision of a published frame was dropped before the sinks (outside the ledger)."""
        with self._lock:
            self._revisions_dropped += 1

    @property
    def read(self) -> int:
        """Frames given out by the decoder."""
        return self._read

    @property
    def published(self) -> int:
        """Frames handed to the sinks, each once whatever its revisions."""
        return self._published

    @property
    def packet_errors(self) -> int:
        """Packets that could not be decoded."""
        return self._packet_errors

    @property
    def reconnects(self) -> int:
        """Times the source was opened again."""
        return self._reconnects

    @property
    def damaged(self) -> int:
        """Pictures that the decoder called corrupt."""
        return self._damaged

    @property
    def revisions_dropped(self) -> int:
        """Later revisions of published frames that the sinks never saw."""
        return self._revisions_dropped

    @property
    def dropped(self) -> dict[str, int]:
        """Frames dropped, by cause; every cause is there."""
        with self._lock:
            return {str(cause): number for cause, number in self._dropped.items()}

    def open_frames(self) -> int:
        """Frames read and neither published nor dropped: they are in a queue or a window."""
        with self._lock:
            return self._read - self._published - sum(self._dropped.values())


class Histogram:
    """Percentiles of positive values (milliseconds) from logarithmic bins; written by one thread."""

    _LOWEST = 1e-3
    _PER_DECADE = 80
    _DECADES = 9

    def __init__(self) -> None:
        self._bins = [0] * (self._PER_DECADE * self._DECADES + 1)
        self.count = 0
        self.total = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one value; below 1 µs counts as 1 µs, above 10^6 ms as that."""
        position = math.log10(max(milliseconds, self._LOWEST) / self._LOWEST) * self._PER_DECADE
        self._bins[min(int(position), len(self._bins) - 1)] += 1
        self.count += 1
        self.total += milliseconds

    def merge(self, other: Histogram) -> None:
        """Add all values of `other`, which another thread may be writing."""
        bins = list(other._bins)
        self._bins = [mine + theirs for mine, theirs in zip(self._bins, bins, strict=True)]
        self.count += sum(bins)  # its own count may be one ahead or behind by now
        self.total += other.total

    def percentile(self, share: float) -> float | None:
        """Return the value below which `share` (0..1) of all values lie; None when empty."""
        if not self.count:
            return None
        wanted = share * self.count
        seen = 0
        for index, number in enumerate(self._bins):
            seen += number
            if number and seen >= wanted:
                return float(self._LOWEST * 10 ** ((index + 0.5) / self._PER_DECADE))
        raise AssertionError("the bins hold all values")

    def summary(self) -> dict[str, float | None]:
        """Return {p50, p95, p99} in milliseconds, rounded to 1 µs."""
        shares = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
        values = {name: self.percentile(share) for name, share in shares.items()}
        return {name: None if value is None else round(value, 3) for name, value in values.items()}
