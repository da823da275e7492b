"""The pictures of any source for a while, for tools that learn from them; nothing is counted or published."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceConfig
from pipeline.sources.cadence import Cadence
from pipeline.sources.source import open_source
from pipeline.stats import Ledger
from pipeline.types import Frame, Gap

# Unlike a stream, a tool has an end to come to: it does not wait for a lost camera for ever.
_RECONNECT_SECONDS = 60.0


def read_pictures(
    url: str, *, fps: float = 10.0, seconds: float | None = None, stop: threading.Event | None = None
) -> Iterator[tuple[NDArray[np.uint8], float] | None]:
    """Yield frames, (H, W, 3) uint8 RGB, with their stream time in seconds; None where a gap lies between.

    url: as of a stream (`addresses.parse_address`). The frames are those that a stream at `cadence.fps: fps`
    would show its model, for `seconds` of stream time, None: to the end of the source. They end when `stop`
    is set, by any thread.
    Raises ValueError for a rate or time that is not above 0, before anything is opened; SourceError when the
    source cannot be read.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds={seconds} must be above 0")
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")
    source = open_source(
        "source0",
        url,
        SourceConfig(reconnect_seconds=_RECONNECT_SECONDS),
        cadence=Cadence(fps),
        ledger=Ledger(),
        stop=threading.Event() if stop is None else stop,
    )

    def read() -> Iterator[tuple[NDArray[np.uint8], float] | None]:
        before, start, last = 0.0, None, 0.0  # seconds up to the last jump; where the clock began behind it
        for item in source:
            if isinstance(item, Gap):
                if start is not None and item.reason in ("reconnect", "discontinuity"):
                    before, start = before + last - start, None
                yield None
            elif isinstance(item, Frame):
                last = item.seconds
                start = last if start is None else start
                if seconds is not None and before + last - start >= seconds:
                    source.close()
                    return
                yield item.rgb(), last

    return read()
