"""Checks of ZeroMQ addresses, and what to do about one that cannot be used."""

from __future__ import annotations

import errno
import re

import zmq

from pipeline.errors import AddressError

_ADDRESS = re.compile(r"tcp://(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5}|\*)|ipc://.+")
_LOOPBACK = re.compile(r"tcp://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):([0-9]{1,5}|\*)", re.IGNORECASE)


def check_address(address: str, *, encrypted: bool, allow_plaintext: bool) -> None:
    """AddressError where an address is none to bind, or is open to others without leave or encryption."""
    if not _ADDRESS.fullmatch(address):
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
            f"publish.address {address} can be reached from other machines and the stream is not encrypted: "
            "set publish.curve_secret_key_file (make keys with `python -m pipeline keys DIR`), "
            "or permit it with publish.allow_plaintext: true, or bind 127.0.0.1"
        )


def bind_remedy(error: zmq.ZMQError) -> str:
    """Say what is wrong and what to do about a bind that failed."""
    if error.errno == zmq.EADDRINUSE:
        return (
            "is in use by another program: stop that one or choose another port "
            "(--publish tcp://127.0.0.1:PORT; port * takes any free one)"
        )
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "this machine has no such address or interface: use 127.0.0.1 or one that `ip addr` lists"
    return f"cannot be bound ({error.strerror}): write tcp://HOST:PORT, e.g. tcp://127.0.0.1:5555"


def keep_alive(socket: zmq.Socket[bytes], address: str) -> None:
    """Let TCP notice a peer that is gone (after about 11 s), and allow IPv6 where the address is one."""
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 2)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.IPV6, int("[" in address))
