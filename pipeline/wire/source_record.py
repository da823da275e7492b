"""What a publisher tells of a source besides its masks: `event`, `heartbeat` and `end`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.health import Vitals
from pipeline.types import EndReason, SourceState
from pipeline.wire.codec import VITALS, encode
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
    vitals: Callable[[], Vitals] | None = None
    """Gives counters and conditions of this moment; None where nobody knows them."""
    told: tuple[tuple[str, int], ...] = ()
    """The conditions that the last heartbeat told of, each with its beginning."""

    @property
    def has_news(self) -> bool:
        """Whether a condition began or ended since the last heartbeat."""
        return self.vitals is not None and _conditions(self.vitals()) != self.told

    def note_dropped(self, dropped: Mapping[str, int] | None) -> None:
        """Take over newer counters; None keeps the last known."""
        if dropped is not None:
            self.dropped = dict(dropped)

    def event(self) -> list[bytes]:
        """Class list, facts, state and health; ValueError where it is larger than an event may be."""
        vitals = self._look()
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
                health=None if vitals is None else vitals.health,
            )
        )

    def heartbeat(self) -> list[bytes]:
        """State, counters and health of this moment."""
        vitals = self._look()
        message = HeartbeatMessage(
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
        if vitals is None:
            return encode(message)
        self.told = _conditions(vitals)
        counters: dict[str, Any] = {key: getattr(vitals, key) for key in VITALS}
        return encode(replace(message, **counters, health=vitals.health))

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

    def _look(self) -> Vitals | None:
        vitals = None if self.vitals is None else self.vitals()
        if vitals is not None:
            self.note_dropped(vitals.dropped)
        return vitals


def _conditions(vitals: Vitals) -> tuple[tuple[str, int], ...]:
    """Details may change from one moment to the next and are no news."""
    return tuple((each.condition, each.since_ns) for each in vitals.health)
