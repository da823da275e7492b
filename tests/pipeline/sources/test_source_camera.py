"""A scripted RTSP camera: read without a fault, and faults that take more than a story to tell."""

from __future__ import annotations

import os

import pytest
from support import acts
from support.acts import steady
from support.coded import Codec
from support.fault_server import FaultServer
from support.leftovers import assert_accounted, descriptors, readers, resident_mb
from support.video import make_reading, read, read_number, reading
from support.wait import wait_until

from pipeline.errors import SourceLost, SourceUnreachable, SourceUnreadable

NUM_RECONNECTS = int(os.environ.get("RECONNECTS", "50"))
"""`make soak` asks for 1,000."""


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_packets_without_a_picture_are_told_from_silence(codec: Codec) -> None:
    with FaultServer(acts.without_parameter_sets(codec=codec)) as camera:
        running = make_reading(camera.rtsp, connect_timeout_seconds=3.0)
        running.run()
    assert isinstance(running.error, SourceUnreachable)
    assert "sends no picture that can be decoded" in str(running.error)
    assert "silent" not in str(running.error)
    assert running.ledger.read == 0


def test_a_camera_whose_codec_changes_is_lost_where_it_may_not_be_opened_again() -> None:
    with FaultServer(acts.becomes_h265(10)) as camera:
        running = make_reading(camera.rtsp, reconnect=False, read_timeout_seconds=1.0)
        running.run()
    assert isinstance(running.error, SourceLost)
    assert "sends no picture that can be decoded" in str(running.error.__cause__)
    assert running.source.state == "ended"


def test_waiting_mends_no_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.ffmpeg.gpu_decoding_fault", lambda: "no NVIDIA GPU")
    with FaultServer(steady()) as camera:
        running = make_reading(camera.rtsp, wait=True, decoder="cuda")
        running.run()
        assert camera.num_connections == 0
    assert isinstance(running.error, SourceUnreadable)
    assert "source.decoder=cuda" in str(running.error)


@pytest.mark.timeout(60 + 2 * NUM_RECONNECTS)
def test_a_storm_of_reconnects_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.backoff.LAST_SECONDS", 0.05)
    monkeypatch.setattr("pipeline.sources.backoff.FIRST_SECONDS", 0.05)

    def own_mb() -> float:
        """Without the pictures that this test keeps: they are no leak."""
        return resident_mb() - sum(frame.image.nbytes for frame in running.frames) / 2**20

    with FaultServer(acts.closes(3)) as camera, reading(camera.rtsp, fps=0.1) as running:
        wait_until(lambda: running.ledger.reconnects >= 10, what="ten reconnects", timeout_seconds=30)
        before, memory = descriptors(), own_mb()
        wait_until(
            lambda: running.ledger.reconnects >= NUM_RECONNECTS,
            what=f"{NUM_RECONNECTS} reconnects",
            timeout_seconds=30 + NUM_RECONNECTS,
        )
        # A connection more or less may be open at this moment: two sockets of the camera, one of the source.
        assert descriptors() <= before + 3
        assert len(readers()) <= 1
        assert own_mb() - memory < 5
    assert_accounted(running)
    assert {gap.reason for gap in running.gaps} == {"reconnect"}
    assert len(running.gaps) == running.ledger.reconnects


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_camera_without_a_fault_is_read_picture_by_picture(codec: Codec, transport: str) -> None:
    with FaultServer(steady(codec, fps=50)) as camera:
        result = read(camera.rtsp, rtsp_transport=transport, max_frames=40)
    assert [read_number(frame.image) for frame in result.frames] == list(range(40))
    assert result.ledger.packet_errors == 0
    assert result.gaps == []
    assert result.end is not None
    assert result.end.reason == "max_frames"
