"""Shows the overlay of each source in a window of its own.

OpenCV's Qt and GTK windows end the whole process where the display does not answer or goes away (SIGABRT,
exit), so that nothing can be caught: the windows have a process of their own (`pipeline.sinks.windows`).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

import cv2

from pipeline.errors import OutputError
from pipeline.sinks.overlay import Painter
from pipeline.sinks.viewer import Viewer
from pipeline.types import End, FrameResult, Gap, SourceState

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""After a fault windows are tried so often."""
_OPEN_SECONDS = 30.0
ANSWER_SECONDS = 10.0
"""A display that has not shown a picture for so long does not answer."""
_INSTEAD = "use --record FILE instead of --display"


class Display:
    """Sink that shows each source's newest frame in its first revision; the least delay counts here.

    q, Escape or closing the last open window calls `on_quit` once; closing one of several hides that
    source. Raises OutputError when made, before any frame is read, where no window can be opened. When the
    display goes away later, `write` raises OutputError until windows could be opened again, tried every
    `retry_seconds`. `painter` is shared with other sinks, or made here with `note` as its remark.
    """

    def __init__(
        self,
        *,
        on_quit: Callable[[], None],
        note: str | None = None,
        painter: Painter | None = None,
        retry_seconds: float = RETRY_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        check_display()
        self._on_quit = on_quit
        self._painter = painter or Painter(note=note)
        self._retry_seconds = retry_seconds
        self._answer_seconds = answer_seconds
        self._next_try = 0.0
        self._shown: set[str] = set()
        self._hidden: set[str] = set()
        self._last_index: dict[str, int] = {}
        self._quit = False
        self._fault = ""
        self._viewer: Viewer | None = Viewer()
        if not self._viewer.wait_until_ready(_OPEN_SECONDS):
            raise OutputError(self._give_up())

    def start(self) -> None:
        """Nothing to do: windows open with the first frame, when its size is known."""

    def write(self, result: FrameResult) -> None:
        """Show the frame, unless a revision of it or of a later one was shown already.

        Raises OutputError, with the remedy, while there is no display.
        """
        source, index = result.source, result.frame.index
        if self._quit or source in self._hidden or index <= self._last_index.get(source, -1):
            self.poll()
            return
        self._last_index[source] = index
        viewer = self._working_viewer()
        viewer.show(source, source, self._painter(result))
        self._shown.add(source)
        self.poll()
        if viewer.seconds_silent > self._answer_seconds:
            raise OutputError(f"the display {_name()} does not answer: check it, or {_INSTEAD}")

    def gap(self, gap: Gap) -> None:
        """The last picture stays until the next frame comes."""
        self.poll()

    def state(self, source: str, state: SourceState) -> None:
        """Say in the title what a source is doing."""
        if self._viewer is not None and source in self._shown:
            self._viewer.show(source, source if state == "live" else f"{source} ({state})")
        self.poll()

    def end(self, end: End) -> None:
        """The last picture stays until `close`, and the title says that it is the last one."""
        self.state(end.source, "ended")

    def poll(self) -> None:
        """Take keys and closed windows."""
        if self._viewer is None:
            return
        for what, *sources in self._viewer.events():
            if what == "quit":
                self._ask_to_quit()
            else:
                self._hidden.update(sources)
                logger.info("%s: its window was closed", *sources)

    def close(self) -> None:
        """Close the windows; may be called again."""
        self._quit = True
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            viewer.close()

    def _working_viewer(self) -> Viewer:
        """Return the windows' process, perhaps a new one; OutputError while there is none that works."""
        if self._viewer is None and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + _OPEN_SECONDS
            self._viewer = Viewer()
        if self._viewer is None:
            raise OutputError(self._fault)
        self.poll()
        late = not self._viewer.ready and time.monotonic() >= self._next_try
        if self._viewer.ended or late:
            raise OutputError(self._give_up())
        if not self._viewer.ready:
            raise OutputError(self._fault)
        return self._viewer

    def _give_up(self) -> str:
        """Let go of the windows' process; return what to tell."""
        assert self._viewer is not None
        viewer, self._viewer = self._viewer, None
        self._next_try = time.monotonic() + self._retry_seconds
        if viewer.ended:
            verb = "has gone away" if viewer.ready else "cannot be opened"
            self._fault = (
                f"the display {_name()} {verb} ({viewer.complaint}): check that it is running and lets you "
                f"in (DISPLAY, XAUTHORITY), or {_INSTEAD}"
            )
        else:
            self._fault = f"the display {_name()} does not answer: check it, or {_INSTEAD}"
        viewer.close()
        return self._fault

    def _ask_to_quit(self) -> None:
        if not self._quit:
            self._quit = True
            self._on_quit()


def check_display() -> None:
    """Raise OutputError, with the remedy, where it can be told at once that no window can be opened."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise OutputError(
            "no display: neither DISPLAY nor WAYLAND_DISPLAY is set. Run it in a desktop session (over ssh: "
            f"ssh -X), or {_INSTEAD}"
        )
    if _framework() == "NONE":
        raise OutputError(
            "this OpenCV was built without windows (opencv-python-headless): pip uninstall it and "
            f"pip install --force-reinstall opencv-python, or {_INSTEAD}"
        )


def _name() -> str:
    return os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "of this machine"


def _framework() -> str:
    """Return the name of OpenCV's window system, "NONE" without one."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return value.strip() or "UNKNOWN"
    return "UNKNOWN"
