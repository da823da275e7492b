"""Where a frame stands in its source's recording. Ours."""

from __future__ import annotations

from pipeline.sinks.mp4 import TIME_BASE
from pipeline.types import Frame, Gap

_JITTER_SECONDS = 1.0
_FIRST_STEP_SECONDS = 0.04


class Timeline:
    """Stream time of one source → time in its recording: from 0, strictly rising over gaps and reconnects.

    Within an epoch recording time advances as stream time does. Over a reconnect it advances by the time
    that really passed, so an outage shows as a frozen picture. After a discontinuity, or where time runs
    backwards by more than a second, the next frame follows after the last step between two frames.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._step = _FIRST_STEP_SECONDS
        self._last: tuple[Frame, float] | None = None
        self._discontinuous = False

    def gap(self, gap: Gap) -> None:
        """Note why the next frame does not continue the last one."""
        self._discontinuous = gap.reason == "discontinuity"

    def place(self, frame: Frame) -> float:
        """Return the frame's time in the recording, seconds."""
        if self._last is None:
            seconds = 0.0
        else:
            last, last_seconds = self._last
            seconds = frame.seconds - self._offset
            if frame.epoch != last.epoch:
                passed = (frame.captured_monotonic_ns - last.captured_monotonic_ns) / 1e9
                seconds = last_seconds + max(self._step, passed)
            elif self._discontinuous or seconds < last_seconds - _JITTER_SECONDS:
                seconds = last_seconds + self._step
            elif seconds <= last_seconds:
                # Jitter: this frame is nudged, the ones after it keep their own time.
                self._last = (frame, last_seconds + float(TIME_BASE))
                return self._last[1]
            else:
                self._step = min(seconds - last_seconds, _JITTER_SECONDS)
        self._offset = frame.seconds - seconds
        self._discontinuous = False
        self._last = (frame, seconds)
        return seconds
