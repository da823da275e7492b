"""The mask stream's sending side: one XPUB socket, owned by a thread of its own.

XPUB in manual mode: a subscription counts only when this side accepts it, so a subscriber that joins late
gets the `event` of its sources before any further `masks` (plain PUB and XPUB route from the moment that they
read the subscription themselves). ZMTP heartbeats are off: a reader that is slow, but alive, stops reading
pings too, and would be cut off; a dead peer is left to TCP keepalive. Delivery rules: docs/wire.md. Design:
ours.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
import socket as sockets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import zmq

from pipeline.errors import AddressError
from pipeline.message import (
    EndMessage,
    EventMessage,
    HeartbeatMessage,
    SourceFacts,
    StreamFacts,
    encode,
    mask_message,
    topic,
)
from pipeline.types import EndReason, FrameResult, SourceState, check_source_id

if TYPE_CHECKING:
    from pipeline.config import PublishConfig

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
LINGER_BLOCK_SECONDS = 30.0
"""How long closing waits for what the kernel has not taken yet; longer where a slow reader may slow us."""
BLOCK_HIGH_WATER_MARK = 16
"""With `block`: messages on the way per subscriber before the stream waits."""
QUEUE_LENGTH = 64
"""Messages between the callers and the thread; full only when the thread gets no processor time."""
RETRY_MS = 1
"""With `block`: how soon a full subscriber is tried again (ZeroMQ has no readiness event for XPUB)."""

_VERSION_TOPIC = re.compile(rb"vis([0-9]{1,4})/.")
_LOOPBACK = re.compile(r"tcp://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):([0-9]{1,5}|\*)", re.IGNORECASE)


@dataclass
class _Source:
    """What the thread knows of a source; `seq` is the last `masks` message's that went out."""

    facts: SourceFacts
    state: SourceState = "waiting"
    seq: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    reason: EndReason | None = None
    detail: str = ""


@dataclass(frozen=True)
class _Item:
    """One thing for the thread to do, in order."""

    kind: Literal["masks", "state", "facts", "end"]
    source: str
    parts: tuple[bytes, ...] = ()
    seq: int = 0
    dropped: Mapping[str, int] | None = None
    state: SourceState = "waiting"
    facts: SourceFacts | None = None
    reason: EndReason = "stopped"
    detail: str = ""


