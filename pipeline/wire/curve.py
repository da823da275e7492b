"""CURVE encryption of the mask stream: key files, and who may subscribe.

Key files are those of `zmq.auth`; ours are made with mode 0600 from the first byte on (zmq.auth makes 0644).
The publisher answers ZeroMQ's question "may this key come in?" (ZAP, RFC 27 of ZeroMQ) in its own thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from pipeline.errors import ConfigError

_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_ZAP_ADDRESS = "inproc://zeromq.zap.01"


def write_keys(folder: Path) -> list[Path]:
    """Make a key pair for a server and one for a client; return the files: public and secret of each.

    FileExistsError where one is there already: a key that is in use must not vanish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("server.key", "server.key_secret", "client.key", "client.key_secret")]
    for path in paths:
        if path.exists():
            raise FileExistsError(
                f"{path} exists already: choose another folder, or remove it if it is not in use"
            )
    for public_path, secret_path in (paths[:2], paths[2:]):
        public, secret = zmq.curve_keypair()
        _write(public_path, f'metadata\ncurve\n    public-key = "{public.decode()}"\n')
        _write(
            secret_path,
            f'metadata\ncurve\n    public-key = "{public.decode()}"\n    secret-key = "{secret.decode()}"\n',
        )
    return paths


def load_pair(path: str, name: str) -> tuple[bytes, bytes]:
    """Return (public, secret) of a secret key file; ConfigError naming `name` and the remedy otherwise."""
    public, secret = _load(path, name)
    if secret is None:
        raise ConfigError(f"{name}: {path} holds no secret key: give the file that ends in .key_secret")
    return public, secret


def public_key(text: str, name: str) -> bytes:
    """Return a public key, given as its 40 characters or as a key file; ConfigError otherwise."""
    if _KEY.fullmatch(text):
        return text.encode()
    return _load(text, name)[0]


class Gate:
    """Lets clients in by their public key; belongs to the thread of the server's socket.

    `socket` is polled by the owner, who calls `answer()` when it is readable.
    """

    def __init__(
        self,
        server: zmq.Socket[bytes],
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        secret_key_file: str,
        allowed: Sequence[str],
    ) -> None:
        name = "publish.curve_secret_key_file"
        server.curve_publickey, server.curve_secretkey = load_pair(secret_key_file, name)
        server.curve_server = True
        self._allowed = {z85.decode(public_key(each, "publish.curve_allowed_clients")) for each in allowed}
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ADDRESS)

    def answer(self) -> None:
        """Answer one question, if there is one."""
        try:
            version, request, _domain, _address, _identity, mechanism, *credentials = (
                self.socket.recv_multipart(zmq.NOBLOCK)
            )
        except zmq.Again:
            return
        known = not self._allowed or (len(credentials) == 1 and credentials[0] in self._allowed)
        welcome = mechanism == b"CURVE" and known
        code, text = (b"200", b"OK") if welcome else (b"400", b"this key is not allowed")
        self.socket.send_multipart([version, request, code, text, b"", b""])

    def close(self) -> None:
        """Free the socket."""
        self.socket.close(linger=0)


def secure_client(socket: zmq.Socket[bytes], *, server_key: str, client_key_file: str | None) -> None:
    """Encrypt a client's socket; without a key file it gets a new pair, for servers that let all in."""
    socket.curve_serverkey = public_key(server_key, "server key")
    pair = zmq.curve_keypair() if client_key_file is None else load_pair(client_key_file, "client key file")
    socket.curve_publickey, socket.curve_secretkey = pair


def _load(path: str, name: str) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError):
        raise ConfigError(
            f"{name}: {path!r} is neither a key of 40 characters nor a readable key file: "
            "make keys with `python -m pipeline keys DIR`"
        ) from None


def _write(path: Path, text: str) -> None:
    """Write a new file that only its owner can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
