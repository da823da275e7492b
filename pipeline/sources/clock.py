"""Whether a camera's clock can be believed: its times against the times at which pictures arrive. Ours.

Cameras are seen whose RTP clock stands still, is an order of magnitude wrong, or is set back again and again.
A network that stops and catches up looks like a slow clock and then like a fast one, so a clock is only
called wrong when it is wrong in the same way several times running.
"""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 1.0
"""Speed is measured over so much time of arrival."""
MAX_SPEED = 3.0
"""So many times too fast or too slow is wrong."""
NUM_WINDOWS = 4
"""It is, when so many windows running say so."""
MIN_STEP_BACK_SECONDS = 0.1
"""Smaller steps back are jitter."""
NUM_STEPS = 3
STEPS_WITHIN_SECONDS = 10.0
"""A clock that steps so often in so short a time is wrong."""


class ClockWatch:
    """Looks at the times of one connection's pictures; one thread."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._begun = (0.0, 0.0)
        """(time of the clock, of arrival) at the window's beginning."""
        self._wrong = 0
        """Windows running that were too fast (positive) or too slow (negative)."""
        self._steps: deque[float] = deque(maxlen=NUM_STEPS)

    def update(self, seconds: float, arrival: float, *, hole: float) -> str:
        """Take the next picture's time and that of its arrival, both in seconds from anywhere; say what is
        wrong with the clock, "" where nothing is.

        A step forward of more than `hole` seconds is a jump, unless that much time has passed.
        """
        last, self._last = self._last, (seconds, arrival)
        if last is None:
            self._begun = seconds, arrival
            return ""
        step = seconds - last[0]
        if step < -MIN_STEP_BACK_SECONDS or step > max(hole, MAX_SPEED * (arrival - last[1])):
            self._begun = seconds, arrival
            self._steps.append(arrival)
            often = len(self._steps) == NUM_STEPS and arrival - self._steps[0] <= STEPS_WITHIN_SECONDS
            return f"it stepped {NUM_STEPS} times in {arrival - self._steps[0]:.1f} s" if often else ""
        elapsed = arrival - self._begun[1]
        if elapsed < WINDOW_SECONDS:
            return ""
        speed = (seconds - self._begun[0]) / elapsed
        self._begun = seconds, arrival
        if 1 / MAX_SPEED <= speed <= MAX_SPEED:
            self._wrong = 0
            return ""
        way = 1 if speed > MAX_SPEED else -1
        self._wrong = self._wrong + way if self._wrong * way > 0 else way
        if abs(self._wrong) < NUM_WINDOWS:
            return ""
        if speed <= 0:
            return "it stands still"
        return (
            f"it runs {speed:.2g} times too fast" if speed > 1 else f"it runs {1 / speed:.2g} times too slow"
        )
