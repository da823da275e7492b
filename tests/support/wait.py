"""Waiting in tests: poll with a deadline, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, what: str, timeout_seconds: float = 15.0) -> float:
    """Return the seconds until `condition()` was true; AssertionError naming `what` at the deadline."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_seconds:
            raise AssertionError(f"not within {timeout_seconds:g} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - start