class Publisher:
    """Sends FrameResults to any number of subscribers; a context manager.

    Binds when made: AddressError names address and remedy. All methods may be called from any thread; a fault
    of the sending thread is raised by the next call. Closing sends what waits, bounded in time.
    """

    def __init__(self, config: PublishConfig, *, facts: StreamFacts) -> None:
        if config.address is None:
            raise ValueError("publish.address is null: there is nothing to bind")
        for name in facts.sources:
            check_source_id(name)
        check_address(
            config.address,
            encrypted=config.curve_secret_key_file is not None,
            allow_plaintext=config.allow_plaintext,
        )
        self._config = config
        self._facts = facts
        self._sources = {name: _Source(each) for name, each in facts.sources.items()}
        self._next_seq = dict.fromkeys(facts.sources, 0)
        self.boot = secrets.token_hex(8)
        """Random, one per Publisher: subscribers tell a restart by it."""
        self.address = config.address
        """The endpoint that was really bound, also where the port was `*`."""
        self._publishing = threading.Lock()
        self._condition = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._events: dict[str, None] = {}
        self._topics: dict[bytes, int] = {}
        self._closing = False
        self._deadline = 0.0
        self._bound = False
        self._failure: BaseException | None = None
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()
        self._ready.wait()
        if not self._bound:
            self.close()
            self._raise_failure()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(linger_seconds=None if kind is None else LINGER_SECONDS)

    @property
    def num_subscribers(self) -> int:
        """Subscriptions that cover `masks` messages (a `Subscriber` makes one)."""
        with self._condition:
            return sum(number for each, number in self._topics.items() if _covers(each, topic("masks")))

    def publish(self, result: FrameResult, dropped: Mapping[str, int]) -> bool:
        """Hand one result to ZeroMQ; with `block` wait until every subscriber has room.

        False: closed meanwhile, it was not handed over. `dropped`: frames by cause since the stream began.
        """
        self._check_source(result.source)
        with self._publishing:
            limit = 1 if self._config.block else QUEUE_LENGTH
            with self._condition:
                self._condition.wait_for(lambda: len(self._queue) < limit or self._stopped)
                self._raise_failure()
                if self._closing:
                    return False
            seq = self._next_seq[result.source]
            message = mask_message(
                result,
                facts=self._facts,
                producer=self._config.producer,
                boot=self.boot,
                seq=seq,
                published_ns=time.time_ns(),
                dropped=dropped,
            )
            self._put(_Item("masks", result.source, tuple(encode(message)), seq, dict(dropped)))
            self._next_seq[result.source] = seq + 1
        return True

    def set_state(self, source: str, state: SourceState, dropped: Mapping[str, int] | None = None) -> None:
        """Tell subscribers at once, and with each heartbeat, how the source is."""
        if state == "ended":
            raise ValueError("state 'ended' is set by end(), with the reason")
        self._put(_Item("state", source, state=state, dropped=dropped))

    def set_facts(self, source: str, facts: SourceFacts) -> None:
        """Replace a source's facts, e.g. once its size is known; an `event` follows."""
        self._put(_Item("facts", source, facts=facts))

    def end(
        self, source: str, reason: EndReason, detail: str = "", dropped: Mapping[str, int] | None = None
    ) -> None:
        """Send the source's `end` after all that was published before."""
        self._put(_Item("end", source, reason=reason, detail=detail, dropped=dropped))

    def wait_for_subscribers(self, count: int, stop: threading.Event, poll_seconds: float = 0.05) -> bool:
        """Wait until so many subscriptions cover `masks`; False when `stop` was set or this was closed."""
        while self.num_subscribers < count:
            with self._condition:
                self._raise_failure()
                if self._closing or stop.is_set():
                    return False
                self._condition.wait(poll_seconds)
        return True

    def close(self, *, linger_seconds: float | None = None) -> None:
        """Send what waits, at most `linger_seconds` long (None: 2, with `block` 30), and free the address."""
        if linger_seconds is None:
            linger_seconds = LINGER_BLOCK_SECONDS if self._config.block else LINGER_SECONDS
        with self._condition:
            self._deadline = time.monotonic() + linger_seconds
            self._closing = True
            self._condition.notify_all()
        self._wake()
        self._thread.join()
        self._wake_in.close()
        self._wake_out.close()

    @property
    def _stopped(self) -> bool:
        return self._closing or self._failure is not None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_source(self, source: str) -> None:
        if source not in self._sources:
            raise ValueError(f"unknown source {source!r}, this stream has {', '.join(self._sources)}")

    def _put(self, item: _Item) -> None:
        self._check_source(item.source)
        with self._condition:
            self._raise_failure()
            if self._closing:
                return
            self._queue.append(item)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except BlockingIOError:
            return  # enough bytes wait there already
        except OSError:
            if not self._closing:
                raise

    # All below runs in the thread.

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.XPUB)
        try:
            self._bind(socket)
            self._bound = True
            self._ready.set()
            self._serve(socket)
        except BaseException as error:  # raised again by the caller's next call
            with self._condition:
                self._failure = error
                self._condition.notify_all()
        finally:
            linger = max(0.0, self._deadline - time.monotonic()) if self._closing else 0.0
            socket.close(linger=int(linger * 1000))
            context.term()
            self._ready.set()

    def _bind(self, socket: zmq.Socket[bytes]) -> None:
        config = self._config
        socket.sndhwm = BLOCK_HIGH_WATER_MARK if config.block else config.high_water_mark
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        socket.setsockopt(zmq.XPUB_NODROP, int(config.block))
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 2)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        socket.setsockopt(zmq.IPV6, int("[" in self.address))
        try:
            socket.bind(self.address)
        except zmq.ZMQError as error:
            raise AddressError(f"publish.address {self.address}: {_remedy(error)}") from None
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake_out, zmq.POLLIN)
        next_heartbeat = time.monotonic()
        stuck = False
        while True:
            wait = max(0.0, next_heartbeat - time.monotonic()) * 1000
            poller.poll(RETRY_MS if stuck else int(wait) + 1)
            self._drain_wakes()
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = max(next_heartbeat + self._config.heartbeat_seconds, time.monotonic())
                for name in self._sources:
                    self._send_heartbeat(socket, name)
                self._events.update(dict.fromkeys(self._sources))
            stuck = not (self._send_events(socket) and self._send_queue(socket))
            with self._condition:
                done = self._closing and not (self._queue or self._events)
                if done or (self._closing and time.monotonic() >= self._deadline):
                    if self._queue:
                        log.warning(
                            "%s: closed with %d messages that no subscriber had room for",
                            self.address,
                            len(self._queue),
                        )
                    return

    def _drain_wakes(self) -> None:
        try:
            while self._wake_out.recv(4096):
                pass
        except BlockingIOError:
            return

    def _accept_subscriptions(self, socket: zmq.Socket[bytes]) -> None:
        """Accept what came in; sources that a new subscription covers are due an `event`."""
        while True:
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            wanted = data[1:]
            if data[:1] == b"\x01":
                socket.setsockopt(zmq.SUBSCRIBE, wanted)
                self._events.update(
                    dict.fromkeys(
                        name
                        for name in self._sources
                        if _covers(wanted, topic("event", name)) or _covers(wanted, topic("masks", name))
                    )
                )
                self._warn_of_version(wanted)
            elif data[:1] == b"\x00":
                socket.setsockopt(zmq.UNSUBSCRIBE, wanted)
            else:
                log.debug("%s: a subscriber sent %d bytes that are no subscription", self.address, len(data))
                continue
            with self._condition:
                number = self._topics.get(wanted, 0) + (1 if data[:1] == b"\x01" else -1)
                self._topics[wanted] = number
                if number <= 0:
                    del self._topics[wanted]
                self._condition.notify_all()

    def _warn_of_version(self, wanted: bytes) -> None:
        """Name both versions; a bare `vis2` is a subscriber of ours that looks for other versions here."""
        match = _VERSION_TOPIC.match(wanted)
        own = topic("masks").split(b"/")[0]
        if match and b"vis" + match[1] != own:
            log.warning(
                "%s: a subscriber asks for wire version %s, this publishes version %s: use the same "
                "mssts-stream release on both sides",
                self.address,
                match[1].decode(),
                own[3:].decode(),
            )

    def _send_events(self, socket: zmq.Socket[bytes]) -> bool:
        """Accept subscriptions, then send the events that are due; False when a subscriber has no room."""
        self._accept_subscriptions(socket)
        for name in list(self._events):
            source = self._sources[name]
            message = EventMessage(
                source=name,
                producer=self._config.producer,
                boot=self.boot,
                seq=source.seq,
                published_ns=time.time_ns(),
                state=source.state,
                model_name=self._facts.model_name,
                class_list=self._facts.class_list,
                class_names=dict(self._facts.class_names),
                trained=self._facts.trained,
                facts=source.facts,
                reason=source.reason,
                detail=source.detail,
            )
            if not self._send(socket, encode(message)):
                return False
            del self._events[name]
        return True

    def _send_queue(self, socket: zmq.Socket[bytes]) -> bool:
        """Do what the callers asked for, in order; False when a subscriber has no room."""
        while self._queue:
            item = self._queue[0]
            if not self._do(socket, item):
                return False
            with self._condition:
                self._queue.popleft()
                self._condition.notify_all()
            if not self._send_events(socket):
                return False
        return True

    def _do(self, socket: zmq.Socket[bytes], item: _Item) -> bool:
        source = self._sources[item.source]
        if item.dropped is not None:
            source.dropped = dict(item.dropped)
        if item.kind == "masks":
            if not self._send(socket, item.parts):
                return False
            source.seq = item.seq
        elif item.kind == "end":
            message = EndMessage(
                source=item.source,
                producer=self._config.producer,
                boot=self.boot,
                seq=source.seq,
                published_ns=time.time_ns(),
                reason=item.reason,
                detail=item.detail,
                dropped=source.dropped,
            )
            if not self._send(socket, encode(message)):
                return False
            source.state, source.reason, source.detail = "ended", item.reason, item.detail
        elif item.kind == "state":
            source.state = item.state
            self._send_heartbeat(socket, item.source)
        elif item.facts is not None:
            source.facts = replace(item.facts)
            self._events[item.source] = None
        return True

    def _send_heartbeat(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Send a heartbeat; left out where a subscriber has no room: the messages show life there."""
        source = self._sources[name]
        self._send(
            socket,
            encode(
                HeartbeatMessage(
                    source=name,
                    producer=self._config.producer,
                    boot=self.boot,
                    seq=source.seq,
                    published_ns=time.time_ns(),
                    state=source.state,
                    dropped=source.dropped,
                    reason=source.reason,
                    detail=source.detail,
                )
            ),
        )

    def _send(self, socket: zmq.Socket[bytes], parts: list[bytes] | tuple[bytes, ...]) -> bool:
        try:
            socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def _covers(wanted: bytes, prefix: bytes) -> bool:
    """Whether a subscription to `wanted` takes messages whose topic starts with `prefix`, or some of them."""
    return wanted.startswith(prefix) or prefix.startswith(wanted)


def check_address(address: str, *, encrypted: bool, allow_plaintext: bool) -> None:
    """AddressError where an address cannot be bound, or is open to others without encryption or permission."""
    if not re.fullmatch(r"tcp://(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5}|\*)|ipc://.+", address):
        raise AddressError(
            f"publish.address {address!r} is no address: write tcp://HOST:PORT, "
            "e.g. tcp://127.0.0.1:5555, or ipc://PATH"
        )
    port = address.rpartition(":")[2]
    if address.startswith("tcp://") and port.isdigit() and not 0 < int(port) < 65536:
        raise AddressError(f"publish.address {address}: port {port} is not in 1..65535 (or *: any free one)")
    if (
        address.startswith("tcp://")
        and not _LOOPBACK.fullmatch(address)
        and not encrypted
        and not allow_plaintext
    ):
        raise AddressError(
            f"publish.address {address} can be reached from other machines and the stream is not encrypted: set "
            "publish.curve_secret_key_file (make keys with `python -m pipeline keys DIR`), or permit it with "
            "publish.allow_plaintext: true, or bind 127.0.0.1"
        )


def _remedy(error: zmq.ZMQError) -> str:
    """Say what is wrong and what to do about a bind that failed."""
    if error.errno == zmq.EADDRINUSE:
        return (
            "is in use by another program: stop that one or choose another port "
            "(--publish tcp://127.0.0.1:PORT; port * takes any free one)"
        )
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "this machine has no such address or interface: use 127.0.0.1 or one that `ip addr` lists"
    return f"cannot be bound ({error.strerror}): write tcp://HOST:PORT, e.g. tcp://127.0.0.1:5555"
