"""Cameras that fail by script: real H.264 and H.265 over RTSP, one act after another."""

from __future__ import annotations

import pytest
from support.acts import steady
from support.coded import Codec
from support.fault_server import FaultServer
from support.video import read, read_number


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_camera_without_a_fault_is_read_picture_by_picture(codec: Codec, transport: str) -> None:
    with FaultServer(steady(codec, fps=50)) as camera:
        result = read(camera.rtsp, rtsp_transport=transport, max_frames=40)
    assert [read_number(frame.image) for frame in result.frames] == list(range(40))
    assert result.ledger.packet_errors == 0
    assert result.gaps == []
    assert result.end.reason == "max_frames"
