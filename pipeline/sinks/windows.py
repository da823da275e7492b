"""The process that shows windows: reads pictures from stdin, draws them, tells keys and closed windows.

Qt ends its process when the X server dies, and nothing can catch that. So the windows have a process of their
own, run by `pipeline.sinks.viewer`. It is started by this file's path and imports nothing of this project.
Ours.

On stdin an item is one line of JSON and the bytes that it announces: `{"source", "title"}` and perhaps
`"height", "width"`, then H×W×3 bytes RGB. On stdout a line is a list of words: `ready`, `shown SOURCE`,
`hidden SOURCE` or `quit`. The end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LARGEST_FIRST_SIZE = (1280, 720)
_KEY_ESCAPE = 27
_REDRAW_SECONDS = 0.02


class Inbox:
    """The newest item of each source, put in by the thread that reads stdin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[str, tuple[dict[str, Any], NDArray[np.uint8] | None]] = {}
        self.ended = False

    def read(self) -> None:
        """Read stdin to its end."""
        stream = sys.stdin.buffer
        while line := stream.readline():
            head = json.loads(line)
            picture = None
            if "height" in head:
                shape = (head["height"], head["width"], 3)
                content = stream.read(shape[0] * shape[1] * shape[2])
                if len(content) < shape[0] * shape[1] * shape[2]:
                    break
                picture = np.frombuffer(content, dtype=np.uint8).reshape(shape)
            with self._changed:
                if picture is None and head["source"] in self._items:
                    picture = self._items[head["source"]][1]
                self._items[head["source"]] = (head, picture)
                self._changed.notify()
        with self._changed:
            self.ended = True
            self._changed.notify()

    def take(self) -> list[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
        """Return what is new, after a short wait where nothing is."""
        with self._changed:
            if not self._items and not self.ended:
                self._changed.wait(_REDRAW_SECONDS)
            items, self._items = self._items, {}
            return list(items.values())


class Windows:
    """One window a source; a window that the user closes stays closed."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}  # source → title
        self._hidden: set[str] = set()
        self._quit = False

    def show(self, head: dict[str, Any], picture: NDArray[np.uint8] | None) -> None:
        """Show a picture, if there is one, and set the title."""
        source, title = head["source"], head["title"]
        if source in self._hidden or self._quit:
            return
        if picture is not None:
            if source not in self._open:
                self._open_window(source, *picture.shape[:2])
            cv2.imshow(source, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if source in self._open and self._open[source] != title:
            self._open[source] = title
            cv2.setWindowTitle(source, title)

    def poll(self) -> None:
        """Redraw, take keys, notice windows that were closed."""
        if not self._open:
            return
        key = cv2.pollKey() & 0xFF
        if key in (ord("q"), ord("Q"), _KEY_ESCAPE):
            self._ask_to_quit()
            return
        for source in [each for each in self._open if not _is_visible(each)]:
            del self._open[source]
            self._hidden.add(source)
            say("hidden", source)
        if not self._open:
            self._ask_to_quit()

    def close(self) -> None:
        """Close all windows."""
        for source in self._open:
            if _is_visible(source):
                cv2.destroyWindow(source)

    def _open_window(self, source: str, height: int, width: int) -> None:
        cv2.namedWindow(source, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        scale = min(1.0, LARGEST_FIRST_SIZE[0] / width, LARGEST_FIRST_SIZE[1] / height)
        cv2.resizeWindow(source, max(1, round(width * scale)), max(1, round(height * scale)))
        self._open[source] = source

    def _ask_to_quit(self) -> None:
        if not self._quit:
            self._quit = True
            say("quit")


def _is_visible(source: str) -> bool:
    try:
        return cv2.getWindowProperty(source, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:
        # The last window of a Qt build takes the whole window system with it.
        return False


def say(*words: str) -> None:
    """Tell the stream's process."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Open and close a window, say that it works, and show what comes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the stream ends this process when it has ended itself
    _leave_no_core()
    cv2.namedWindow("probe")
    cv2.destroyAllWindows()
    say("ready")
    inbox, windows = Inbox(), Windows()
    threading.Thread(target=inbox.read, daemon=True).start()
    while not inbox.ended:
        items = inbox.take()
        for head, picture in items:
            windows.show(head, picture)
        windows.poll()
        for head, picture in items:
            if picture is not None:
                say("shown", head["source"])
    windows.close()


def _leave_no_core() -> None:
    """OpenCV aborts where no display answers, at each try: that is told, and no core is wanted."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the stream's process is gone
        os._exit(0)
