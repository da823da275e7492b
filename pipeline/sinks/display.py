"""Shows the overlay of each source in a window of its own.

OpenCV's Qt and GTK windows abort the whole process (SIGABRT) where no display answers, so that nothing can
be caught: a short-lived process of our own tries to open a window first.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.sinks.overlay import Painter
from pipeline.types import End, FrameResult, Gap, SourceState

logger = logging.getLogger(__name__)

_LARGEST_FIRST_SIZE = (1280, 720)
_KEY_ESCAPE = 27
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
_PROBE_SECONDS = 30.0
_INSTEAD = "use --record FILE instead of --display"


class Display:
    """Sink that shows each frame in its first revision; the least delay counts here.

    q, Escape or closing the last open window calls `on_quit` once; closing one of several hides that
    source. Raises OutputError when made, before any frame is read, where no window can be opened. All other
    methods are called by one thread, on macOS the process's main thread (Cocoa asks for that). `painter` is
    shared with other sinks, or made here with `note` as its remark.
    """

    def __init__(
        self, *, on_quit: Callable[[], None], note: str | None = None, painter: Painter | None = None
    ) -> None:
        check_display()
        self._on_quit = on_quit
        self._painter = painter or Painter(note=note)
        self._open: set[str] = set()
        self._hidden: set[str] = set()
        self._last_index: dict[str, int] = {}
        self._quit = False

    def start(self) -> None:
        """Nothing to do: windows open with the first frame, when its size is known."""

    def write(self, result: FrameResult) -> None:
        """Show the frame, unless a revision of it or of a later one was shown already."""
        source, index = result.source, result.frame.index
        if self._quit or source in self._hidden or index <= self._last_index.get(source, -1):
            self.poll()
            return
        self._last_index[source] = index
        picture = self._painter(result)
        if source not in self._open:
            self._open_window(source, picture)
        cv2.imshow(source, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.poll()

    def gap(self, gap: Gap) -> None:
        """The last picture stays until the next frame comes."""
        self.poll()

    def state(self, source: str, state: SourceState) -> None:
        """Say in the title what a source is doing."""
        if source in self._open:
            cv2.setWindowTitle(source, source if state == "live" else f"{source} ({state})")
        self.poll()

    def end(self, end: End) -> None:
        """The last picture stays until `close`, and the title says that it is the last one."""
        self.state(end.source, "ended")

    def poll(self) -> None:
        """Let windows redraw and take keys."""
        if not self._open:
            return
        key = cv2.pollKey() & 0xFF
        if key in (ord("q"), ord("Q"), _KEY_ESCAPE):
            self._ask_to_quit()
            return
        for source in [each for each in self._open if not _is_visible(each)]:
            self._open.discard(source)
            self._hidden.add(source)
            logger.info("%s: its window was closed", source)
        if not self._open:
            self._ask_to_quit()

    def close(self) -> None:
        """Close the windows; may be called again."""
        self._quit = True
        for source in self._open:
            if _is_visible(source):
                cv2.destroyWindow(source)
        self._open.clear()

    def _open_window(self, source: str, picture: NDArray[np.uint8]) -> None:
        cv2.namedWindow(source, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        height, width = picture.shape[:2]
        scale = min(1.0, _LARGEST_FIRST_SIZE[0] / width, _LARGEST_FIRST_SIZE[1] / height)
        cv2.resizeWindow(source, max(1, round(width * scale)), max(1, round(height * scale)))
        self._open.add(source)

    def _ask_to_quit(self) -> None:
        if not self._quit:
            self._quit = True
            self._on_quit()


def check_display() -> None:
    """Raise OutputError, with the remedy, where OpenCV cannot open a window."""
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
    name = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "of this machine"
    command = [sys.executable, "-c", _PROBE]
    try:
        probe = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise OutputError(f"the display {name} does not answer: check it, or {_INSTEAD}") from error
    if probe.returncode != 0:
        said = next((line.strip() for line in probe.stderr.splitlines() if line.strip()), "")
        raise OutputError(
            f"the display {name} cannot be opened ({said or f'status {probe.returncode}'}): check that it is "
            f"running and lets you in (DISPLAY, XAUTHORITY), or {_INSTEAD}"
        )


def _framework() -> str:
    """Return the name of OpenCV's window system, "NONE" without one."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return value.strip() or "UNKNOWN"
    return "UNKNOWN"


def _is_visible(source: str) -> bool:
    try:
        return cv2.getWindowProperty(source, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:
        # The last window of a Qt build takes the whole window system with it.
        return False
