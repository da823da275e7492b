"""The mask stream's receiving side: `for message in Subscriber(address)`, or `latest()` for the newest.

A thread of its own reads the socket. A high-water mark alone does not bound the age of what a slow reader
gets (seconds, measured); a thread that always reads and keeps the newest does, so `latest()` never lags.
Iteration gives every message: when the reader is slow the thread stops reading, so that a publisher with
`block` waits, and one without drops; what was lost is seen by `seq`, counted and logged. Rules: docs/wire.md.
Design: ours.
Needs zmq, msgpack and numpy only: neither torch nor av nor cv2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType

import zmq

from pipeline.errors import AddressError, MessageError, WireVersionError
from pipeline.health import Trouble
from pipeline.types import MaskMessage, SourceState, check_source_id
from pipeline.wire import limits
from pipeline.wire.codec import decode
from pipeline.wire.curve import secure_client
from pipeline.wire.endpoint import check_remote, keep_alive
from pipeline.wire.messages import TOPIC_ROOT, EndMessage, EventMessage, HeartbeatMessage, topic
from pipeline.wire.refusals import Refusals
from pipeline.wire.socket_thread import SocketThread
from pipeline.wire.source_book import SourceBook
from pipeline.wire.waiting import Waiting

logger = logging.getLogger(__name__)

SOCKET_HIGH_WATER_MARK = 16
"""Messages that the socket keeps on top of `max_waiting`: few, so that the publisher feels a slow reader."""
MIN_MESSAGE_BYTES = limits.READER_FRAME_BYTES
"""A handshake takes so much."""
FOREIGN_GRACE_SECONDS = 2.5
"""How long a publisher of another major version may take to show that it speaks ours too: two heartbeats."""
SILENCE_WARNING_SECONDS = 5.0
"""A log line tells that nothing was heard yet after so long."""
FOREIGN_PREFIXES = tuple(f"vis{major}".encode() for major in range(10) if f"vis{major}/" != TOPIC_ROOT)


class Subscriber:
    """Reads a mask stream; iterator over MaskMessage and context manager.

    With `source` only that source is read and iteration ends at its end; without, all sources are read and
    iteration goes on until `close()`. AddressError where the address is none. `timeout_seconds`: TimeoutError
    when nothing at all, not even a heartbeat, was heard for so long; None waits for ever. WireVersionError
    where the publisher speaks another major version only. Bytes that are no message are counted and logged.
    An encrypted stream needs `server_key`, the publisher's public key (its 40 characters, or a key file), and
    where only some clients are allowed `client_key_file`, a secret key file; ConfigError where one is none.
    ZeroMQ ends the connection at a part of a message above `max_message_bytes`, before it is in memory, and
    connects again.
    """

    def __init__(
        self,
        address: str,
        source: str | None = None,
        *,
        timeout_seconds: float | None = None,
        max_waiting: int = 1000,
        server_key: str | None = None,
        client_key_file: str | None = None,
        max_message_bytes: int = limits.PART_BYTES,
    ) -> None:
        if source is not None:
            check_source_id(source)
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be above 0 or None, got {timeout_seconds}")
        if client_key_file is not None and server_key is None:
            raise ValueError("client_key_file needs server_key too, the publisher's public key")
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, got {max_waiting}")
        if not MIN_MESSAGE_BYTES <= max_message_bytes < 2**63:
            raise ValueError(
                f"max_message_bytes must be at least {MIN_MESSAGE_BYTES}, got {max_message_bytes}"
            )
        check_remote(address)
        self.address = address
        self.source = source
        self._book = SourceBook(address)
        self.lost: dict[str, int] = self._book.lost
        """Source → messages that were sent, but never arrived here."""
        self.malformed = 0
        """Messages that could not be read, or are beyond the limits."""
        self.events: dict[str, EventMessage] = self._book.events
        """Source → its newest event: class list, facts."""
        self.heartbeats: dict[str, HeartbeatMessage] = self._book.heartbeats
        """Source → its newest heartbeat: counters, health."""
        self.sources: dict[str, SourceState] = self._book.states
        """Source → state."""
        self.ended: dict[str, EndMessage] = self._book.ended
        """Sources that ended, and why."""
        self._timeout = timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._server_key = server_key
        self._client_key_file = client_key_file
        self._thread = SocketThread("subscriber", self._own_socket)
        self._condition = self._thread.condition
        self._waiting = Waiting(max_waiting)
        self._keep_all = True
        self._heard = time.monotonic()
        self._heard_ours = False
        self._warn_at: float | None = None
        """When silence is worth a warning, monotonic clock."""
        self._foreign: tuple[float, WireVersionError] | None = None
        self._refusals = Refusals(
            address, encrypted=server_key is not None, max_message_bytes=max_message_bytes
        )
        self._closed = False
        self._thread.start()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[MaskMessage]:
        return self

    @property
    def skipped(self) -> int:
        """Messages that `latest()` passed over for newer ones."""
        return self._waiting.skipped

    def health(self, source: str) -> tuple[Trouble, ...] | None:
        """Return the conditions of a source that hold, in the order in which they began; () where none does.

        None: not known, because the source was not heard yet or its publisher is older than version 1.1.
        """
        with self._condition:
            return self._book.health.get(source)

    def __next__(self) -> MaskMessage:
        """Return the next message; StopIteration at the end of the named source, or when closed."""
        with self._condition:
            self._keep_all = True
            message = self._take(None)
        if message is None:
            raise StopIteration
        return message

    def latest(self, *, timeout_seconds: float | None = None) -> MaskMessage | None:
        """Return the newest message that was not returned yet, waiting for one; None at the end.

        With several sources the newest of each, in turns. What is passed over counts in `skipped`. From the
        first call on the thread keeps only the newest of each source (until the next iteration step).
        `timeout_seconds`: TimeoutError when no new message came for so long.
        """
        with self._condition:
            self._keep_all = False
            self._waiting.keep_newest()
            self._condition.notify_all()
            return self._take(timeout_seconds)

    def close(self) -> None:
        """Stop reading; iteration ends."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.wake()
        self._thread.join()

    def _take(self, timeout_seconds: float | None) -> MaskMessage | None:
        """Return the first waiting message, None at the end; the lock is held."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            if self._waiting and not self._closed:
                self._condition.notify_all()
                return self._waiting.take()
            self._thread.raise_failure()
            if self._finished:
                return None
            now = time.monotonic()
            if self._timeout is not None and now >= self._heard + self._timeout:
                raise TimeoutError(self._silence(self._timeout))
            if deadline is not None and now >= deadline:
                raise TimeoutError(f"no new message at {self.address} for {timeout_seconds:g} s")
            limits = [deadline, None if self._timeout is None else self._heard + self._timeout]
            self._condition.wait(min((each - now for each in limits if each is not None), default=None))

    def _silence(self, seconds: float) -> str:
        whom = "" if self.source is None else f"of source {self.source!r} "
        named = "" if self.source is None else ", with a source of that name"
        remedy = f"is a publisher running there{named}?"
        garbage = ""
        if self.malformed:
            garbage = f", only {self.malformed} malformed messages"
            remedy = "is it another program that publishes there?"
        return (
            f"nothing was heard {whom}at {self.address} for {seconds:g} s, not even a heartbeat{garbage}: "
            f"{self._refusals.reason or remedy}"
        )

    # All below runs in the thread.

    def _own_socket(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            with closing(self._refusals):
                monitor = self._refusals.open(socket)
                self._connect(socket)
                self._thread.opened()
                self._read(socket, monitor)

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        socket.rcvhwm = SOCKET_HIGH_WATER_MARK
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        if self._server_key is not None:
            secure_client(socket, server_key=self._server_key, client_key_file=self._client_key_file)
        keep_alive(socket, self.address)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        # `masks` comes last: once the publisher counts us, all else is already subscribed.
        for kind in ("event", "heartbeat", "end", "masks") if self.source is not None else ():
            socket.subscribe(topic(kind, self.source or ""))
        for prefix in FOREIGN_PREFIXES:
            socket.subscribe(prefix)
        if self.source is None:
            socket.subscribe(TOPIC_ROOT.encode())
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            raise AddressError(
                f"address {self.address!r} cannot be connected to ({error.strerror}): write "
                "tcp://HOST:PORT, e.g. tcp://127.0.0.1:5555"
            ) from None

    def _read(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._thread.wakes, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        self._warn_at = time.monotonic() + SILENCE_WARNING_SECONDS
        while self._wait_for_room():
            self._check_foreign()
            self._check_silence()
            poller.poll(self._patience_ms())
            self._refusals.read()
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                self._refusals.connect_again()
                continue
            self._receive(socket, parts)

    def _wait_for_room(self) -> bool:
        """Wait until another message may be taken; False when none is wanted any more."""
        with self._condition:
            self._condition.wait_for(lambda: self._finished or not self._keep_all or self._waiting.has_room)
            return not self._finished

    def _check_foreign(self) -> None:
        """Raise WireVersionError once only messages of another version were heard for too long."""
        if self._foreign is not None and time.monotonic() >= self._foreign[0]:
            raise self._foreign[1]

    def _check_silence(self) -> None:
        """Warn, once, where nothing of ours was heard."""
        if self._heard_ours:
            self._warn_at = None
        elif self._warn_at is not None and time.monotonic() >= self._warn_at:
            self._warn_at = None
            logger.warning("%s", self._silence(SILENCE_WARNING_SECONDS))

    def _patience_ms(self) -> int | None:
        """Milliseconds until one of the checks has something to do; None: never."""
        times = [self._warn_at, None if self._foreign is None else self._foreign[0], self._refusals.again_at]
        first = min((each for each in times if each is not None), default=None)
        return None if first is None else max(0, int((first - time.monotonic()) * 1000)) + 1

    def _receive(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        try:
            message = decode(parts, class_names=self._book.class_names)
            self._book.check(message, len(parts[1]))
        except WireVersionError as error:
            if not self._heard_ours and self._foreign is None:
                logger.warning("%s: %s", self.address, error)
                self._foreign = (time.monotonic() + FOREIGN_GRACE_SECONDS, error)
            return
        except MessageError as error:
            self.malformed += 1
            if self.malformed.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …: a flood must not fill the log
                logger.warning("%s: malformed message (%d so far): %s", self.address, self.malformed, error)
            return
        self._refusals.heard()
        if not self._heard_ours:
            self._heard_ours = True
            self._foreign = None
            for prefix in FOREIGN_PREFIXES:
                socket.unsubscribe(prefix)
        with self._condition:
            self._heard = time.monotonic()
            self._book.note(message, len(parts[1]))
            if isinstance(message, MaskMessage):
                self._waiting.append(message, limits.memory_of(parts))
                if not self._keep_all:
                    self._waiting.keep_newest()
            self._condition.notify_all()

    @property
    def _finished(self) -> bool:
        return self._closed or (self.source is not None and self.source in self.ended)
