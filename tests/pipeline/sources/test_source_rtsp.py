"""RTSP against a real server process: reading, faults at the start, losing and finding again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rtsp_server import RtspServer, require_rtsp_server
from support.video import make_reading, read, read_number, reading, write_video
from support.wait import wait_until

from pipeline.errors import SourceDenied, SourceLost, SourceNotFound, SourceUnreachable
from pipeline.types import Frame

pytestmark = pytest.mark.rtsp


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=50)


@pytest.fixture(scope="module")
def server(clip: Path) -> Iterator[RtspServer]:
    with RtspServer(file=clip, live=True) as running:
        yield running


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    with RtspServer(live=True) as running:
        yield running


@pytest.fixture(scope="module", params=["basic", "digest"])
def guarded(request: pytest.FixtureRequest) -> Iterator[RtspServer]:
    with RtspServer(live=True, user="viewer", password="s3cret", digest=request.param == "digest") as running:
        yield running


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_served_file_is_read_whole_at_its_own_pace(server: RtspServer, transport: str) -> None:
    result = read(server.file_url, rtsp_transport=transport, reconnect=False)
    assert [read_number(frame.image) for frame in result.frames] == list(range(50))
    assert result.ledger.read == 50
    assert result.ledger.packet_errors == 0
    assert result.gaps == []
    assert result.end.reason == "end_of_file"
    seconds = (result.frames[-1].captured_monotonic_ns - result.frames[0].captured_monotonic_ns) / 1e9
    assert 1.5 < seconds < 4
    times = [frame.seconds for frame in result.frames]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(49 / 25, abs=0.05)
    assert result.source.live


def test_camera_is_live_and_its_cadence_holds(server: RtspServer) -> None:
    with reading(server.live_url, fps=10.0, max_frames=50) as running:
        assert running.source.live
        wait_until(lambda: running.source.state == "live", what="the camera is live")
        running.thread.join(timeout=20)
        assert running.end.reason == "max_frames"
    assert running.ledger.read == 50
    assert 19 <= len(running.frames) <= 21
    assert len(running.frames) + running.ledger.dropped["cadence"] == 50


def test_stop_ends_a_live_source_soon(server: RtspServer) -> None:
    with reading(server.live_url) as running:
        wait_until(lambda: running.ledger.read > 3, what="frames arrive")
        running.stop.set()
        assert wait_until(lambda: running.source.state == "ended", what="the source stops") < 1
        wait_until(lambda: running.end is not None, what="the end is there")
        assert running.end.reason == "stopped"


def test_right_login_is_let_in(guarded: RtspServer) -> None:
    assert len(read(guarded.live_url, max_frames=3).frames) == 3


@pytest.mark.parametrize("login", [("viewer", "wr0ng-s3cret"), ("", "")])
def test_wrong_login_is_denied_at_once_and_no_text_holds_it(
    guarded: RtspServer,
    login: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        running = make_reading(guarded.url("/live", user=login[0], password=login[1]))
        took = wait_until(lambda: running.run() or True, what="the refusal")
    assert isinstance(running.error, SourceDenied)
    assert took < 3
    said = "".join(traceback.format_exception(running.error)) + caplog.text + "".join(capfd.readouterr())
    assert "camera" in str(running.error)
    assert "password" in str(running.error)
    assert "s3cret" not in said
    assert "s3cret" not in repr(running.error.__cause__)


def test_wrong_path_is_not_tried_again(server: RtspServer) -> None:
    running = make_reading(server.url("/nothing", user="viewer", password="s3cret"))
    took = wait_until(lambda: running.run() or True, what="the refusal")
    assert isinstance(running.error, SourceNotFound)
    assert "/nothing" in str(running.error)
    assert "path" in str(running.error)
    assert "s3cret" not in str(running.error)
    assert took < 3


def test_refused_is_tried_until_the_connect_timeout() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"rtsp://viewer:s3cret@127.0.0.1:{unused.getsockname()[1]}/live"
        running = make_reading(url, connect_timeout_seconds=1.0)
        took = wait_until(lambda: running.run() or True, what="the source gives up")
    assert isinstance(running.error, SourceUnreachable)
    assert "connect_timeout_seconds = 1" in str(running.error)
    assert "source.wait" in str(running.error)
    assert "s3cret" not in "".join(traceback.format_exception(running.error))
    assert 0.3 < took < 3


def test_wait_goes_on_until_the_camera_is_there(camera: RtspServer) -> None:
    camera.kill()
    with reading(camera.live_url, connect_timeout_seconds=0.3, wait=True, max_frames=3) as running:
        assert running.source.state == "waiting"
        running.thread.join(timeout=1.0)
        assert running.thread.is_alive(), "gave up, although source.wait is set"
        camera.start()
        running.thread.join(timeout=15)
        assert running.end.reason == "max_frames"
    assert running.gaps == []
    assert running.ledger.reconnects == 0


def test_wait_can_be_stopped(camera: RtspServer) -> None:
    camera.kill()
    with reading(camera.live_url, wait=True) as running:
        wait_until(running.thread.is_alive, what="the thread runs")
        running.stop.set()
        assert wait_until(lambda: running.end is not None, what="the end") < 1
        assert running.end.reason == "stopped"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_killed_server_is_found_again_when_it_comes_back(camera: RtspServer, transport: str) -> None:
    with reading(camera.live_url, rtsp_transport=transport, read_timeout_seconds=2.0, fps=10.0) as running:
        for epoch in (1, 2):
            wait_until(lambda: running.source.state == "live", what="live")
            before = running.ledger.read
            wait_until(lambda seen=before: running.ledger.read > seen + 10, what="frames arrive")
            camera.kill()
            wait_until(lambda: running.source.state == "reconnecting", what="the loss is seen")
            camera.start()
            wait_until(lambda wanted=epoch: len(running.gaps) == wanted, what="it is back")
        wait_until(lambda: isinstance(running.items[-1], Frame), what="frames after the gap")
    assert [(gap.reason, gap.epoch) for gap in running.gaps] == [("reconnect", 1), ("reconnect", 2)]
    assert running.ledger.reconnects == 2
    indices = [frame.index for frame in running.frames]
    assert indices == sorted(set(indices))
    assert [frame.epoch for frame in running.frames] == sorted(frame.epoch for frame in running.frames)
    # The first frame after each loss is shown to the model, whatever the clock of the server says now.
    for position, item in enumerate(running.items):
        if item in running.gaps and position + 1 < len(running.items):
            following = running.items[position + 1]
            assert isinstance(following, Frame)
            assert following.epoch == item.epoch
            assert following.seconds < 1
    assert running.ledger.read == len(running.frames) + running.ledger.dropped["cadence"]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frozen_server_is_stalled_then_lost_in_time(camera: RtspServer, transport: str) -> None:
    with reading(camera.live_url, rtsp_transport=transport, read_timeout_seconds=2.0) as running:
        wait_until(lambda: running.ledger.read > 10, what="frames arrive")
        os.kill(camera.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: running.source.state == "stalled", what="stalled", timeout_seconds=4)
            took = wait_until(lambda: running.source.state == "reconnecting", what="lost", timeout_seconds=8)
            assert took < 3
        finally:
            os.kill(camera.pid, signal.SIGCONT)
        wait_until(lambda: running.source.state == "live", what="it is back")
    assert [gap.reason for gap in running.gaps] == ["reconnect"]


def test_gives_up_when_it_does_not_come_back(camera: RtspServer) -> None:
    with reading(camera.live_url, reconnect_seconds=1.5) as running:
        wait_until(lambda: running.ledger.read > 3, what="frames arrive")
        camera.kill()
        wait_until(lambda: running.error is not None, what="it gives up", timeout_seconds=8)
    assert isinstance(running.error, SourceLost)
    assert running.error.source == "camera"
    assert "reconnect_seconds = 1.5" in str(running.error)
    assert running.source.state == "ended"
    assert running.end is None


def test_without_reconnect_a_frozen_server_is_lost(camera: RtspServer) -> None:
    with reading(camera.live_url, reconnect=False, read_timeout_seconds=1.0) as running:
        wait_until(lambda: running.ledger.read > 3, what="frames arrive")
        os.kill(camera.pid, signal.SIGSTOP)
        wait_until(lambda: running.error is not None, what="it is lost", timeout_seconds=8)
    assert isinstance(running.error, SourceLost)
    assert "silent" in str(running.error.__cause__) or "timed out" in str(running.error.__cause__)


@pytest.mark.parametrize(("strict", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_missing_server_is_a_skip_that_names_the_packages_or_a_failure(
    monkeypatch: pytest.MonkeyPatch, strict: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("support.rtsp_server._fault", lambda: "no GStreamer")
    monkeypatch.setenv("FAIL_ON_SKIP", strict)
    with pytest.raises(outcome, match=r"gir1\.2-gst-rtsp-server"):
        require_rtsp_server()
