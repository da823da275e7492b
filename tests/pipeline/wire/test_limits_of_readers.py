"""What readers may do to a publisher: too large, too many, too often, half a handshake, half a message."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from support.wait import wait_until
from support.wire import NO_DROPS, ROOT, make_publisher, peak_mb, raw_socket, receive, small_result
from support.zmtp import RawReader

from pipeline.health import Vitals
from pipeline.types import MaskMessage
from pipeline.wire import limits
from pipeline.wire.codec import decode
from pipeline.wire.curve import write_keys
from pipeline.wire.publisher import Publisher
from pipeline.wire.subscriber import Subscriber


@contextmanager
def publishing_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a process that publishes all the time, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.publish_child"],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def stream(publisher: Publisher) -> Iterator[None]:
    """Publish small results all the time."""
    stop = threading.Event()

    def publish() -> None:
        for index in itertools.count():
            if stop.wait(0.002):
                return
            publisher.publish(small_result(index), NO_DROPS)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def goes_on(reader: Subscriber) -> None:
    """A reader loses nothing while fifty more messages come."""
    first = next(reader).seq
    assert [next(reader).seq for _ in range(50)] == list(range(first + 1, first + 51))
    assert not reader.lost


def large_subscription(address: str) -> None:
    for _ in range(3):
        with RawReader(address) as reader, suppress(ConnectionError):
            reader.send(b"\1" + bytes(60_000_000))


def endless_message(address: str) -> None:
    with RawReader(address) as reader:
        while not reader.is_closed():
            with suppress(ConnectionError):
                reader.send(*[bytes(200)] * 500, more=True)


def flood_of_subscriptions(address: str) -> None:
    for _ in range(3):
        with RawReader(address) as reader:
            while not reader.is_closed():
                with suppress(ConnectionError):
                    reader.subscribe(os.urandom(1000))


@pytest.mark.parametrize("attack", [large_subscription, endless_message, flood_of_subscriptions])
def test_a_publisher_keeps_its_memory_and_its_other_readers(attack: Callable[[str], None]) -> None:
    with publishing_process() as (process, address), Subscriber(address, timeout_seconds=20) as reader:
        next(reader)
        before = peak_mb(process.pid)
        thread = threading.Thread(target=attack, args=(address,))
        thread.start()
        first = next(reader).seq
        number = 0
        while thread.is_alive() or number < 50:
            number += 1
            assert next(reader).seq == first + number
        thread.join()
        assert not reader.lost
        grown = peak_mb(process.pid) - before
    assert grown < 100, f"{grown:.0f} MB more"


def test_too_many_subscriptions_are_refused_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    names = [b"vis1/masks/cam%d/" % number for number in range(limits.SUBSCRIPTIONS - 2)]
    with (
        make_publisher(heartbeat_seconds=0.05) as publisher,
        Subscriber(publisher.address, timeout_seconds=10) as other,
        stream(publisher),
    ):
        topics = [b"vis1/event/cam/", b"vis1/masks/cam/", *names]
        with raw_socket(zmq.SUB, connect=publisher.address, topics=topics) as (socket, _):
            wait_until(lambda: publisher.num_subscribers == len(topics), what="all that may be are in")
            assert publisher.num_refused == 0
            for number in range(44):
                socket.subscribe(b"vis1/heartbeat/x%d/" % number)
            wait_until(lambda: publisher.num_refused == 44, what="the rest is refused")
            assert publisher.num_subscribers == len(topics)
            goes_on(other)
            kinds = [type(decode(receive(socket))).__name__ for _ in range(20)]
            assert MaskMessage.__name__ in kinds
            # Room is made by ending one.
            socket.unsubscribe(topics[-1])
            wait_until(lambda: publisher.num_subscribers == len(topics) - 1, what="one ends")
            socket.subscribe(b"vis1/masks/cam/later/")
            wait_until(lambda: publisher.num_subscribers == len(topics), what="another takes its place")
        wait_until(lambda: publisher.num_subscribers == 1, what="it has left")
    said = [each.getMessage() for each in caplog.records if "refused" in each.getMessage()]
    assert len(said) == 1
    assert f"more than {limits.SUBSCRIPTIONS} subscriptions of one reader" in said[0]
    assert publisher.address in said[0]


def test_a_subscription_that_matches_nothing_for_its_length_is_refused_and_the_reader_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = b"vis1/masks/" + b"x" * limits.SUBSCRIPTION_BYTES
    topics = [long, b"vis1/masks/cam/"]
    with (
        make_publisher() as publisher,
        stream(publisher),
        raw_socket(zmq.SUB, connect=publisher.address, topics=topics) as (socket, _),
    ):
        assert isinstance(decode(receive(socket)), MaskMessage)
        assert (publisher.num_refused, publisher.num_subscribers) == (1, 1)
        socket.unsubscribe(long)
        assert isinstance(decode(receive(socket)), MaskMessage)
    assert f"more than {limits.SUBSCRIPTION_BYTES} bytes matches no topic" in caplog.text


def test_the_longest_topic_that_there_can_be_fits() -> None:
    name = "x" * 64
    with make_publisher(name) as publisher, Subscriber(publisher.address, name, timeout_seconds=10) as reader:
        assert publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0, name), NO_DROPS)
        assert next(reader).source == name
        assert publisher.num_refused == 0


def test_a_reader_that_changes_its_mind_all_the_time_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with (
        make_publisher(heartbeat_seconds=30) as publisher,
        Subscriber(publisher.address, timeout_seconds=10) as other,
        stream(publisher),
        RawReader(publisher.address) as reader,
    ):
        with suppress(ConnectionError):
            for _ in range(limits.SUBSCRIPTION_CHANGES):
                reader.send(b"\1vis1/")
                reader.send(b"\0vis1/")
        wait_until(reader.is_closed, what="it is cut off")
        wait_until(lambda: publisher.num_subscribers == 1, what="its subscriptions are forgotten")
        goes_on(other)
    assert "127.0.0.1: a reader was cut off: it changed its subscriptions more than 1024 times" in caplog.text


def test_subscriptions_come_to_whom_they_belong_though_another_one_breaks_the_queue() -> None:
    """In manual mode libzmq mixes up who subscribed behind a message that is none: `Subscriptions.accept`."""
    busy, go_on = threading.Event(), threading.Event()

    def vitals() -> Vitals:
        busy.set()
        assert go_on.wait(20)  # the publisher's thread takes up nothing meanwhile
        return Vitals(0, 0, {}, 0, 0, 0, None)

    with make_publisher(vitals={"cam": vitals}, heartbeat_seconds=0.05) as publisher, ExitStack() as stack:
        assert busy.wait(10)
        breaker = stack.enter_context(RawReader(publisher.address))
        for _ in range(3):
            breaker.send(b"hello")
        readers = []
        for kind in (b"masks", b"end", b"heartbeat", b"event"):
            topics = [b"vis1/%s/cam/" % kind]
            socket, _ = stack.enter_context(raw_socket(zmq.SUB, connect=publisher.address, topics=topics))
            readers.append((kind.decode(), socket))
        with RawReader(publisher.address) as last:  # whatever was sent before has arrived when this has
            last.subscribe(b"vis1/event/nobody/")
        go_on.set()

        def masks_are_read() -> bool:
            for _, socket in readers:
                socket.poll(0)  # ZeroMQ subscribes again in the thread of a socket that connected again
            return publisher.num_subscribers == 1

        wait_until(masks_are_read, what="the reader of masks is in")
        publisher.publish(small_result(0), NO_DROPS)
        publisher.end("cam", "end_of_file")
        for kind, socket in readers:
            if kind != "end":
                assert receive(socket)[0] == f"vis1/{kind}/cam/".encode()
        wait_until(breaker.is_closed, what="who broke the queue is cut off")


def test_connections_are_bounded_and_those_that_read_stay(caplog: pytest.LogCaptureFixture) -> None:
    with (
        make_publisher() as publisher,
        Subscriber(publisher.address, timeout_seconds=10) as other,
        ExitStack() as stack,
        stream(publisher),
    ):
        assert publisher.wait_for_subscribers(1)
        silent = [
            stack.enter_context(RawReader(publisher.address, silent=number % 2 == 0))
            for number in range(limits.CONNECTIONS + 40)
        ]
        wait_until(lambda: sum(each.is_closed() for each in silent) >= 41, what="the oldest are cut off")
        assert not silent[-1].is_closed()
        with Subscriber(publisher.address, timeout_seconds=10) as late:
            goes_on(late)
        goes_on(other)
    said = [each for each in caplog.records if "cut off" in each.getMessage()]
    assert len(said) == 1
    assert f"{limits.CONNECTIONS} others are connected" in said[0].getMessage()


@pytest.mark.parametrize("encrypted", [False, True])
def test_half_a_handshake_is_not_waited_for(
    encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.3)
    secret = str(write_keys(tmp_path / "keys")[1]) if encrypted else None
    with (
        make_publisher(curve_secret_key_file=secret) as publisher,
        RawReader(publisher.address, silent=True) as reader,
    ):
        wait_until(reader.is_closed, what="the connection ends")


def test_no_descriptor_is_left_by_readers_that_come_and_go() -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    with make_publisher() as publisher, stream(publisher):
        counts = []
        for _ in range(3):
            for _ in range(20):
                with RawReader(publisher.address) as reader:
                    reader.subscribe(b"vis1/")
            with Subscriber(publisher.address, timeout_seconds=10) as reader_of_ours:
                next(reader_of_ours)
            wait_until(lambda: publisher.num_subscribers == 0, what="all have left")
            wait_until(
                lambda: not counts or len(os.listdir("/proc/self/fd")) <= counts[0],
                what="their descriptors are closed",
            )
            counts.append(len(os.listdir("/proc/self/fd")))
    assert len(counts) == 3


def test_connections_that_end_at_once_are_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with make_publisher() as publisher:
        for _ in range(25):
            with RawReader(publisher.address) as reader, suppress(ConnectionError):
                reader.send(b"\1" + bytes(limits.READER_FRAME_BYTES + 1))
                wait_until(reader.is_closed, what="ZeroMQ ends the connection")
        wait_until(lambda: "end as soon as they are made" in caplog.text, what="a line of the log")
        assert publisher.num_subscribers == 0
    said = [each for each in caplog.records if "end as soon as they are made" in each.getMessage()]
    assert len(said) <= 2, "once where the host is known, once where it had gone already"
    assert f"above {limits.READER_FRAME_BYTES} bytes" in said[0].getMessage()
