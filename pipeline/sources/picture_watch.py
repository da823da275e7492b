"""Tells of a live source what its pictures say: nothing moves at all, or nothing is to be seen. Ours.

A sensor's noise changes every picture, and so does a camera's clock. A picture that is the same to the last
level for long is one that an encoder, a recorder or a hub repeats.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.health import Health

_STEP = 4
"""Every so manyth pixel of a row, and every so manyth row, is looked at."""
_BLACK_LEVEL = 24
"""Of 255; limited range has its black at 16."""
_BLACK_SHARE = 0.999
_MAX_PAUSE_SECONDS = 0.25
_LOOKS = 8
"""A picture is looked at so often within the patience, or more often: not every one, which costs as much as
its conversion to RGB."""


class PictureWatch:
    """Begins and ends the conditions `frozen` and `black` of a source."""

    def __init__(self, health: Health, *, patience_seconds: float) -> None:
        self._health = health
        self._patience = patience_seconds
        self._pause = min(_MAX_PAUSE_SECONDS, patience_seconds / _LOOKS)
        self.restart()

    def restart(self) -> None:
        """What was before does not count."""
        self._last: NDArray[np.uint8] | None = None
        self._looked = 0.0
        self._same_since = 0.0
        self._black_since: float | None = None

    def look(self, picture: Any) -> None:
        """Take the next picture, (H, W, 3) RGB or (H, W) luma, perhaps a tensor on a device."""
        now = time.monotonic()
        if now - self._looked < self._pause:
            return
        self._looked = now
        thinned = picture[::_STEP, ::_STEP]
        small = np.array(thinned if isinstance(thinned, np.ndarray) else thinned.cpu().numpy())
        if self._last is None or not np.array_equal(small, self._last):
            self._same_since = now
            self._health.end("frozen")
        elif now - self._same_since >= self._patience:
            seconds = now - self._same_since
            self._health.begin("frozen", f"the very same picture for {seconds:.0f} s; look at the camera")
        self._last = small
        if np.count_nonzero(small > _BLACK_LEVEL) > (1 - _BLACK_SHARE) * small.size:
            self._black_since = None
            self._health.end("black")
            return
        self._black_since = self._black_since or now
        if now - self._black_since >= self._patience:
            seconds = now - self._black_since
            self._health.begin("black", f"nothing but black for {seconds:.0f} s; look at lens, cap and light")
