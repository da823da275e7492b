"""Servers that misbehave by script: they accept and say nothing, drip bytes, talk garbage, break off.

Also a well-behaved HTTP file server (with ranges) and an MJPEG camera, because these are as small. One
asyncio loop in a thread of its own; a context manager; nothing installed.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """Runs `script` for each connection on a free port of loopback; at the end of a script it hangs up."""

    def __init__(self, script: Script) -> None:
        self.port = 0
        self.num_connections = 0
        self._script = script
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._door: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the scripted server does not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the scripted server does not stop"

    def url(self, scheme: str, path: str = "/stream", *, login: str = "") -> str:
        """Return the URL of a path on this server; `login` is user:password."""
        return f"{scheme}://{login + '@' if login else ''}127.0.0.1:{self.port}{path}"

    @property
    def num_open(self) -> int:
        """Connections that are open, as far as the server knows."""
        return len(self._tasks)

    def power_off(self) -> None:
        """Break off every connection and listen no more."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def power_on(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._listen()
        self._ready.set()
        await self._stop.wait()
        await self._close()

    async def _listen(self) -> None:
        self._door = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._door.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._door is not None:
            self._door.close()
        self._door = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        try:
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client left, or the test is over: both end a connection, neither is a fault.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and say nothing until the client leaves."""
    while await reader.read(4096):
        pass


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with noise that is no protocol, and hang up."""
    await reader.read(4096)
    writer.write(bytes(range(256)) * 16)
    await writer.drain()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an answer a byte at a time, so that no single read ever times out."""
    while True:
        writer.write(b"R")
        await writer.drain()
        await asyncio.sleep(0.05)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and close at once."""


async def silent_after_options(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer RTSP's first request as a camera does, then nothing more."""
    request = await reader.readuntil(b"\r\n\r\n")
    sequence = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq"))
    writer.write(b"RTSP/1.0 200 OK\r\n" + sequence + b"\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n")
    await writer.drain()
    await asyncio.Event().wait()


def http_files(
    folder: Path, *, ranges: bool = True, break_after: int | None = None, stall: bool = False, login: str = ""
) -> Script:
    """Make a script that serves a folder over HTTP, with byte ranges.

    `break_after` ends (or with `stall` freezes) each answer after so many bytes of the body, although more
    were promised; `login` (user:password) asks for Basic authentication.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        fields = (line.partition(":") for line in lines[1:])
        headers = {key.strip().lower(): value.strip() for key, _, value in fields}
        wanted = "Basic " + base64.b64encode(login.encode()).decode()
        if login and headers.get("authorization") != wanted:
            writer.write(
                b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="test"\r\n'
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        path = folder / lines[0].split()[1].partition("?")[0].lstrip("/")
        if not path.is_file():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        body = path.read_bytes()
        start = 0
        asked = headers.get("range", "")
        if ranges and asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            status = f"206 Partial Content\r\nContent-Range: bytes {start}-{len(body) - 1}/{len(body)}"
        else:
            status = "200 OK"
        accept = "\r\nAccept-Ranges: bytes" if ranges else ""
        writer.write(
            f"HTTP/1.1 {status}{accept}\r\nContent-Length: {len(body) - start}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        end = len(body) if break_after is None else min(len(body), start + break_after)
        writer.write(body[start:end])
        await writer.drain()
        if stall and end < len(body):
            await asyncio.Event().wait()

    return serve


def mjpeg_camera(pictures: list[bytes], *, fps: float = 50.0) -> Script:
    """Make a script that sends JPEG `pictures` as a camera does over HTTP, and then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for picture in pictures:
            writer.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture))
            writer.write(picture + b"\r\n")
            await writer.drain()
            await asyncio.sleep(1 / fps)

    return serve
