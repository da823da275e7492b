"""Which frames the model is shown: a steady rate of stream time, whatever the source's rate.

Stream time is cut into slots of 1 / fps, the first starting at the first frame; the first frame of a slot
is taken. Slots are counted from that first frame, never from the last frame taken, so nothing drifts. A
frame may come early for its slot by a quarter of a slot or half its distance to the frame before, whichever
is less: so a source of about the same rate with jittered times loses nothing, and n frames at rate r·fps
(r ≥ 1) still give exactly ceil(n / r). Ours.
"""

from __future__ import annotations

from typing import Literal

_EARLY_SLOTS = 0.25
_EARLY_INTERVALS = 0.5
# Times are sums of rounded PTS: a frame that is late by so many slots only by rounding is in time.
_ROUNDING = 1e-6


class Cadence:
    """Picks frames at `fps` frames per second of stream time, or all of them (`source`).

    Raises ValueError when fps is not positive.
    """

    def __init__(self, fps: float | Literal["source"]) -> None:
        if fps != "source" and not (isinstance(fps, (int, float)) and fps > 0):
            raise ValueError(f"cadence fps must be above 0 or 'source', got {fps!r}")
        self._fps = None if fps == "source" else float(fps)
        self.reset()

    def reset(self) -> None:
        """Start over: the next frame is taken and starts the first slot."""
        self._origin: float | None = None
        self._previous = 0.0
        self._slot = 0

    def take(self, seconds: float) -> bool:
        """Tell whether the frame at stream time `seconds` is for the model; call once per frame, in order."""
        if self._fps is None:
            return True
        if self._origin is None:
            self._origin = self._previous = seconds
            self._slot = 0
            return True
        interval = max(0.0, seconds - self._previous) * self._fps
        early = min(_EARLY_SLOTS, _EARLY_INTERVALS * interval)
        slot = int((seconds - self._origin) * self._fps + early + _ROUNDING)
        self._previous = seconds
        if slot <= self._slot:
            return False
        self._slot = slot
        return True
