"""A reader that does not keep to the rules: ZMTP 3.0 on a bare TCP socket (rfc.zeromq.org/spec/23)."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class RawReader:
    """A connection to a plain publisher; `silent` leaves the handshake out."""

    def __init__(self, address: str, *, silent: bool = False) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        if not silent:
            self._socket.sendall(_GREETING)
            ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
            self._socket.sendall(bytes([4, len(ready)]) + ready)
            self._receive(len(_GREETING))
            self._receive(self._receive(2)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def send(self, *frames: bytes, more: bool = False) -> None:
        """Send frames, all but the last with more to come; with `more` the last one, too."""
        wire = b""
        for number, frame in enumerate(frames):
            flag = int(more or number < len(frames) - 1)
            size = bytes([len(frame)]) if len(frame) < 256 else struct.pack(">Q", len(frame))
            wire += bytes([flag | (0 if len(frame) < 256 else 2)]) + size + frame
        self._socket.sendall(wire)

    def subscribe(self, *topics: bytes) -> None:
        """Send subscriptions."""
        for topic in topics:
            self.send(b"\1" + topic)

    def _receive(self, number: int) -> bytes:
        data = b""
        while len(data) < number:
            more = self._socket.recv(number - len(data))
            if not more:
                raise ConnectionResetError("the publisher ended the connection in the handshake")
            data += more
        return data

    def is_closed(self) -> bool:
        """Whether the other side has ended the connection, by now; what it sent is thrown away."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(10)
        return True
