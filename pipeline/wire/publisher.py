"""The mask stream's sending side: one XPUB socket, owned by a thread of its own.

XPUB in manual mode: a subscription counts only when this side accepts it, so a subscriber that joins late
gets the `event` of its sources before any further `masks` (plain PUB and XPUB route from the moment that they
read the subscription themselves). ZMTP heartbeats are off: a reader that is slow, but alive, stops reading
pings too, and would be cut off; a dead peer is left to TCP keepalive. Rules: docs/wire.md. Design: ours.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import zmq

from pipeline.errors import AddressError, ConfigError, MessageError
from pipeline.health import Vitals
from pipeline.types import EndReason, FrameResult, MaskMessage, SourceState, check_source_id
from pipeline.wire import limits
from pipeline.wire.codec import decode, encode, mask_message
from pipeline.wire.curve import Gate
from pipeline.wire.endpoint import bind_remedy, check_address, check_ipc_free, keep_alive
from pipeline.wire.messages import SourceFacts, StreamFacts
from pipeline.wire.peers import Peers
from pipeline.wire.socket_thread import SocketThread
from pipeline.wire.source_record import SourceRecord
from pipeline.wire.subscriptions import Subscriptions

if TYPE_CHECKING:
    from pipeline.config import PublishConfig

__all__ = ["Publisher", "SourceFacts", "StreamFacts"]

logger = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
LINGER_BLOCK_SECONDS = 30.0
"""How long closing waits for what the kernel has not taken yet; longer where a slow reader may slow us."""
BLOCK_HIGH_WATER_MARK = 16
"""With `block`: messages on the way per subscriber before the stream waits."""
QUEUE_LENGTH = 64
"""Messages between the callers and the thread; full only when the thread gets no processor time."""
RETRY_MS = 1
"""With `block`: how soon a full subscriber is tried again (ZeroMQ has no readiness event for XPUB)."""
LOOK_SECONDS = 0.1
"""How often the conditions of the sources are compared with those that subscribers know."""
RECEIVE_BUFFER = 64 * 1024
"""The kernel's for each connection: a reader has little to say, and what floods comes no faster."""
RECEIVE_HIGH_WATER_MARK = 64
"""Messages of one reader that wait to be taken up."""
POLL_SECONDS = 0.05
"""How often a caller that waits looks at `stop`."""

Step = Callable[["zmq.Socket[bytes]"], bool]
"""One thing to do in order, in the thread; False: not yet, a subscriber has no room."""


