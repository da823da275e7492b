"""How long to wait before a camera is tried again."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.25
LAST_SECONDS = 5.0


class Backoff:
    """Pauses by chance, with a limit that doubles from `FIRST_SECONDS` to `LAST_SECONDS`.

    Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): after a power cut all cameras of a site are
    lost at once, and must not be tried at once.
    """

    def __init__(self) -> None:
        # A generator of its own: programs that seed `random` alike must not pause alike.
        self._chance = random.Random()
        self._limit = FIRST_SECONDS

    def pause_seconds(self) -> float:
        """The next pause, between 0 and the limit."""
        seconds = self._chance.uniform(0.0, self._limit)
        self._limit = min(2 * self._limit, LAST_SECONDS)
        return seconds

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._limit = FIRST_SECONDS
