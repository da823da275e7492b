"""The window, under a real X server, in a process of its own: OpenCV aborts where something is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from support.results import make_result
from support.xvfb import KEY_ESCAPE, XServer, running_xvfb, wait_until, xvfb_process

from pipeline.errors import OutputError
from pipeline.health import Health
from pipeline.sinks.display import Display, check_display
from pipeline.sinks.guard import GuardedSink
from pipeline.sinks.overlay import track_colour

ROOT = Path(__file__).parents[3]
NUM_STARTS = 6
BACKGROUND = (200, 40, 90)


@pytest.fixture(scope="module")
def x_server() -> Iterator[XServer]:
    """Return a running Xvfb."""
    with running_xvfb() as server:
        yield server


@contextmanager
def showing(server: XServer, *sources: str) -> Iterator[subprocess.Popen[str]]:
    """Run the process that shows these sources, until its windows are painted.

    Without a window manager Qt now and then never gets an event for its windows (in about one start of six,
    also with five lines of OpenCV alone): such a process is started again.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "DISPLAY": server.display, "PYTHONPATH": path}
    command = [sys.executable, "-m", "support.display_child", *sources]
    for _ in range(NUM_STARTS):
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until(lambda c=child: has_ended(c) or set(sources) <= set(server.windows()), "windows")
            with suppress(AssertionError):
                wait_until(lambda c=child: has_ended(c) or is_painted(server), "paint", timeout_seconds=4)
            if has_ended(child) or is_painted(server):
                yield child
                return
        finally:
            child.kill()
            child.communicate()
    raise AssertionError(f"no window was painted in {NUM_STARTS} starts")


def has_ended(child: subprocess.Popen[str]) -> bool:
    """Return whether the process is over."""
    return child.poll() is not None


def is_painted(server: XServer) -> bool:
    """Return whether the screen, black at first, shows a picture's background."""
    pixels = server.picture().reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - BACKGROUND).max(axis=1) <= 2).sum() > 60_000)


def finish(child: subprocess.Popen[str]) -> list[str]:
    """Return what the process said, after it ended well."""
    said, complaints = child.communicate(timeout=30)
    assert child.returncode == 0, complaints
    return said.split()


def test_the_overlay_is_on_the_screen(x_server: XServer) -> None:
    tint = 0.55 * np.array(BACKGROUND) + 0.45 * np.array(track_colour(1))
    with showing(x_server, "door"):

        def shown() -> bool:
            pixels = x_server.picture().reshape(-1, 3).astype(float)
            plain = (np.abs(pixels - BACKGROUND).max(axis=1) <= 2).sum()
            tinted = (np.abs(pixels - tint).max(axis=1) <= 2).sum()
            return bool(plain > 60_000 and tinted > 20_000)

        wait_until(shown, "400×300 pixels with a tinted mask of 200×150")


@pytest.mark.parametrize("keysym", [ord("q"), KEY_ESCAPE])
def test_q_and_escape_ask_the_stream_to_stop(x_server: XServer, keysym: int) -> None:
    with showing(x_server, "door") as child:
        window = x_server.windows()["door"]

        def press_again() -> bool:
            # A key that comes before Qt has taken the focus is lost: people press it again, too.
            x_server.press(window, keysym)
            return "door" not in x_server.windows()

        wait_until(press_again, "the window is gone")
        assert finish(child) == ["quit", "closed"]


def test_other_keys_do_nothing(x_server: XServer) -> None:
    with showing(x_server, "door") as child:
        window = x_server.windows()["door"]
        for keysym in b"xa ":
            x_server.press(window, keysym)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)


def test_closing_the_window_asks_the_stream_to_stop(x_server: XServer) -> None:
    with showing(x_server, "door") as child:
        x_server.close_window(x_server.windows()["door"])
        assert finish(child) == ["quit", "closed"]


