"""Pauses before a camera is tried again."""

from __future__ import annotations

from pipeline.sources.backoff import FIRST_SECONDS, LAST_SECONDS, Backoff


def _limits() -> list[float]:
    """The longest of the pauses that 300 cameras make, attempt by attempt."""
    cameras = [Backoff() for _ in range(300)]
    return [max(each.pause_seconds() for each in cameras) for _ in range(8)]


def test_pauses_grow_to_the_cap_and_never_beyond() -> None:
    limits = _limits()
    bounds = [min(FIRST_SECONDS * 2**attempt, LAST_SECONDS) for attempt in range(8)]
    assert all(0.9 * bound < limit <= bound for limit, bound in zip(limits, bounds, strict=True))


def test_cameras_that_are_lost_together_are_not_tried_together() -> None:
    cameras = [Backoff() for _ in range(100)]
    for _ in range(4):
        pauses = sorted(each.pause_seconds() for each in cameras)
    assert len(set(pauses)) == 100
    # Full jitter: they fill the whole time from 0 on, and no tenth of it holds a third of them.
    limit = 8 * FIRST_SECONDS
    tenths = [sum(limit * k / 10 <= pause < limit * (k + 1) / 10 for pause in pauses) for k in range(10)]
    assert sum(tenths) == 100
    assert max(tenths) < 33
    assert min(tenths) > 0


def test_after_a_reset_pauses_are_short_again() -> None:
    camera = Backoff()
    for _ in range(10):
        camera.pause_seconds()
    camera.reset()
    assert camera.pause_seconds() <= FIRST_SECONDS
