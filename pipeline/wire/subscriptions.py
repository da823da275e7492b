"""Who subscribes to what at an XPUB socket in manual mode: accepts, refuses, counts, names `event`s due."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable

import zmq

from pipeline.wire import limits
from pipeline.wire.messages import WIRE_VERSION, topic
from pipeline.wire.peers import Peer, Peers

logger = logging.getLogger(__name__)

AT_ONCE = 1000
"""Messages of readers that are taken up before the stream has its turn."""

_VERSION_TOPIC = re.compile(rb"vis([0-9]{1,4})/.")
_FRAME_BYTES = 64
"""More than a frame adds to a subscription on its way, encrypted or not."""


class Subscriptions:
    """The subscriptions of one socket. `num_readers` and `num_refused` are for any thread, the rest for the
    socket's."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.due: dict[str, None] = {}
        """Sources whose `event` must go out before any further `masks`, in order."""
        self._sources = tuple(sources)
        self._lock = threading.Lock()
        self._num_readers = 0
        self._num_refused = 0
        self._shifted = False
        """Whether ZeroMQ takes subscriptions for those of other readers, see `accept`."""

    @property
    def num_readers(self) -> int:
        """Subscriptions that cover `masks` messages."""
        with self._lock:
            return self._num_readers

    @property
    def num_refused(self) -> int:
        """Subscriptions that were not accepted, since the beginning."""
        with self._lock:
            return self._num_refused

    def accept(self, socket: zmq.Socket[bytes], peers: Peers, address: str) -> bool:
        """Take up what came in, within the limits, and who left; True when the subscriptions have changed."""
        changed = self._leave(peers.take_gone())
        for _ in range(AT_ONCE):
            try:
                frame = socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._shifted = False
                break
            peer = peers.of(frame)
            data = frame.bytes
            is_subscription = data[:1] in (b"\0", b"\1")
            if not is_subscription:
                # In manual mode libzmq counts who sent what wrongly behind a message that is no subscription,
                # until its queue is empty: it would give a reader's subscription to another one.
                self._shifted = True
            if peer is None:
                continue
            peer.heard += len(data) + _FRAME_BYTES
            if not is_subscription:
                peers.cut(peer, "it sends messages that are no subscriptions")
            elif self._shifted:
                peers.cut(peer, "another one broke the queue of subscriptions; it may come again at once")
            else:
                changed |= self._change(socket, peers, peer, data, address)
        return changed

    def _leave(self, gone: list[Peer]) -> bool:
        """Forget the subscriptions of connections that ended; True when there were some."""
        topics = [each for peer in gone for each in peer.topics]
        self._count(-sum(map(_reads_masks, topics)))
        return bool(topics)

    def _change(self, socket: zmq.Socket[bytes], peers: Peers, peer: Peer, data: bytes, address: str) -> bool:
        wanted = data[1:]
        self._count_change(peers, peer)
        if peer.is_cut:
            return False
        if data[:1] == b"\0":
            peer.refused.discard(wanted)
            if wanted not in peer.topics:
                return False
            socket.setsockopt(zmq.UNSUBSCRIBE, wanted)
            peer.topics.discard(wanted)
            self._count(-_reads_masks(wanted))
            return True
        if wanted not in peer.topics and self._refuses(peers, peer, wanted):
            return False
        socket.setsockopt(zmq.SUBSCRIBE, wanted)
        self._note_due(wanted)
        if wanted not in peer.topics:
            peer.topics.add(wanted)
            self._count(_reads_masks(wanted))
            _warn_of_version(wanted, address)
        return True

    def _count_change(self, peers: Peers, peer: Peer) -> None:
        now = time.monotonic()
        if now - peer.changes_since >= limits.CHANGES_SECONDS:
            peer.changes, peer.changes_since = 0, now
        peer.changes += 1
        if peer.changes > limits.SUBSCRIPTION_CHANGES:
            peers.cut(
                peer,
                f"it changed its subscriptions more than {limits.SUBSCRIPTION_CHANGES} times within "
                f"{limits.CHANGES_SECONDS:g} s",
            )

    def _refuses(self, peers: Peers, peer: Peer, wanted: bytes) -> bool:
        """Refuse a subscription beyond the limits, and cut a reader who does not stop."""
        if len(wanted) > limits.SUBSCRIPTION_BYTES:
            fault = f"a subscription of more than {limits.SUBSCRIPTION_BYTES} bytes matches no topic"
        elif len(peer.topics) >= limits.SUBSCRIPTIONS:
            fault = (
                f"more than {limits.SUBSCRIPTIONS} subscriptions of one reader: "
                "subscribe to vis1/ or to kinds, or use several readers"
            )
        else:
            return False
        peer.refused.add(wanted)
        with self._lock:
            self._num_refused += 1
        peers.tell(peer.host, f"refused: {fault}")
        if sum(map(len, peer.topics | peer.refused)) > limits.SUBSCRIPTIONS_TOTAL_BYTES:
            peers.cut(
                peer, f"its subscriptions take more than {limits.SUBSCRIPTIONS_TOTAL_BYTES} bytes together"
            )
        return True

    def _note_due(self, wanted: bytes) -> None:
        for name in self._sources:
            if covers(wanted, topic("event", name)) or covers(wanted, topic("masks", name)):
                self.due[name] = None

    def _count(self, change: int) -> None:
        with self._lock:
            self._num_readers += change


def covers(wanted: bytes, prefix: bytes) -> bool:
    """Whether a subscription to `wanted` takes messages whose topic starts with `prefix`, or some of them."""
    return wanted.startswith(prefix) or prefix.startswith(wanted)


def _reads_masks(wanted: bytes) -> bool:
    return covers(wanted, topic("masks"))


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