def test_closing_one_of_two_windows_hides_that_source_only(x_server: XServer) -> None:
    with showing(x_server, "door", "yard") as child:
        windows = x_server.windows()
        x_server.close_window(windows["door"])
        wait_until(lambda: "door" not in visible(x_server), "the window is gone")
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        assert "yard" in visible(x_server)
        assert "door" not in visible(x_server)
        x_server.close_window(windows["yard"])
        assert finish(child) == ["quit", "closed"]


class Shown:
    """A guarded display that is shown one frame after the other."""

    def __init__(self, **options: float) -> None:
        self.asked_to_quit = 0
        self.display = Display(on_quit=self._quit, **options)
        self.health = Health("door")
        self.guard = GuardedSink(
            self.display, name="display", condition="display", health={"door": self.health}, steady_seconds=0
        )
        self._index = 0

    def _quit(self) -> None:
        self.asked_to_quit += 1

    @property
    def trouble(self) -> str:
        """Show one more frame; return what is wrong."""
        self.guard.write(make_result(self._index, source="door"))
        self._index += 1
        return " ".join(each.detail for each in self.health.troubles)


def test_a_display_that_dies_is_told_and_windows_come_back_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with xvfb_process() as (server, display):
        monkeypatch.setenv("DISPLAY", display)
        shown = Shown(retry_seconds=0.1)
        for _ in range(5):
            assert shown.trouble == ""
        server.kill()
        server.wait()
        wait_until(lambda: "has gone away" in shown.trouble, "the fault")
        assert "X11" in shown.trouble, "what the window system says"
        assert "--record FILE instead of --display" in shown.trouble
        wait_until(lambda: "cannot be opened" in shown.trouble, "a try that fails")
    with xvfb_process(display):
        wait_until(lambda: shown.trouble == "", "the fault is over")
        again = XServer(display)
        wait_until(lambda: shown.trouble == "" and "door" in again.windows(), "the window")
        again.disconnect()
        shown.guard.close()
    assert shown.asked_to_quit == 0, "the stream goes on"
    assert shown.health.counts == {"display": 1}
    assert shown.guard.report()["not_taken"] > 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_display_that_hangs_neither_blocks_the_stream_nor_its_end(
    x_server: XServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", x_server.display)
    shown = Shown(answer_seconds=0.2)
    assert shown.trouble == ""
    viewer = shown.display._viewer
    assert viewer is not None
    os.kill(viewer.process_id, signal.SIGSTOP)
    wait_until(lambda: "does not answer" in shown.trouble, "the fault")
    os.kill(viewer.process_id, signal.SIGCONT)
    wait_until(lambda: shown.trouble == "", "the fault is over")
    os.kill(viewer.process_id, signal.SIGSTOP)
    image = np.zeros((720, 1280, 3), dtype=np.uint8)
    for index in range(1000, 1004):  # more than the pipe holds
        shown.guard.write(make_result(index, source="door", image=image))
    shown.guard.close()
    assert viewer.ended


def visible(server: XServer) -> set[str]:
    """Return the titles of the windows that are there."""
    return set(server.windows())


def refuse(monkeypatch: pytest.MonkeyPatch, display: str | None) -> str:
    """Return why the window is refused with this DISPLAY."""
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if display is None:
        monkeypatch.delenv("DISPLAY", raising=False)
    else:
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(OutputError) as refused:
        Display(on_quit=lambda: None)
    return str(refused.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is Linux's")
def test_without_a_display_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refuse(monkeypatch, None)
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set" in message
    assert "--record FILE instead of --display" in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is Linux's")
def test_a_display_that_nobody_serves_does_not_abort_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1] - 6000
        message = refuse(monkeypatch, f"127.0.0.1:{number}")
    assert f"the display 127.0.0.1:{number} cannot be opened" in message
    assert "--record FILE instead of --display" in message


def test_a_display_that_works_is_accepted(x_server: XServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", x_server.display)
    display = Display(on_quit=lambda: None)
    display.close()
    display.close()


def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("cv2.getBuildInformation", lambda: "\n  GUI:                           NONE\n")
    with pytest.raises(OutputError, match="opencv-python-headless"):
        check_display()
