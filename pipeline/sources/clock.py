"""A source's stream time, from its clock (PTS) or, where that cannot be true, from arrival. Ours.

The clock of a live source is compared with arrival over the last seconds. One that stands, runs at less than
0.4 or more than 2.5 times the speed of the world, or is set back again and again is not believed any more
until the source is opened again: stream time goes on by arrival.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction

# Steps back up to here are jitter of the clock (RTCP corrections); beyond, another recording begins.
MAX_BACKWARDS_SECONDS = 0.5
# Steps forward from here on are a hole in the recording: at least so many seconds and so many frames.
MIN_FORWARD_SECONDS = 5.0
MIN_FORWARD_FRAMES = 10
ASSUMED_FPS = 25.0

# What a clock is judged by: the pictures of so many seconds, and at least so many of them.
_JUDGED_SECONDS = 3.0
_JUDGED_PICTURES = 9
_MAX_PICTURES = 1000
_SLOWEST, _FASTEST = 0.4, 2.5
# So long without a picture, and so many times longer than usual, is a pause.
_PAUSE_SECONDS, _PAUSE_PICTURES = 1.0, 3
# The speed must be wrong for so long.
_WRONG_SECONDS = 1.0
# A step back of so much is none of rounding; more than so many within so many seconds are no accident.
_STEP_BACK_SECONDS = 0.03
_MAX_STEPS_BACK = 3
_BACK_SECONDS = 10.0


class StreamClock:
    """Gives each picture its stream time: seconds, never decreasing without a jump."""

    def __init__(self) -> None:
        self.fps: float | None = None
        """Nominal frames a second; times are estimated with it where a picture has no PTS."""
        self.live = False
        """Whether pictures arrive one by one as they are taken, so that arrival tells of the clock."""
        self.by_arrival = False
        """Whether there is no clock but arrival."""
        self.fault = ""
        """Why the clock is not believed, "" where it is."""
        self._judge = _Judge()
        self.restart()

    def restart(self) -> None:
        """Another connection: its clock may begin anywhere, and is believed again."""
        self._seconds: float | None = None
        self._pts_known = False
        self._arrived = 0.0
        self.fault = ""
        self._judge = _Judge()

    def time(self, pts: int | None, time_base: Fraction, *, arrived: float) -> tuple[float, bool]:
        """Return a picture's stream time and whether it jumped: what came before is another recording.

        arrived: when it came, in monotonic seconds.
        """
        own = None if pts is None else float(pts * time_base)
        if self.live and own is not None and not self.fault and not self.by_arrival:
            self.fault = self._judge.fault(own, arrived, hole=self._hole)
        since, self._arrived = arrived - self._arrived, arrived
        if (self.fault or self.by_arrival) and self._seconds is not None:
            self._seconds += since
            return self._seconds, False
        self._seconds, jumped = self._believed(own)
        return self._seconds, jumped

    @property
    def _hole(self) -> float:
        """Seconds from which on a step forward is a hole in the recording."""
        return max(MIN_FORWARD_SECONDS, MIN_FORWARD_FRAMES / (self.fps or ASSUMED_FPS))

    def _believed(self, own: float | None) -> tuple[float, bool]:
        """The time of a picture by its own clock's."""
        before, period = self._seconds, 1.0 / (self.fps or ASSUMED_FPS)
        known, self._pts_known = self._pts_known, self._pts_known or own is not None
        if before is None:
            return own or 0.0, False
        if own is None:
            return before + period, False
        step = own - before
        if -MAX_BACKWARDS_SECONDS <= step <= self._hole:
            return max(own, before), False
        # Where the pictures before had no PTS (usual after joining a live stream) their times were guessed
        # from 0, so this is no hole, only the first true time.
        return own, known


class _Judge:
    """Compares a clock with arrival over the last pictures."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_MAX_PICTURES)
        """(step of the clock, arrival) of the last pictures; steps into another recording count 0."""
        self._back: deque[float] = deque(maxlen=_MAX_STEPS_BACK)
        """When the clock was set back, the last times."""
        self._own: float | None = None
        self._wrong_since: float | None = None

    def fault(self, own: float, arrived: float, *, hole: float) -> str:
        """Take the next picture's times; say what is wrong with the clock, "" where nothing is.

        hole: seconds from which on a step forward is another recording.
        """
        before, self._own = self._own, own
        step = 0.0 if before is None else own - before
        if step < -_STEP_BACK_SECONDS:
            if len(self._back) == _MAX_STEPS_BACK and arrived - self._back[0] < _BACK_SECONDS:
                return "it is set back again and again"
            self._back.append(arrived)
        seen = self._seen
        since = arrived - seen[-1][1] if seen else 0.0
        usual = (seen[-1][1] - seen[0][1]) / (len(seen) - 1) if len(seen) > 1 else since
        if not -_STEP_BACK_SECONDS <= step <= hole or since > max(_PAUSE_SECONDS, _PAUSE_PICTURES * usual):
            # Another recording, or a pause, of camera or network: neither tells how fast the clock is.
            seen.clear()
            self._wrong_since = None
        seen.append((step if 0 <= step <= hole else 0.0, arrived))
        while len(seen) > _JUDGED_PICTURES and arrived - seen[1][1] >= _JUDGED_SECONDS:
            seen.popleft()
        elapsed = arrived - seen[0][1]
        if len(seen) < _JUDGED_PICTURES or elapsed < _JUDGED_SECONDS:
            return ""
        speed = sum(each for each, _ in list(seen)[1:]) / elapsed
        if _SLOWEST <= speed <= _FASTEST:
            self._wrong_since = None
            return ""
        if self._wrong_since is None:
            self._wrong_since = arrived
        # Pictures that were held back come all at once: that is over as soon as they are.
        if arrived - self._wrong_since < _WRONG_SECONDS:
            return ""
        return f"it runs {speed:.2g} times as fast as the world" if speed else "it stands still"
