"""What a publisher tells of a source besides its masks: `event`, `heartbeat` and `end`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.types import EndReason, SourceState
from pipeline.wire.codec import encode
from pipeline.wire.messages import EndMessage, EventMessage, HeartbeatMessage, SourceFacts, StreamFacts


@dataclass
class SourceRecord:
    """The present state of one source; each method returns the parts of a message that tells it."""

    name: str
    producer: str
    boot: str
    stream: StreamFacts
    facts: SourceFacts
    state: SourceState = "waiting"
    seq: int | None = None
    """The last `masks` message's that went out."""
    dropped: dict[str, int] = field(default_factory=dict)
    reason: EndReason | None = None
    detail: str = ""

    def note_dropped(self, dropped: Mapping[str, int] | None) -> None:
        """Take over newer counters; None keeps the last known."""
        if dropped is not None:
            self.dropped = dict(dropped)

    def event(self) -> list[bytes]:
        """Class list, facts and state."""
        return encode(
            EventMessage(
                source=self.name,
                producer=self.producer,
                boot=self.boot,
                seq=self.seq,
                published_ns=time.time_ns(),
                state=self.state,
                model_name=self.stream.model_name,
                class_list=self.stream.class_list,
                class_names=dict(self.stream.class_names),
                trained=self.stream.trained,
                facts=self.facts,
                reason=self.reason,
                detail=self.detail,
            )
        )

    def heartbeat(self) -> list[bytes]:
        """State and drop counters."""
        return encode(
            HeartbeatMessage(
                source=self.name,
                producer=self.producer,
                boot=self.boot,
                seq=self.seq,
                published_ns=time.time_ns(),
                state=self.state,
                dropped=self.dropped,
                reason=self.reason,
                detail=self.detail,
            )
        )

    def end(self, reason: EndReason, detail: str) -> list[bytes]:
        """Why no more comes."""
        return encode(
            EndMessage(
                source=self.name,
                producer=self.producer,
                boot=self.boot,
                seq=self.seq,
                published_ns=time.time_ns(),
                reason=reason,
                detail=detail,
                dropped=self.dropped,
            )
        )
