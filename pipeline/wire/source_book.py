"""What one reader knows of the sources that it hears, in memory that no publisher can make boundless."""

from __future__ import annotations

import logging

from pipeline.errors import MessageError
from pipeline.health import Trouble
from pipeline.types import MaskMessage, SourceState
from pipeline.wire import limits
from pipeline.wire.messages import EndMessage, EventMessage, HeartbeatMessage, WireMessage, printable

logger = logging.getLogger(__name__)


class SourceBook:
    """States, facts, health and losses by source. One thread writes it, under its owner's lock."""

    def __init__(self, address: str) -> None:
        self.lost: dict[str, int] = {}
        """Messages that were sent, but never arrived here."""
        self.events: dict[str, EventMessage] = {}
        self.heartbeats: dict[str, HeartbeatMessage] = {}
        self.states: dict[str, SourceState] = {}
        self.ended: dict[str, EndMessage] = {}
        self.health: dict[str, tuple[Trouble, ...] | None] = {}
        """The newest that was told; None where a publisher does not know it."""
        self.class_names: dict[str, dict[int, str]] = {}
        """Id of a class list → category id → name; of the lists that a source's newest event names."""
        self._address = address
        self._known: set[str] = set()
        self._sizes: dict[tuple[str, type], int] = {}
        self._size = 0
        self._last: dict[str, tuple[str, int]] = {}
        self._lost_reported: dict[str, int] = {}

    def check(self, message: WireMessage, size: int) -> None:
        """MessageError where no room is left for what a message says; `size`: bytes of its header."""
        if message.source not in self._known and len(self._known) >= limits.SOURCES:
            raise MessageError(
                f"source {message.source!r} is one more than the {limits.SOURCES} sources that a reader "
                "keeps account of: read it by name, with a reader of its own"
            )
        if isinstance(message, MaskMessage):
            return
        if self._size + size - self._sizes.get((message.source, type(message)), 0) > limits.BOOK_BYTES:
            raise MessageError(
                f"the events of all sources take more than {limits.BOOK_BYTES} bytes with that of "
                f"{message.source!r}: read sources by name, with a reader for each"
            )

    def note(self, message: WireMessage, size: int) -> None:
        """Take over what a message says that `check` has let pass."""
        source = message.source
        self._known.add(source)
        self._count_lost(message)
        if isinstance(message, MaskMessage):
            return
        self._size += size - self._sizes.get((source, type(message)), 0)
        self._sizes[source, type(message)] = size
        if isinstance(message, EventMessage):
            self._note_classes(message)
        elif isinstance(message, HeartbeatMessage):
            self.heartbeats[source] = message
        if not isinstance(message, EndMessage):
            self._note_health(source, message.health)
        self._note_state(message)

    def _note_classes(self, event: EventMessage) -> None:
        before = self.events.get(event.source)
        self.events[event.source] = event
        if before is not None and before.class_list != event.class_list:
            self.class_names = {each.class_list: each.class_names for each in self.events.values()}
        self.class_names[event.class_list] = event.class_names

    def _note_health(self, source: str, health: tuple[Trouble, ...] | None) -> None:
        """Log each condition when it begins and when it is over."""
        before = {each.condition for each in self.health.get(source) or ()}
        self.health[source] = health
        for each in health or ():
            if each.condition not in before:
                condition, detail = printable(each.condition), printable(each.detail)
                logger.warning("%s: source %s: %s: %s", self._address, source, condition, detail)
        for condition in before - {each.condition for each in health or ()}:
            logger.info("%s: source %s: %s is over", self._address, source, printable(condition))

    def _note_state(self, message: EventMessage | HeartbeatMessage | EndMessage) -> None:
        source = message.source
        state = "ended" if isinstance(message, EndMessage) else message.state
        if state != "ended":
            self.ended.pop(source, None)  # a publisher that was started again
        elif isinstance(message, EndMessage):
            self.ended[source] = message
        elif source not in self.ended and message.reason is not None:
            # its `end` was before our time, or was lost
            dropped = message.dropped if isinstance(message, HeartbeatMessage) else {}
            self.ended[source] = EndMessage(
                source=source,
                producer=message.producer,
                boot=message.boot,
                seq=message.seq,
                published_ns=message.published_ns,
                reason=message.reason,
                detail=message.detail,
                dropped=dropped,
            )
        if self.states.get(source) != state:
            logger.info("%s: source %s is %s", self._address, source, state)
        self.states[source] = state

    def _count_lost(self, message: WireMessage) -> None:
        """Count holes in `seq`, from the first `masks` message of a boot that arrived here."""
        last = self._last.get(message.source)
        if message.seq is None:
            return
        known = last is not None and last[0] == message.boot
        if not known and not isinstance(message, MaskMessage):
            return
        if last is not None and known:
            missing = message.seq - last[1] - (1 if isinstance(message, MaskMessage) else 0)
            if missing > 0:
                self.lost[message.source] = self.lost.get(message.source, 0) + missing
            self._report_lost(message)
            if missing < 0:
                return
        self._last[message.source] = (message.boot, message.seq)

    def _report_lost(self, message: WireMessage) -> None:
        """Log new losses: the first at once, further ones with the next heartbeat or end."""
        source = message.source
        number = self.lost.get(source, 0) - self._lost_reported.get(source, 0)
        if number and (source not in self._lost_reported or not isinstance(message, MaskMessage)):
            self._lost_reported[source] = self.lost[source]
            logger.warning(
                "%s: source %s: %d messages lost before seq %s: read faster, or use latest()",
                self._address,
                source,
                number,
                message.seq,
            )
