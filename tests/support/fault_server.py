"""A scripted RTSP camera that can fail in every way: real H.264 and H.265 over TCP and over UDP.

`FaultServer(first, second, …)` performs an `Act` for each connection, the last one for all that follow:

    with FaultServer(answers(404), answers(404), steady()) as camera, reading(camera.rtsp) as running: ...

`perform` changes what comes next, `power_off` and `power_on` are a power cut. One asyncio loop in a thread,
nothing installed. RTSP is RFC 2326 as far as a player needs it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
from collections import Counter
from urllib.parse import urlsplit

from support.acts import Act
from support.rtp import RtpStream, session_description
from support.scripted_server import ScriptedServer

_SESSION = "Session: 5EED;timeout=60"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    461: "Unsupported Transport",
    503: "Service Unavailable",
}
_DRIP_SECONDS = 0.05
_LINGER_NOT = struct.pack("ii", 1, 0)


class FaultServer(ScriptedServer):
    """Performs acts on a free port of loopback; a context manager."""

    def __init__(self, *acts: Act) -> None:
        super().__init__(self._converse)
        self.num_played = 0
        """Connections that came as far as PLAY."""
        self.num_pictures = 0
        """Pictures sent, of all connections."""
        self.num_pictures_of: Counter[str] = Counter()
        """Pictures sent, by the path that was asked for: the camera is the same at every path."""
        self.perform(*acts)

    @property
    def rtsp(self) -> str:
        """Where the camera is."""
        return self.url("rtsp")

    def perform(self, *acts: Act) -> None:
        """Perform these for the next connections, the last for all that follow."""
        assert acts, "a camera does something"
        self._acts = acts

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        act, *rest = self._acts
        if rest:
            self._acts = tuple(rest)
        if act.script is not None:
            await act.script(reader, writer)
            return
        session = _Session(self, act, reader, writer)
        try:
            await session.converse()
        finally:
            session.close()


class _Session:
    """One connection: it answers requests and, from PLAY on, sends pictures."""

    def __init__(
        self, server: FaultServer, act: Act, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._act = act
        self._reader = reader
        self._writer = writer
        self._udp: list[tuple[socket.socket, tuple[str, int]]] = []
        """RTP and RTCP, where the player asked for UDP."""
        self._player: asyncio.Task[None] | None = None
        self._path = ""

    async def converse(self) -> None:
        """Answer until the player leaves or the act is over."""
        while True:
            asked = asyncio.ensure_future(self._request())
            waiting = {asked} if self._player is None else {asked, self._player}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
            if self._player is not None and self._player.done():
                self._player.result()
                return
            method, url, headers = asked.result()
            if method == "DESCRIBE":
                self._path = urlsplit(url).path
            if not self._answer(method, headers):
                return
            await self._writer.drain()

    def close(self) -> None:
        """Stop sending; the connection itself belongs to the server."""
        if self._player is not None and not self._player.cancel() and not self._player.cancelled():
            self._player.exception()  # looked at: the player that left it broke is no fault
        for each, _ in self._udp:
            each.close()

    async def _request(self) -> tuple[str, str, dict[str, str]]:
        """The next request's method, URL and headers; what the player sends over RTCP is passed over."""
        while (first := await self._reader.readexactly(1)) == b"$":
            size = int.from_bytes((await self._reader.readexactly(3))[1:], "big")
            await self._reader.readexactly(size)
        head = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in head[1:])
        headers = {key.strip().lower(): value.strip() for key, _, value in fields}
        await self._reader.readexactly(int(headers.get("content-length", "0")))
        method, url, *_ = head[0].split()
        return method, url, headers

    def _answer(self, method: str, headers: dict[str, str]) -> bool:
        """Answer a request; whether the connection goes on."""
        act, body, more = self._act, "", [_SESSION]
        status = 200
        if method == "OPTIONS":
            more = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"]
        elif act.login and headers.get("authorization") != _basic(act.login):
            status, more = 401, ['WWW-Authenticate: Basic realm="camera"']
        elif method == "DESCRIBE":
            status = act.status
            if status == 200:
                body = session_description(act.announced, parameter_sets=act.parameter_sets)
            more = ["Content-Type: application/sdp", f"Content-Base: {self._server.rtsp}/"]
        elif method == "SETUP":
            status, transport = self._set_up(headers.get("transport", ""))
            more.append(f"Transport: {transport}")
        lines = [f"RTSP/1.0 {status} {_REASONS[status]}", f"CSeq: {headers.get('cseq', '0')}", *more]
        lines += [f"Content-Length: {len(body)}"] if body else []
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        if method == "PLAY":
            self._server.num_played += 1
            self._player = asyncio.ensure_future(self._play())
        return method != "TEARDOWN"

    def _set_up(self, transport: str) -> tuple[int, str]:
        """Agree on how packets travel; (status, Transport)."""
        if "TCP" in transport:
            return 200, "RTP/AVP/TCP;unicast;interleaved=0-1"
        port = transport.partition("client_port=")[2].partition(";")[0].partition("-")[0]
        if not port:
            return 461, transport
        for offset in (0, 1):
            each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
            self._udp.append((each, ("127.0.0.1", int(port) + offset)))
        ours = "-".join(str(each.getsockname()[1]) for each, _ in self._udp)
        return 200, f"RTP/AVP/UDP;unicast;client_port={port}-{int(port) + 1};server_port={ours}"

    async def _play(self) -> None:
        """Send pictures in time; at the end say goodbye, or break off."""
        act, loop = self._act, asyncio.get_running_loop()
        rtp = RtpStream(max_payload=act.max_payload)
        begun = loop.time()
        number, drip = 0, False
        while number != act.last:
            if act.stall is not None and number == act.stall[0]:
                await asyncio.sleep(act.stall[1])
                drip = act.drip
            seconds = number / act.fps
            await asyncio.sleep(begun + seconds - loop.time())
            packets = act.network(rtp.packets(act.pictures(number), act.clock(seconds)))
            await self._send(packets, drip=drip)
            number += 1
            self._server.num_pictures += 1
            self._server.num_pictures_of[self._path] += 1
        if act.cut_off:
            packets = rtp.packets(act.pictures(number), number / act.fps)
            await self._send(packets[: len(packets) // 2], drip=False)
            self._break_off()
            return
        self._give([rtp.goodbye()], channel=1)
        await self._writer.drain()

    async def _send(self, packets: list[bytes], *, drip: bool) -> None:
        if not drip:
            self._give(packets, channel=0)
        for byte in b"".join(_interleaved(each, 0) for each in packets) if drip else b"":
            self._writer.write(bytes([byte]))
            await self._writer.drain()
            await asyncio.sleep(_DRIP_SECONDS)
        await self._writer.drain()

    def _give(self, packets: list[bytes], *, channel: int) -> None:
        """Send packets of RTP (channel 0) or RTCP (1), over TCP in one write."""
        if not self._udp:
            self._writer.write(b"".join(_interleaved(each, channel) for each in packets))
            return
        sender, address = self._udp[channel]
        for packet in packets:
            # A full buffer loses packets as networks do; a player that left says so by ICMP.
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                sender.sendto(packet, address)

    def _break_off(self) -> None:
        """End the connection as a crash does."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._writer.transport.abort()


def _interleaved(packet: bytes, channel: int) -> bytes:
    """A packet between RTSP's answers: RFC 2326 section 10.12."""
    return bytes([0x24, channel]) + len(packet).to_bytes(2, "big") + packet


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()
