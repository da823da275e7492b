"""Who subscribes to what at an XPUB socket in manual mode: accepts, counts, says what `event` is due."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable

import zmq

from pipeline.wire.messages import WIRE_VERSION, topic

logger = logging.getLogger(__name__)

_VERSION_TOPIC = re.compile(rb"vis([0-9]{1,4})/.")


class Subscriptions:
    """The subscriptions of one socket; `accept` is for the socket's thread, `num_readers` for any."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.due: dict[str, None] = {}
        """Sources whose `event` must go out before any further `masks`, in order."""
        self._sources = tuple(sources)
        self._lock = threading.Lock()
        self._topics: dict[bytes, int] = {}

    @property
    def num_readers(self) -> int:
        """Subscriptions that cover `masks` messages."""
        with self._lock:
            return sum(number for each, number in self._topics.items() if covers(each, topic("masks")))

    def accept(self, socket: zmq.Socket[bytes], address: str) -> bool:
        """Accept all that came in; True when there was something."""
        changed = False
        while True:
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return changed
            wanted = data[1:]
            if data[:1] == b"\x01":
                socket.setsockopt(zmq.SUBSCRIBE, wanted)
                self._note_due(wanted)
                _warn_of_version(wanted, address)
                self._count(wanted, 1)
            elif data[:1] == b"\x00":
                socket.setsockopt(zmq.UNSUBSCRIBE, wanted)
                self._count(wanted, -1)
            else:
                logger.debug("%s: a subscriber sent %d bytes that are no subscription", address, len(data))
                continue
            changed = True

    def _note_due(self, wanted: bytes) -> None:
        for name in self._sources:
            if covers(wanted, topic("event", name)) or covers(wanted, topic("masks", name)):
                self.due[name] = None

    def _count(self, wanted: bytes, change: int) -> None:
        with self._lock:
            number = self._topics.get(wanted, 0) + change
            if number > 0:
                self._topics[wanted] = number
            else:
                self._topics.pop(wanted, None)


def covers(wanted: bytes, prefix: bytes) -> bool:
    """Whether a subscription to `wanted` takes messages whose topic starts with `prefix`, or some of them."""
    return wanted.startswith(prefix) or prefix.startswith(wanted)


def _warn_of_version(wanted: bytes, address: str) -> None:
    """Name both versions; a bare `vis2` is a subscriber of ours that looks for other versions here."""
    match = _VERSION_TOPIC.match(wanted)
    if match and int(match[1]) != WIRE_VERSION[0]:
        logger.warning(
            "%s: a subscriber asks for wire version %d, this publishes version %d: "
            "use the same mssts-stream release on both sides",
            address,
            int(match[1]),
            WIRE_VERSION[0],
        )
