"""Why a reader hears nothing, and when it must connect again itself.

A client that is turned away otherwise only sees silence. ZeroMQ connects again where the network ends a
connection, but never again where it ended one itself: for a part above ZMQ_MAXMSGSIZE, for a handshake that
failed or was refused. Its socket monitor tells the two apart, since it then retries or does not. Ours.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque

import zmq
from zmq.utils.monitor import recv_monitor_message

logger = logging.getLogger(__name__)

REMIND_SECONDS = 60.0
"""The same reason is logged again after so long."""
CUTS = 3
"""Connections lost within REMIND_SECONDS that are no accident any more."""

AGAIN_SECONDS = 0.2
"""After a connection that ZeroMQ has given up a new one is made so much later, then twice as late …"""
AGAIN_MAX_SECONDS = 2.0
"""… up to this, until something is heard."""

_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_ALIVE = (zmq.EVENT_CONNECTED, zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECT_RETRIED)


class Refusals:
    """Watches a connecting socket; belongs to the socket's thread, `reason` may be read from any."""

    def __init__(self, address: str, *, encrypted: bool, max_message_bytes: int) -> None:
        self.reason = ""
        """What went wrong last, with the remedy."""
        self._address = address
        self._encrypted = encrypted
        self._max_message_bytes = max_message_bytes
        self._logged: dict[str, float] = {}
        self._cuts: deque[float] = deque(maxlen=CUTS)
        self._failed = False
        """Whether the connection that ends next is one whose handshake failed."""
        self.again_at: float | None = None
        """When `connect_again` is due, monotonic clock; None: ZeroMQ does it, or is connected."""
        self._again_seconds = AGAIN_SECONDS
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None

    def open(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Watch a socket that is not connected yet; return what the owner polls before `read`."""
        self._socket = socket
        self._monitor = socket.get_monitor_socket(
            _FAILURES | zmq.EVENT_DISCONNECTED | _ALIVE[0] | _ALIVE[1] | _ALIVE[2]
        )
        return self._monitor

    def read(self) -> None:
        """Take over what happened since."""
        while self._monitor is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event in _ALIVE:
                self.again_at = None
                continue
            if event == zmq.EVENT_DISCONNECTED:
                self.again_at = time.monotonic() + self._again_seconds
                self._note_cut()
                continue
            self._failed = True
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._tell(
                    "the publisher does not allow this key: add it to its publish.curve_allowed_clients"
                )
            elif self._encrypted:
                self._tell(
                    "the handshake failed: the server key is not the publisher's, or it does not encrypt"
                )
            else:
                self._tell("the handshake failed: the publisher may be encrypted, give its server key")

    def heard(self) -> None:
        """All is well: a message came."""
        self.reason = ""
        self._again_seconds = AGAIN_SECONDS

    def connect_again(self) -> None:
        """Connect where ZeroMQ has given up, once it is time; to be called when all was read."""
        if self.again_at is None or time.monotonic() < self.again_at or self._socket is None:
            return
        self.again_at = None
        self._again_seconds = min(2 * self._again_seconds, AGAIN_MAX_SECONDS)
        try:
            # A SUB socket connects to an address once; the connection that has ended still counts.
            self._socket.disconnect(self._address)
        except zmq.ZMQError as error:
            if error.errno != errno.ENOENT:
                raise
        self._socket.connect(self._address)

    def close(self) -> None:
        """Free the monitor."""
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)

    def _note_cut(self) -> None:
        """ZeroMQ does not say why a connection ended; one that ends again and again is told of."""
        if self._failed:
            self._failed = False
            return
        now = time.monotonic()
        self._cuts.append(now)
        if len(self._cuts) == CUTS and now - self._cuts[0] < REMIND_SECONDS:
            self._tell(
                f"the connection ended {CUTS} times within a minute: a part of a message is larger than "
                f"max_message_bytes ({self._max_message_bytes}), or the publisher has no room for this "
                "reader (the limits are in docs/wire.md), or the network fails"
            )

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        self.reason = reason
        if now - self._logged.get(reason, -REMIND_SECONDS) >= REMIND_SECONDS:
            self._logged[reason] = now
            logger.warning("%s: %s", self._address, reason)
