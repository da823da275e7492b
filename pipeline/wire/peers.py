"""Who is connected to a publisher's socket, in bounded number, and how one of them is cut off.

ZeroMQ keeps all that its readers send for as long as they are connected, and has no call that ends one
connection. So its socket monitor tells here which connections there are, and each is held by a second
descriptor, through which it can be shut down; ZeroMQ then sees that the reader has gone. A thread of its own
watches them, because one reader that never stops sending can keep the socket's thread inside ZeroMQ. Ours.
"""

from __future__ import annotations

import logging
import os
import socket as sockets
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import recv_monitor_message

from pipeline.wire import limits

logger = logging.getLogger(__name__)

REMIND_SECONDS = 60.0
"""What a host does wrong is logged again after so long."""
MAX_HOSTS = 256
"""Hosts whose faults are remembered for that."""
WATCH_SECONDS = 0.05
"""How often the connections are looked at."""
SHORT_SECONDS = 1.0
SHORT_LIVED = 10
"""Connections of one host in a row, each shorter than SHORT_SECONDS, that are worth a line of the log."""

_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_TCP_INFO = getattr(sockets, "TCP_INFO", None)
_UNKNOWN = "a reader that has gone"
_RESET = struct.pack("ii", 1, 0)
_BYTES_RECEIVED = slice(128, 136)
"""Where Linux has `tcpi_bytes_received` (since 4.1) in its struct tcp_info."""


@dataclass(eq=False)
class Peer:
    """One connection."""

    connection: sockets.socket
    """A second descriptor of it."""
    host: str
    since: float = field(default_factory=time.monotonic)
    topics: set[bytes] = field(default_factory=set)
    """What it subscribes to."""
    refused: set[bytes] = field(default_factory=set)
    """What it wanted to subscribe to beyond the limits; ZeroMQ keeps this too."""
    heard: int = 0
    """Bytes of messages that have come in whole, generously counted."""
    changes: int = 0
    """Subscriptions and their ends since `changes_since`."""
    changes_since: float = field(default_factory=time.monotonic)
    is_cut: bool = False

    def close(self) -> None:
        """Let ZeroMQ's descriptor be the only one."""
        self.connection.close()

    def bytes_received(self) -> int | None:
        """Return what came over the connection so far; None where the system does not say."""
        if _TCP_INFO is None:
            return None
        try:
            info = self.connection.getsockopt(sockets.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED.stop)
        except OSError:
            return None  # no TCP
        return int.from_bytes(info[_BYTES_RECEIVED], "little") if len(info) == _BYTES_RECEIVED.stop else None


