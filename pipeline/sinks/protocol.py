"""What receives results: the protocol, and what a sink may know of its stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.config import StreamConfig
from pipeline.health import Vitals
from pipeline.inference.predictor import ModelFacts
from pipeline.sources.source import Source
from pipeline.stats import Ledger
from pipeline.types import End, FrameResult, Gap, SourceState


class Sink(Protocol):
    """Receives everything of all sources, in order, from one thread (the one that runs the stream)."""

    def start(self) -> None:
        """Called once before the sources open; may wait."""

    def write(self, result: FrameResult) -> None:
        """Take one result; revisions after the first may follow for the same frame."""

    def gap(self, gap: Gap) -> None:
        """What follows does not continue what was."""

    def state(self, source: str, state: SourceState) -> None:
        """A source changed its state; `ended` is told by `end`."""

    def end(self, end: End) -> None:
        """Nothing more comes from this source."""

    def poll(self) -> None:
        """Called about every 50 ms while nothing comes."""

    def close(self) -> None:
        """Release everything; also called after a fault."""


@dataclass(frozen=True)
class SinkContext:
    """What sinks may know of their stream."""

    config: StreamConfig
    model: ModelFacts
    sources: Mapping[str, Source]
    ledgers: Mapping[str, Ledger]
    stop: threading.Event
    vitals: Mapping[str, Callable[[], Vitals]] = field(default_factory=dict)
    """Counters and conditions of a source now; callable from any thread."""

    @property
    def note(self) -> str | None:
        """Remark for pictures."""
        return None if self.model.trained else "untrained"
