"""Frames of one source → sliding windows of exactly T frames (paper S1.4: T = 5; the stride is ours)."""

from __future__ import annotations

from collections import deque

from pipeline.types import Frame, Window


class Windower:
    """Emits a window each time `stride` new frames have come; missing places repeat the oldest real frame.

    At the start of a stream and after a gap the window is not full: its real frames stand at its end, so that
    the newest frame is always the last place and the first masks come with the first frame (at stride 1).
    """

    def __init__(self, *, num_frames: int, stride: int) -> None:
        if not 1 <= stride <= num_frames:
            raise ValueError(f"stride must be in 1..{num_frames} (the window's length), got {stride}")
        self._num_frames = num_frames
        self._stride = stride
        self._frames: deque[Frame] = deque(maxlen=num_frames)
        self._num_new = 0

    @property
    def num_pending(self) -> int:
        """Frames pushed that no window has held yet."""
        return self._num_new

    def push(self, frame: Frame) -> Window | None:
        """Add the next frame; return a window when it completes one."""
        self._frames.append(frame)
        self._num_new += 1
        return self._emit() if self._num_new == self._stride else None

    def flush(self) -> Window | None:
        """Return one last window if frames are pending, and forget all frames (end of file, gap)."""
        window = self._emit() if self._num_new else None
        self._frames.clear()
        return window

    def _emit(self) -> Window:
        missing = self._num_frames - len(self._frames)
        frames = (self._frames[0],) * missing + tuple(self._frames)
        window = Window(frames=frames, first=missing, last=self._num_frames - 1, num_new=self._num_new)
        self._num_new = 0
        return window