class Peers:
    """The connections of one bound socket, which belongs to the thread that makes this and calls it.

    Between its calls a thread of its own looks at them, and calls `on_gone` where some have ended.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, *, on_gone: Callable[[], None]) -> None:
        self.address = address
        """As the log names the socket."""
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._on_gone = on_gone
        self._gone: list[Peer] = []
        self._failure: BaseException | None = None
        self._lock = threading.RLock()
        """Guards all here, the monitor too."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="publisher-peers", daemon=True)
        self._peers: dict[int, Peer] = {}
        self._short: dict[str, int] = {}
        self._logged: dict[tuple[str, str], float] = {}

        self._thread.start()

    def take_gone(self) -> list[Peer]:
        """Return the connections that have ended since the last call."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._read()
            gone, self._gone = self._gone, []
        return gone

    def of(self, frame: zmq.Frame) -> Peer | None:
        """Return who sent a frame; None where that connection has ended, or is cut."""
        try:
            number = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return None  # ZeroMQ itself says what a connection that ended had subscribed to
        with self._lock:
            self._read()  # who sent the frame is known from here on
            peer = self._peers.get(number)
        return None if peer is None or peer.is_cut else peer

    def cut(self, peer: Peer, reason: str) -> None:
        """End a connection and say why."""
        peer.is_cut = True
        try:
            # ZeroMQ's close then resets the connection, also where the other side does not stop sending.
            peer.connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)
            peer.connection.shutdown(sockets.SHUT_RDWR)
        except OSError:
            logger.debug("%s: the connection of %s had ended already", self.address, peer.host)
        self.tell(peer.host, f"a reader was cut off: {reason}")

    def tell(self, host: str, fault: str) -> None:
        """Log what a host does wrong: once, and again after a minute."""
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get((host, fault), -REMIND_SECONDS) < REMIND_SECONDS:
                return
            if len(self._logged) >= MAX_HOSTS:
                self._logged.clear()
            self._logged[host, fault] = now
        logger.warning("%s: %s: %s", self.address, host, fault)

    def close(self) -> None:
        """Stop watching; free the monitor and all second descriptors."""
        self._closing.set()
        self._thread.join()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def _watch(self) -> None:
        try:
            while not self._closing.wait(WATCH_SECONDS):
                with self._lock:
                    self._read()
                    self._check_bytes()
                    news = bool(self._gone)
                if news:
                    self._on_gone()
        except BaseException as error:  # raised again in the socket's thread
            with self._lock:
                self._failure = error
            self._on_gone()

    def _read(self) -> None:
        """Take over who came and who went; the lock is held."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            number = int(event["value"])
            old = self._peers.pop(number, None)  # with a new one: its end was not told
            if old is not None:
                old.close()
                self._gone.append(old)
                short = not old.is_cut and time.monotonic() - old.since < SHORT_SECONDS
                self._note_length(old.host, short=short)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._add(number)

    def _check_bytes(self) -> None:
        """Cut those of whom more came than was taken up: the lock is held.

        ZeroMQ keeps a message until its last part comes, and takes up what floods it for as long as it does.
        """
        now = time.monotonic()
        for peer in self._peers.values():
            received = None if peer.is_cut else peer.bytes_received()
            if received is None:
                continue
            allowed = limits.UNHEARD_BYTES + limits.UNHEARD_BYTES_A_SECOND * (now - peer.since)
            if received - peer.heard > allowed:
                self.cut(peer, f"it sent more than {limits.UNHEARD_BYTES} bytes that are no subscriptions")

    def _add(self, number: int) -> None:
        """Hold a new connection; where there are too many, the oldest that subscribes to nothing goes."""
        connection = _hold(number)
        if connection is None:
            self._note_length(_UNKNOWN, short=True)
            return
        self._peers[number] = Peer(connection, _host_of(connection))
        here = [each for each in self._peers.values() if not each.is_cut]
        if len(here) > limits.CONNECTIONS:
            silent = next((each for each in here if not each.topics), here[-1])
            self.cut(silent, f"{limits.CONNECTIONS} others are connected, as many as there may be")

    def _note_length(self, host: str, *, short: bool) -> None:
        """ZeroMQ does not say that it ended a connection for a frame that is too large."""
        if len(self._short) >= MAX_HOSTS:
            self._short.clear()
        self._short[host] = self._short.get(host, 0) + 1 if short else 0
        if self._short[host] >= SHORT_LIVED:
            self.tell(
                host,
                f"its connections end as soon as they are made: a subscription above "
                f"{limits.READER_FRAME_BYTES} bytes ends one, and so does a handshake that fails",
            )


def _hold(number: int) -> sockets.socket | None:
    """Return a descriptor of our own for the connection; None where it has ended meanwhile."""
    try:
        copy = os.dup(number)
    except OSError:
        return None
    try:
        return sockets.socket(fileno=copy)
    except OSError:  # the number is a file's by now
        os.close(copy)
        return None


def _host_of(connection: sockets.socket) -> str:
    try:
        name = connection.getpeername()
    except OSError:
        return _UNKNOWN
    return str(name[0]) if isinstance(name, tuple) else "a reader on this machine"
