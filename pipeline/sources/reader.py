"""FFmpeg in a thread of its own, so that no call of it can hold up a stop.

FFmpeg cannot be interrupted from another thread: a blocked call ends by PyAV's timeouts alone. These may be
as long as a user wishes, and looking up a host's name heeds none of them. So each connection has a thread
that opens, reads, decodes and closes, and the source waits for its pictures with a clock of its own. A reader
that does not return when it is closed is left alone: when FFmpeg's call ends, the thread closes the container
and ends, too. Ours.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable

from pipeline.sources.ffmpeg import Pictures, VideoInput

# Packets' pictures that may wait for the source; more would only be older when they are taken.
_AHEAD = 2
_POLL_SECONDS = 0.1


class Reader:
    """One connection: opened, read and closed by a thread of its own, which begins at once."""

    def __init__(self, open_input: Callable[[], VideoInput], *, source: str) -> None:
        self.video: VideoInput | None = None
        """What is read; None until it is open. Only its facts are for other threads."""
        self.last_packet = -math.inf
        """When the newest packet came, with a picture or not; at first, when it was opened (monotonic)."""
        self._open = open_input
        self._given: queue.Queue[Pictures | BaseException | None] = queue.Queue(_AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ffmpeg-{source}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the thread is over and the container closed."""
        return not self._thread.is_alive()

    def get(self, timeout_seconds: float) -> Pictures | None:
        """The next packet's pictures; none where none came in time, None at the end.

        Raises what ended the reading (SourceError for faults of the source). The container is closed then.
        """
        try:
            given = self._given.get(timeout=timeout_seconds)
        except queue.Empty:
            return Pictures()
        if isinstance(given, BaseException):
            raise given
        return given

    def close(self, timeout_seconds: float) -> None:
        """Ask the thread to close the container; wait so long for it. May be called twice."""
        self._closing.set()
        while not self._given.empty():  # so that the thread need not wait to hand over what nobody takes
            self._given.get_nowait()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            self._read()
        except BaseException as error:
            fault = error
        self._give(fault)

    def _read(self) -> None:
        self.video = video = self._open()
        self.last_packet = time.monotonic()
        try:
            for pictures in video:
                self.last_packet = time.monotonic()
                if self._closing.is_set():
                    return
                if pictures:
                    self._give(pictures)
        finally:
            video.close()

    def _give(self, item: Pictures | BaseException | None) -> None:
        """Hand something over; nobody takes it any more once the reader is closed."""
        while not self._closing.is_set():
            try:
                self._given.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return
