"""Waiting in tests: poll with a deadline, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized


def wait_until(condition: Callable[[], object], *, what: str, timeout_seconds: float = 15.0) -> float:
    """Return the seconds until `condition()` was true; AssertionError naming `what` at the deadline."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_seconds:
            raise AssertionError(f"not within {timeout_seconds:g} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - start


class StandsStill:
    """True once a collection that grew has kept its size for half a second."""

    def __init__(self, items: Sized) -> None:
        self._items = items
        self._size = 0
        self._since = time.monotonic()

    def __call__(self) -> bool:
        if len(self._items) != self._size:
            self._size, self._since = len(self._items), time.monotonic()
        return self._size > 0 and time.monotonic() - self._since > 0.5