class Publisher:
    """Sends FrameResults to any number of subscribers; a context manager.

    Binds when made: AddressError names address and remedy. All methods may be called from any thread; a
    fault of the sending thread is raised by the next call. Closing sends what waits, bounded in time. Once
    `stop` is set nothing waits longer than LINGER_SECONDS for slow subscribers. `vitals`: for a source what
    gives its counters and conditions at any moment; the sending thread asks it for each heartbeat, so that
    these are true also when nothing is published any more. ValueError where facts are beyond what readers
    take (docs/wire.md).
    """

    def __init__(
        self,
        config: PublishConfig,
        *,
        facts: StreamFacts,
        stop: threading.Event | None = None,
        vitals: Mapping[str, Callable[[], Vitals]] | None = None,
    ) -> None:
        if config.address is None:
            raise ValueError("publish.address is null: there is nothing to bind")
        for name in facts.sources:
            check_source_id(name)
        if config.curve_allowed_clients and config.curve_secret_key_file is None:
            raise ConfigError("publish.curve_allowed_clients needs publish.curve_secret_key_file too")
        check_address(
            config.address,
            encrypted=config.curve_secret_key_file is not None,
            allow_plaintext=config.allow_plaintext,
        )
        self.boot = secrets.token_hex(8)
        """Random, one per Publisher: subscribers tell a restart by it."""
        self.address = config.address
        """The endpoint that was really bound, also where the port was `*`."""
        self._config = config
        self._facts = facts
        self._records = {
            name: SourceRecord(name, config.producer, self.boot, facts, each, vitals=(vitals or {}).get(name))
            for name, each in facts.sources.items()
        }
        for record in self._records.values():
            _check_event(record)
        self._looks = any(record.vitals is not None for record in self._records.values())
        self._next_seq = dict.fromkeys(facts.sources, 0)
        self._stop = stop if stop is not None else threading.Event()
        self._stop_deadline: float | None = None
        self._publishing = threading.Lock()
        self._thread = SocketThread("publisher", self._own_socket)
        self._condition = self._thread.condition
        self._queue: deque[Step] = deque()
        self._subscriptions = Subscriptions(facts.sources)
        self._closing = False
        self._deadline = 0.0
        self._thread.start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(linger_seconds=None if kind is None else LINGER_SECONDS)

    @property
    def num_subscribers(self) -> int:
        """Subscriptions that cover `masks` messages (a `Subscriber` makes one)."""
        return self._subscriptions.num_readers

    @property
    def num_refused(self) -> int:
        """Subscriptions beyond the limits (docs/wire.md) that were not accepted, since the beginning."""
        return self._subscriptions.num_refused

    def publish(self, result: FrameResult, dropped: Mapping[str, int]) -> bool:
        """Hand one result to ZeroMQ; with `block` wait until every subscriber has room.

        False: stopped or closed meanwhile, it was not handed over. `dropped`: frames by cause since the
        stream began. ValueError where an instance breaks the rules of the format.
        """
        self._check_source(result.source)
        with self._publishing:
            if not self._wait_for_room():
                return False
            message = mask_message(
                result,
                facts=self._facts,
                producer=self._config.producer,
                boot=self.boot,
                seq=self._next_seq[result.source],
                published_ns=time.time_ns(),
                dropped=dropped,
            )
            handed = self._put(partial(self._send_masks, encode(message), message))
            self._next_seq[result.source] += handed
        return handed

    def set_state(self, source: str, state: SourceState, dropped: Mapping[str, int] | None = None) -> None:
        """Tell subscribers at once, and with each heartbeat, how the source is."""
        if state == "ended":
            raise ValueError("state 'ended' is set by end(), with the reason")
        self._check_source(source)
        self._put(partial(self._send_state, source, state, dropped))

    def set_facts(self, source: str, facts: SourceFacts) -> None:
        """Replace a source's facts, e.g. once its size is known; an `event` follows."""
        self._check_source(source)
        _check_event(replace(self._records[source], facts=facts))
        self._put(partial(self._send_facts, source, facts))

    def end(
        self, source: str, reason: EndReason, detail: str = "", dropped: Mapping[str, int] | None = None
    ) -> None:
        """Send the source's `end` after all that was published before."""
        self._check_source(source)
        self._put(partial(self._send_end, source, reason, detail, dropped))

    def wait_for_subscribers(self, count: int, stop: threading.Event | None = None) -> bool:
        """Wait until so many subscriptions cover `masks`; False when `stop` was set or this was closed."""
        while self.num_subscribers < count:
            with self._condition:
                self._thread.raise_failure()
                if self._closing or self._stop.is_set() or (stop is not None and stop.is_set()):
                    return False
                self._condition.wait(POLL_SECONDS)
        return True

    def close(self, *, linger_seconds: float | None = None) -> None:
        """Send what waits, at most `linger_seconds` long (None: 2, with `block` 30), and free the address."""
        if linger_seconds is None:
            patient = self._config.block and not self._stop.is_set()
            linger_seconds = LINGER_BLOCK_SECONDS if patient else LINGER_SECONDS
        with self._condition:
            if not self._closing:
                self._deadline = time.monotonic() + linger_seconds
            self._closing = True
            self._condition.notify_all()
        self._thread.wake()
        self._thread.join()

    def _wait_for_room(self) -> bool:
        limit = 1 if self._config.block else QUEUE_LENGTH
        with self._condition:
            while True:
                self._thread.raise_failure()
                if self._closing:
                    return False
                if len(self._queue) < limit:
                    return True
                if self._stop.is_set():
                    now = time.monotonic()
                    self._stop_deadline = self._stop_deadline or now + LINGER_SECONDS
                    if now >= self._stop_deadline:
                        return False
                self._condition.wait(POLL_SECONDS)

    def _check_source(self, source: str) -> None:
        if source not in self._records:
            raise ValueError(f"unknown source {source!r}, this stream has {', '.join(self._records)}")

    def _put(self, step: Step) -> bool:
        with self._condition:
            self._thread.raise_failure()
            if self._closing:
                return False
            self._queue.append(step)
        self._thread.wake()
        return True

    # All below runs in the thread.

    def _own_socket(self) -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket, ExitStack() as stack:
            gate: Gate | None = None
            if self._config.curve_secret_key_file is not None:
                gate = Gate(
                    socket,
                    context,
                    secret_key_file=self._config.curve_secret_key_file,
                    allowed=self._config.curve_allowed_clients,
                )
                stack.callback(gate.close)
            socket.linger = 0
            peers = Peers(socket, self.address, on_gone=self._thread.wake)
            stack.callback(peers.close)
            self._bind(socket)
            peers.address = self.address
            self._thread.opened()
            self._serve(socket, gate, peers)
            socket.linger = int(max(0.0, self._deadline - time.monotonic()) * 1000)

    def _bind(self, socket: zmq.Socket[bytes]) -> None:
        config = self._config
        socket.sndhwm = BLOCK_HIGH_WATER_MARK if config.block else config.high_water_mark
        socket.rcvhwm = RECEIVE_HIGH_WATER_MARK
        socket.setsockopt(zmq.RCVBUF, RECEIVE_BUFFER)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.READER_FRAME_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(limits.HANDSHAKE_SECONDS * 1000))
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        socket.setsockopt(zmq.XPUB_NODROP, int(config.block))
        keep_alive(socket, self.address)
        check_ipc_free(self.address)
        try:
            socket.bind(self.address)
        except zmq.ZMQError as error:
            raise AddressError(f"publish.address {self.address}: {bind_remedy(error)}") from None
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _serve(self, socket: zmq.Socket[bytes], gate: Gate | None, peers: Peers) -> None:
        poller = zmq.Poller()
        if gate is not None:
            poller.register(gate.socket, zmq.POLLIN)
        poller.register(socket, zmq.POLLIN)
        poller.register(self._thread.wakes, zmq.POLLIN)
        next_heartbeat = next_look = time.monotonic()
        stuck = False
        while True:
            until = min(next_heartbeat, next_look) if self._looks else next_heartbeat
            wait_ms = int(max(0.0, until - time.monotonic()) * 1000) + 1
            poller.poll(RETRY_MS if stuck else wait_ms)
            self._thread.drain()
            if gate is not None:
                gate.answer()
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = max(next_heartbeat + self._config.heartbeat_seconds, time.monotonic())
                for name in self._records:
                    self._send_heartbeat(socket, name)
                self._subscriptions.due.update(dict.fromkeys(self._records))
            if self._looks and time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_SECONDS
                self._send_news(socket)
            stuck = not (self._send_events(socket, peers) and self._send_queue(socket, peers))
            with self._condition:
                done = not self._queue and not self._subscriptions.due
                if self._closing and (done or time.monotonic() >= self._deadline):
                    if self._queue:
                        logger.warning(
                            "%s: closed with %d messages that a subscriber had no room for",
                            self.address,
                            len(self._queue),
                        )
                    return

    def _send_events(self, socket: zmq.Socket[bytes], peers: Peers) -> bool:
        """Accept subscriptions, then send the events that are due; False when a subscriber has no room."""
        if self._subscriptions.accept(socket, peers, self.address):
            with self._condition:
                self._condition.notify_all()
        for name in list(self._subscriptions.due):
            if not self._send(socket, self._records[name].event()):
                return False
            del self._subscriptions.due[name]
        return True

    def _send_queue(self, socket: zmq.Socket[bytes], peers: Peers) -> bool:
        """Do what the callers asked for, in order; False when a subscriber has no room."""
        while self._queue:
            if not self._queue[0](socket):
                return False
            with self._condition:
                self._queue.popleft()
                self._condition.notify_all()
            if not self._send_events(socket, peers):
                return False
        return True

    def _send_masks(self, parts: list[bytes], message: MaskMessage, socket: zmq.Socket[bytes]) -> bool:
        if not self._send(socket, parts):
            return False
        record = self._records[message.source]
        record.seq = message.seq
        record.note_dropped(message.dropped)
        return True

    def _send_state(
        self, name: str, state: SourceState, dropped: Mapping[str, int] | None, socket: zmq.Socket[bytes]
    ) -> bool:
        self._records[name].state = state
        self._records[name].note_dropped(dropped)
        self._send_heartbeat(socket, name)
        return True

    def _send_facts(self, name: str, facts: SourceFacts, socket: zmq.Socket[bytes]) -> bool:
        self._records[name].facts = facts
        self._subscriptions.due[name] = None
        return True

    def _send_end(
        self,
        name: str,
        reason: EndReason,
        detail: str,
        dropped: Mapping[str, int] | None,
        socket: zmq.Socket[bytes],
    ) -> bool:
        record = self._records[name]
        record.note_dropped(dropped)
        if not self._send(socket, record.end(reason, detail)):
            return False
        record.state, record.reason, record.detail = "ended", reason, detail
        return True

    def _send_news(self, socket: zmq.Socket[bytes]) -> None:
        """Send a heartbeat of each source whose conditions are not those of its last one."""
        for name, record in self._records.items():
            if record.has_news:
                self._send_heartbeat(socket, name)

    def _send_heartbeat(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Send a heartbeat; left out where a subscriber has no room: the messages show life there."""
        self._send(socket, self._records[name].heartbeat())

    def _send(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> bool:
        try:
            socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def _check_event(record: SourceRecord) -> None:
    """ValueError where readers would refuse the event of a source: what it says would never be known."""
    try:
        decode(replace(record, vitals=None).event())
    except MessageError as error:
        raise ValueError(f"source {record.name}: {error}") from None
