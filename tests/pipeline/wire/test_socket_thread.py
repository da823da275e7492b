"""The thread that both ends of the mask stream stand on: opening, waking, failing, ending."""

from __future__ import annotations

import select
import threading

import pytest

from pipeline.wire.socket_thread import SocketThread


def readable(thread: SocketThread, timeout_seconds: float = 10.0) -> bool:
    """Whether a poller of the thread would wake."""
    return bool(select.select([thread.wakes], [], [], timeout_seconds)[0])


def test_what_keeps_the_socket_from_opening_is_raised_by_start_and_the_pair_is_freed() -> None:
    def work() -> None:
        raise OSError("no such address")

    thread = SocketThread("test", work)
    with pytest.raises(OSError, match="no such address"):
        thread.start()
    assert thread.wakes.fileno() == -1


def test_a_later_failure_reaches_a_caller_that_waits() -> None:
    told = threading.Event()

    def work() -> None:
        thread.opened()
        assert told.wait(10)
        raise ValueError("it broke")

    thread = SocketThread("test", work)
    thread.start()
    thread.raise_failure()
    with thread.condition:
        told.set()
        assert thread.condition.wait(10), "nobody was notified"
    with pytest.raises(ValueError, match="it broke"):
        thread.raise_failure()
    thread.join()


def test_a_flood_of_wakes_waits_for_nobody_and_is_drained_at_once() -> None:
    done = threading.Event()
    woken: list[bool] = []

    def work() -> None:
        thread.opened()
        assert done.wait(30)
        woken.append(readable(thread))
        thread.drain()
        woken.append(readable(thread, 0.0))

    thread = SocketThread("test", work)
    thread.start()
    for _ in range(100_000):  # more than the pair holds
        thread.wake()
    done.set()
    thread.join()
    assert woken == [True, False]


def test_waking_and_joining_after_the_end_do_nothing() -> None:
    thread = SocketThread("test", lambda: thread.opened())
    thread.start()
    thread.join()
    thread.join()
    thread.wake()
    thread.raise_failure()
    assert thread.wakes.fileno() == -1
