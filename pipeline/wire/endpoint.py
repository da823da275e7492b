"""Checks of ZeroMQ addresses, and what to do about one that cannot be used."""

from __future__ import annotations

import errno
import os
import re
import socket as sockets
import stat

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


def check_remote(address: str) -> None:
    """AddressError where the port of an address to connect to is none: ZeroMQ takes it and stays silent."""
    found = re.fullmatch(r"tcp://.+:([0-9]+)", address)
    if found and not 0 < int(found[1][:6]) < 65536:
        raise AddressError(
            f"address {address!r}: port {found[1]} is not in 1..65535: write tcp://HOST:PORT, "
            "e.g. tcp://127.0.0.1:5555"
        )


def check_ipc_free(address: str) -> None:
    """AddressError where an ipc:// path is taken: libzmq deletes whatever stands there, then binds.

    A socket that nobody listens to any more was left by a process that was killed, and may go.
    """
    path = address.removeprefix("ipc://")
    # "@name" is no file (Linux), "*" any free path.
    if not address.startswith("ipc://") or path.startswith("@") or path == "*":
        return
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # nothing there, or bind says why it cannot be reached
    if not stat.S_ISSOCK(mode):
        raise AddressError(
            f"publish.address {address}: {path} exists and is no socket; it would be deleted: "
            "choose another path, or remove it yourself"
        )
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # somebody listens, with a full queue
        except OSError as error:
            raise AddressError(
                f"publish.address {address}: a socket is there that is not ours ({error.strerror or error}): "
                "choose another path, or remove it yourself"
            ) from None
    raise AddressError(
        f"publish.address {address}: is in use by another program: stop that one or choose another path"
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
