"""Damage stands at its own pictures: after a packet that cannot be decoded, up to the next key picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from support import scripted_server as scripts
from support.scripted_server import Script, ScriptedServer
from support.video import numbered_picture, read, read_number, reading
from support.wait import wait_until

GOP = 20


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Five groups of 20 pictures; the second one's second packet is no picture any more."""
    path = tmp_path / "broken.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=25, options={"bf": "0", "sc_threshold": "0", "tune": "zerolatency"}
        )
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 96, 160, "yuv420p", GOP
        packets = []
        for number in range(100):
            image = numbered_picture(number % 64, height=96, width=160)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += stream.encode(picture)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if number == GOP + 1:
                other = av.Packet(bytes(packet)[:4] + bytes(packet.size - 4))
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.stream = stream
                container.mux(other)
            else:
                container.mux(packet)
    return path


@pytest.mark.parametrize("skip", [False, True])
def test_damage_begins_at_the_lost_packet_and_ends_with_the_group(broken: Path, skip: bool) -> None:
    result = read(broken, skip_damaged=skip)
    ledger = result.ledger
    assert ledger.packet_errors > 0
    kept = {round(frame.seconds * 25): frame.damaged for frame in result.frames}
    good = set(range(100)) - set(range(GOP + 1, 2 * GOP))
    assert {number for number, damaged in kept.items() if not damaged} == good
    if skip:
        assert not any(kept.values())
        assert ledger.dropped["decode"] == ledger.damaged > 10
    assert all(
        read_number(frame.image) == round(frame.seconds * 25) % 64
        for frame in result.frames
        if not frame.damaged
    )


def test_a_camera_that_was_live_is_no_file_because_it_serves_a_still_picture() -> None:
    """An MJPEG camera that shows a JPEG while it boots."""
    import cv2

    pictures = [
        cv2.imencode(".jpg", numbered_picture(number % 64, height=96, width=160))[1].tobytes()
        for number in range(30)
    ]
    count = 0
    live = scripts.mjpeg_camera(pictures, fps=50.0)

    async def serve(reader: Any, writer: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            await reader.readuntil(b"\r\n\r\n")
            head = "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
            writer.write((head % len(pictures[0])).encode() + pictures[0])
            await writer.drain()
            return
        await live(reader, writer)

    script: Script = serve
    with ScriptedServer(script) as server, reading(server.url("http"), read_timeout_seconds=1.0) as running:
        wait_until(lambda: count >= 4, what="it is opened again", timeout_seconds=30)
        assert running.end is None
