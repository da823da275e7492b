"""HTTP sources, and servers that misbehave by script."""

from __future__ import annotations

import itertools
import logging
import time
import traceback
from pathlib import Path

import cv2
import pytest
from support import scripted_server as scripts
from support.scripted_server import Script, ScriptedServer
from support.video import make_reading, numbered_picture, read, read_number, reading, write_video
from support.wait import wait_until

from pipeline.errors import SourceDenied, SourceLost, SourceNotFound, SourceUnreachable, SourceUnreadable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("www")
    write_video(folder / "clip.mp4", num_frames=60)
    write_video(folder / "fast.mp4", num_frames=60, container_options={"movflags": "faststart"})
    write_video(folder / "clip.ts", num_frames=60)
    (folder / "notes.mp4").write_text("these are notes\n" * 100)
    return folder


@pytest.mark.parametrize(
    ("name", "ranges"), [("clip.mp4", True), ("fast.mp4", True), ("fast.mp4", False), ("clip.ts", True)]
)
def test_file_over_http_is_read_whole_and_is_not_live(folder: Path, name: str, ranges: bool) -> None:
    with ScriptedServer(scripts.http_files(folder, ranges=ranges)) as server:
        result = read(server.url("http", f"/{name}"))
    assert [read_number(frame.image) for frame in result.frames] == list(range(60))
    assert result.end.reason == "end_of_file"
    assert not result.source.live
    assert result.gaps == []


def test_http_login(folder: Path) -> None:
    with ScriptedServer(scripts.http_files(folder, login="me:s3cret")) as server:
        assert len(read(server.url("http", "/fast.mp4", login="me:s3cret")).frames) == 60
        password = "".join(reversed("gn0rw"))  # not in the source lines that a traceback quotes
        denied = make_reading(server.url("http", "/fast.mp4", login=f"me:{password}"))
        denied.run()
    assert isinstance(denied.error, SourceDenied)
    assert password not in "".join(traceback.format_exception(denied.error))


def test_http_path_that_is_not_there(folder: Path) -> None:
    with ScriptedServer(scripts.http_files(folder)) as server:
        missing = make_reading(server.url("http", "/none.mp4"))
        missing.run()
    assert isinstance(missing.error, SourceNotFound)
    assert "/none.mp4" in str(missing.error)
    assert server.num_connections == 1


def test_text_over_http_is_unreadable_at_once(folder: Path) -> None:
    with ScriptedServer(scripts.http_files(folder)) as server, pytest.raises(SourceUnreadable, match="notes"):
        read(server.url("http", "/notes.mp4"))


@pytest.mark.parametrize("stall", [False, True])
def test_file_that_breaks_off_over_http_is_lost(folder: Path, stall: bool) -> None:
    size = (folder / "fast.mp4").stat().st_size
    script = scripts.http_files(folder, ranges=False, break_after=size * 3 // 4, stall=stall)
    with ScriptedServer(script) as server:
        running = make_reading(server.url("http", "/fast.mp4"), read_timeout_seconds=1.0)
        took = wait_until(lambda: running.run() or True, what="it ends")
    assert took < 6
    assert 0 < running.ledger.read < 60
    assert [read_number(frame.image) for frame in running.frames] == list(range(running.ledger.read))
    assert isinstance(running.error, SourceLost)
    assert f"lost after {running.ledger.read} frames" in str(running.error)
    assert running.end is None


def test_mjpeg_camera_over_http_is_live_and_found_again() -> None:
    pictures = [
        cv2.imencode(".jpg", cv2.cvtColor(numbered_picture(number), cv2.COLOR_RGB2BGR))[1].tobytes()
        for number in range(20)
    ]
    with ScriptedServer(scripts.mjpeg_camera(pictures)) as server:
        with reading(server.url("http")) as running:
            wait_until(lambda: len(running.gaps) >= 2, what="it is opened again, twice")
            assert running.source.live
        assert server.num_connections >= 3
    assert running.ledger.reconnects >= 2
    assert {gap.reason for gap in running.gaps} == {"reconnect"}
    first = [frame for frame in running.frames if frame.epoch == 0]
    assert [read_number(frame.image) for frame in first] == list(range(len(first)))
    assert len(first) >= 18


@pytest.mark.parametrize(
    ("scheme", "script"),
    [
        *itertools.product(
            ("rtsp", "http"), (scripts.silent, scripts.drip, scripts.garbage, scripts.hang_up)
        ),
        ("rtsp", scripts.silent_after_options),
    ],
)
def test_server_without_video_is_given_up_in_time(scheme: str, script: Script) -> None:
    with ScriptedServer(script) as server:
        running = make_reading(
            server.url(scheme, login="me:s3cret"), connect_timeout_seconds=1.0, read_timeout_seconds=1.0
        )
        start = time.monotonic()
        running.run()
        took = time.monotonic() - start
    assert isinstance(running.error, (SourceUnreachable, SourceUnreadable))
    assert took < 4
    assert running.ledger.read == 0
    said = "".join(traceback.format_exception(running.error))
    assert "127.0.0.1" in str(running.error)
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://user:my {}@127.0.0.1:9/x",
        "rtsp://user:554/{}@127.0.0.1:9/x",
        "http://user:1/{}@127.0.0.1:9/x?loginpas={}",
        "rtsp:/user:my {}@127.0.0.1",
        "user:my {}@127.0.0.1",
        "ftp://user:my {}@127.0.0.1/x",
    ],
)
def test_a_password_that_no_url_may_hold_is_in_no_text(url: str, caplog: pytest.LogCaptureFixture) -> None:
    password = "".join(reversed("gn0rw"))  # not in the source lines that a traceback quotes
    url = url.replace("{}", password)
    with caplog.at_level(logging.DEBUG):
        try:
            running = make_reading(url, connect_timeout_seconds=0.5)
            running.run()
            error = running.error
        except SourceNotFound as refused:
            error = refused
    assert error is not None
    assert "***@127.0.0.1" in str(error)
    assert password not in "".join(traceback.format_exception(error)) + repr(error.__cause__) + caplog.text


def test_stop_while_connecting_is_heard_between_attempts() -> None:
    with ScriptedServer(scripts.hang_up) as server, reading(server.url("rtsp"), wait=True) as running:
        wait_until(lambda: server.num_connections >= 2, what="it tries again")
        running.stop.set()
        assert wait_until(lambda: running.end is not None, what="the end") < 1
        assert running.end.reason == "stopped"


def test_stop_does_not_wait_for_a_file_that_stalls_over_http(folder: Path) -> None:
    size = (folder / "fast.mp4").stat().st_size
    script = scripts.http_files(folder, ranges=False, break_after=size * 3 // 4, stall=True)
    with (
        ScriptedServer(script) as server,
        reading(server.url("http", "/fast.mp4"), read_timeout_seconds=60.0) as running,
    ):
        wait_until(lambda: running.ledger.read > 10, what="frames arrive")
        running.stop.set()
        assert wait_until(lambda: running.end is not None, what="the end") <= 5
    assert running.end.reason == "stopped"
    assert running.ledger.read == len(running.frames)
