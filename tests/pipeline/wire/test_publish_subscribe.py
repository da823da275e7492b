"""Publisher and Subscriber over real sockets: order, loss, late joiners, slow readers, faults."""

from __future__ import annotations

import itertools
import json
import logging
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from support.results import make_instance, make_result
from support.wait import StandsStill, wait_until
from support.wire import (
    NO_DROPS,
    ROOT,
    big_result,
    free_address,
    make_facts,
    make_publisher,
    raw_socket,
    receive,
    small_result,
    start_verb,
)

import pipeline.wire.subscriber
from pipeline.config import PublishConfig
from pipeline.errors import AddressError, WireVersionError
from pipeline.types import MaskMessage
from pipeline.wire.codec import decode, encode, mask_message
from pipeline.wire.messages import EventMessage, HeartbeatMessage
from pipeline.wire.publisher import Publisher, SourceFacts
from pipeline.wire.subscriber import Subscriber


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before, what="all threads of the test have ended")


def test_a_separate_process_receives_every_message_in_order_with_block() -> None:
    with make_publisher(block=True) as publisher:
        process = start_verb("subscribe", publisher.address, "--source", "cam", "--json")
        assert publisher.wait_for_subscribers(1)
        for index in range(1000):
            publisher.publish(small_result(index), NO_DROPS)
        publisher.end("cam", "end_of_file")
        out, err = process.communicate(timeout=60)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1000))
    assert [line["frame_index"] for line in lines] == list(range(1000))
    assert process.returncode == 0, err


def test_a_slow_reader_slows_a_blocking_publisher_and_loses_nothing() -> None:
    with make_publisher(block=True) as publisher:
        subscriber = Subscriber(publisher.address, "cam", max_waiting=1)
        assert publisher.wait_for_subscribers(1)
        published = itertools.count()
        sent: list[int] = []

        def publish() -> None:
            for _ in range(150):
                publisher.publish(big_result(next(published)), NO_DROPS)
                sent.append(1)
            publisher.end("cam", "end_of_file")

        thread = threading.Thread(target=publish)
        thread.start()
        wait_until(StandsStill(sent), what="the publisher waits for its reader")
        assert len(sent) < 150
        assert [message.seq for message in subscriber] == list(range(150))
        thread.join(10)
        assert not subscriber.lost


def test_a_reader_that_is_too_slow_loses_messages_counts_them_and_stalls_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = 110
    with make_publisher(high_water_mark=8) as publisher:
        slow = Subscriber(publisher.address, "cam", max_waiting=1)
        quick = Subscriber(publisher.address, "cam", max_waiting=number)
        assert publisher.wait_for_subscribers(2)
        received: list[int] = []
        for index in range(number):  # the slow one reads nothing meanwhile
            publisher.publish(big_result(index), NO_DROPS)
            received.append(next(quick).seq)
        assert received == list(range(number))
        first = next(slow)
        assert first.seq == 0
        publisher.end("cam", "end_of_file")
        rest = [message.seq for message in slow]
        assert rest == sorted(set(rest))
        assert slow.lost["cam"] > 0
        assert 1 + len(rest) + slow.lost["cam"] == number
        assert not quick.lost
        assert re.search(r"source cam: \d+ messages lost before seq \d+", caplog.text)
        quick.close()
        slow.close()


@pytest.mark.parametrize(
    "topics",
    [[b"vis1/"], [b""], [b"vis1/event/cam/", b"vis1/masks/cam/"], [b"vis1/event/", b"vis1/masks/"]],
    ids=["all", "empty", "source", "kinds"],
)
def test_a_late_joiner_gets_the_event_before_any_masks(topics: list[bytes]) -> None:
    with make_publisher(heartbeat_seconds=30) as publisher:
        stop = threading.Event()

        def publish() -> None:
            for index in itertools.count():
                if stop.is_set():
                    return
                publisher.publish(small_result(index), NO_DROPS)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for _ in range(15):
                with raw_socket(zmq.SUB, connect=publisher.address, topics=topics) as (socket, _):
                    first = decode(receive(socket))
                    assert isinstance(first, EventMessage)
                    assert first.class_names == {1: "person"}
                    assert first.facts == SourceFacts("file", "cam.mp4", 25.0, 96, 64)
                    following = decode(receive(socket))
                    while isinstance(following, EventMessage):
                        first, following = following, decode(receive(socket))
                    assert isinstance(following, MaskMessage)
                    assert following.seq == (0 if first.seq is None else first.seq + 1)
        finally:
            stop.set()
            thread.join()


def test_heartbeats_and_events_come_without_any_frame() -> None:
    with (
        make_publisher("cam", "door", heartbeat_seconds=0.05) as publisher,
        raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/"]) as (socket, _),
    ):
        seen: dict[str, list[str]] = {"cam": [], "door": []}
        while any(kinds.count("HeartbeatMessage") < 3 for kinds in seen.values()):
            message = decode(receive(socket))
            assert isinstance(message, (EventMessage, HeartbeatMessage))
            assert message.state == "waiting"
            assert message.seq is None
            seen[message.source].append(type(message).__name__)
        assert all("EventMessage" in kinds for kinds in seen.values())


def test_a_heartbeat_comes_once_a_second_by_default() -> None:
    with (
        make_publisher() as publisher,
        raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/heartbeat/"]) as (socket, _),
    ):
        receive(socket)
        begun = time.monotonic()
        receive(socket)
        receive(socket)
        assert time.monotonic() - begun > 1.7


def test_state_facts_and_drop_counters_reach_the_subscriber() -> None:
    with make_publisher() as publisher, Subscriber(publisher.address) as subscriber:
        publisher.wait_for_subscribers(1)
        publisher.set_state("cam", "live", {"stale": 3})
        wait_until(lambda: subscriber.sources.get("cam") == "live", what="the state arrives")
        assert subscriber.heartbeats["cam"].dropped == {"stale": 3}
        publisher.set_facts("cam", SourceFacts("rtsp", "rtsp://x/y", None, 640, 360))
        wait_until(lambda: subscriber.events["cam"].facts.width == 640, what="the facts arrive")
        publisher.publish(small_result(0), {"stale": 4})
        message = next(subscriber)
        assert message.dropped == {"stale": 4}
        assert message.instances[0].class_name == "person"
        assert not message.trained
        publisher.end("cam", "lost", "gone for good", {"stale": 5})
        wait_until(lambda: "cam" in subscriber.ended, what="the end arrives")
        assert subscriber.sources["cam"] == "ended"
        assert subscriber.ended["cam"].dropped == {"stale": 5}
        assert (subscriber.ended["cam"].reason, subscriber.ended["cam"].detail) == ("lost", "gone for good")


def test_the_end_of_one_source_ends_only_its_own_reader() -> None:
    with (
        make_publisher("cam1", "cam10") as publisher,
        Subscriber(publisher.address, "cam1") as first,
        Subscriber(publisher.address) as both,
    ):
        publisher.wait_for_subscribers(2)
        for index, source in enumerate(["cam1", "cam10", "cam1", "cam10"]):
            publisher.publish(small_result(index, source), NO_DROPS)
        publisher.end("cam1", "end_of_file")
        publisher.publish(small_result(4, "cam10"), NO_DROPS)
        assert [(message.source, message.seq) for message in first] == [("cam1", 0), ("cam1", 1)]
        seen = [(message.source, message.seq) for message in itertools.islice(both, 5)]
        assert seen == [("cam1", 0), ("cam10", 0), ("cam1", 1), ("cam10", 1), ("cam10", 2)]
        with pytest.raises(TimeoutError):
            both.latest(timeout_seconds=0.2)


def test_a_reader_that_joins_after_the_end_ends_at_once() -> None:
    with make_publisher() as publisher:
        publisher.publish(small_result(0), NO_DROPS)
        publisher.end("cam", "max_frames", "1 frame was asked for")
        with Subscriber(publisher.address, "cam", timeout_seconds=10) as subscriber:
            assert list(subscriber) == []
            assert subscriber.ended["cam"].reason == "max_frames"
            assert subscriber.ended["cam"].seq == 0
            assert subscriber.latest() is None


def test_latest_gives_the_newest_and_counts_what_it_skips() -> None:
    with make_publisher() as publisher, Subscriber(publisher.address, timeout_seconds=10) as subscriber:
        publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        first = subscriber.latest()
        assert first is not None
        assert first.seq == 0
        for index in range(1, 100):
            publisher.publish(small_result(index), NO_DROPS)
        wait_until(lambda: subscriber.skipped == 98, what="98 messages are skipped")
        newest = subscriber.latest()
        assert newest is not None
        assert newest.seq == 99
        assert not subscriber.lost
        with pytest.raises(TimeoutError, match="no new message"):
            subscriber.latest(timeout_seconds=0.1)
        for index in range(100, 103):
            publisher.publish(small_result(index), NO_DROPS)
        wait_until(lambda: subscriber.skipped == 100, what="two more are skipped")
        assert next(subscriber).seq == 102
        publisher.publish(small_result(103), NO_DROPS)
        publisher.publish(small_result(104), NO_DROPS)
        assert [next(subscriber).seq, next(subscriber).seq] == [103, 104]


def test_latest_takes_sources_in_turns() -> None:
    with (
        make_publisher("a", "b", heartbeat_seconds=30) as publisher,
        Subscriber(publisher.address, timeout_seconds=10) as subscriber,
    ):
        publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0, "a"), NO_DROPS)
        subscriber.latest()
        for index in range(1, 4):
            publisher.publish(small_result(index, "a"), NO_DROPS)
            publisher.publish(small_result(index, "b"), NO_DROPS)
        wait_until(lambda: subscriber.skipped == 4, what="only the newest of each is kept")
        seen = [subscriber.latest(), subscriber.latest()]
        assert [each and (each.source, each.frame_index) for each in seen] == [("a", 3), ("b", 3)]


def test_a_publisher_that_starts_again_is_a_new_boot_and_no_loss() -> None:
    with make_publisher() as publisher:
        address = publisher.address
        subscriber = Subscriber(address, timeout_seconds=20)
        publisher.wait_for_subscribers(1)
        for index in range(5):
            publisher.publish(small_result(index), NO_DROPS)
        before = [next(subscriber) for _ in range(5)]
        publisher.end("cam", "stopped")
    with make_publisher(address=address) as publisher:
        assert publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        after = next(subscriber)
        assert after.boot == publisher.boot != before[0].boot
        assert after.seq == 0
        assert not subscriber.lost
        assert not subscriber.ended
        subscriber.close()


def test_num_subscribers_follows_joins_and_leaves() -> None:
    with make_publisher("cam", "door") as publisher:
        assert publisher.num_subscribers == 0
        first = Subscriber(publisher.address)
        second = Subscriber(publisher.address, "cam")
        assert publisher.wait_for_subscribers(2)
        first.close()
        wait_until(lambda: publisher.num_subscribers == 1, what="one has left")
        second.close()
        wait_until(lambda: publisher.num_subscribers == 0, what="all have left")
        with raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/heartbeat/"]) as (socket, _):
            receive(socket)
            assert publisher.num_subscribers == 0


def test_waiting_for_subscribers_ends_when_stopped() -> None:
    stop = threading.Event()
    with make_publisher() as publisher:
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        assert not publisher.wait_for_subscribers(1, stop)
        timer.join()


@pytest.mark.parametrize("how", ["close", "stop"])
def test_a_publisher_that_waits_for_a_stuck_reader_can_be_stopped(how: str) -> None:
    stop = threading.Event()
    publisher = Publisher(
        PublishConfig(address="tcp://127.0.0.1:*", block=True), facts=make_facts("cam"), stop=stop
    )
    with raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/"], RCVHWM=1) as (socket, _):
        assert publisher.wait_for_subscribers(1)
        handed: list[bool] = []

        def publish() -> None:
            while publisher.publish(big_result(len(handed)), NO_DROPS):
                handed.append(True)

        thread = threading.Thread(target=publish)
        thread.start()
        wait_until(StandsStill(handed), what="the reader is full")
        begun = time.monotonic()
        if how == "stop":
            stop.set()
            thread.join(10)
        publisher.close(linger_seconds=0.2)
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 5
        assert receive(socket)


def test_an_address_in_use_is_named_with_the_remedy() -> None:
    with make_publisher() as publisher:
        with pytest.raises(
            AddressError, match=re.escape(publisher.address) + ".*in use.*another port"
        ) as raised:
            make_publisher(address=publisher.address)
        assert raised.value.exit_code == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("5555", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1:99999", "99999 is not in 1..65535"),
        ("http://127.0.0.1:80", "tcp://HOST:PORT"),
        ("udp://127.0.0.1:5555", "tcp://HOST:PORT"),
        ("tcp://0.0.0.0:5555", "publish.allow_plaintext: true"),
        ("tcp://*:5555", "publish.allow_plaintext: true"),
        ("tcp://192.0.2.1:5555", "publish.curve_secret_key_file"),
        ("tcp://127.0.0.1.example.org:5555", "publish.allow_plaintext: true"),
        ("ipc:///nowhere/at/all/socket", "cannot be bound"),
    ],
)
def test_an_address_that_cannot_be_bound_is_named_with_the_remedy(address: str, reason: str) -> None:
    with pytest.raises(AddressError, match=re.escape(reason)) as raised:
        make_publisher(address=address)
    assert address in str(raised.value)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket in it: such paths have about 100 characters at most."""
    with tempfile.TemporaryDirectory(prefix="ipc") as name:
        yield Path(name)


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_at_an_ipc_path_is_refused_and_stays(short_folder: Path, linked: bool) -> None:
    path = kept = short_folder / "precious.txt"
    kept.write_text("precious")
    if linked:
        path = short_folder / "link"
        path.symlink_to(kept)
    with pytest.raises(AddressError, match=re.escape(str(path)) + ".*no socket.*another path"):
        make_publisher(address=f"ipc://{path}")
    assert path.is_symlink() == linked
    assert kept.read_text() == "precious"


def test_an_ipc_path_in_use_is_refused_and_its_stream_goes_on(short_folder: Path) -> None:
    address = f"ipc://{short_folder / 'socket'}"
    with make_publisher(address=address) as publisher:
        with pytest.raises(AddressError, match=re.escape(address) + ".*in use.*another path"):
            make_publisher(address=address)
        with Subscriber(address, timeout_seconds=10) as subscriber:
            publisher.wait_for_subscribers(1)
            publisher.publish(small_result(0), NO_DROPS)
            assert next(subscriber).seq == 0


def test_a_socket_that_a_killed_process_left_is_taken_over(short_folder: Path) -> None:
    path = short_folder / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert path.is_socket()
    with make_publisher(address=f"ipc://{path}") as publisher, Subscriber(f"ipc://{path}") as subscriber:
        publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        assert next(subscriber).seq == 0


def test_an_address_of_another_machine_is_named_with_the_remedy() -> None:
    with pytest.raises(AddressError, match=r"192\.0\.2\.1:5555.*no such address"):
        make_publisher(address="tcp://192.0.2.1:5555", allow_plaintext=True)


def test_plaintext_beyond_loopback_works_where_it_is_allowed() -> None:
    with make_publisher(address="tcp://0.0.0.0:*", allow_plaintext=True) as publisher:
        port = publisher.address.rpartition(":")[2]
        with Subscriber(f"tcp://127.0.0.1:{port}", timeout_seconds=10) as subscriber:
            publisher.wait_for_subscribers(1)
            publisher.publish(small_result(0), NO_DROPS)
            assert next(subscriber).seq == 0


def test_the_address_is_free_again_after_closing() -> None:
    with make_publisher() as publisher:
        address = publisher.address
    with make_publisher(address=address) as publisher:
        assert publisher.address == address
    publisher.close()  # twice is allowed
    assert not publisher.publish(small_result(0), NO_DROPS)


def test_what_waits_at_close_still_arrives() -> None:
    with make_publisher() as publisher:
        subscriber = Subscriber(publisher.address, "cam", timeout_seconds=10)
        publisher.wait_for_subscribers(1)
        for index in range(300):
            publisher.publish(small_result(index), NO_DROPS)
        publisher.end("cam", "end_of_file")
    assert [message.seq for message in subscriber] == list(range(300))


def test_a_wrong_call_is_a_value_error_and_uses_up_no_seq() -> None:
    with make_publisher() as publisher, Subscriber(publisher.address, timeout_seconds=10) as subscriber:
        publisher.wait_for_subscribers(1)
        with pytest.raises(ValueError, match=r"unknown source 'door'.*cam"):
            publisher.publish(small_result(0, "door"), NO_DROPS)
        with pytest.raises(ValueError, match="unknown source"):
            publisher.set_state("door", "live")
        with pytest.raises(ValueError, match="end\\(\\)"):
            publisher.set_state("cam", "ended")
        person = make_instance(small_result(0).instances[0].dense_mask(64, 96), state="lost")
        with pytest.raises(ValueError, match="carry no mask"):
            publisher.publish(make_result(0, source="cam", instances=[person]), NO_DROPS)
        publisher.publish(small_result(0), NO_DROPS)
        assert next(subscriber).seq == 0


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:banana", "tcp://*:5555"])
def test_a_subscriber_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(AddressError, match=re.escape(repr(address)) + ".*tcp://HOST:PORT"):
        Subscriber(address)


@pytest.mark.parametrize("port", [0, 65536, 99999, 4294972851])
def test_a_port_that_none_can_have_is_refused_at_once(port: int) -> None:
    with pytest.raises(AddressError, match=rf"{port} is not in 1\.\.65535"):
        Subscriber(f"tcp://127.0.0.1:{port}")


def test_wrong_arguments_of_a_subscriber_are_value_errors() -> None:
    with pytest.raises(ValueError, match="source id 'a/b'"):
        Subscriber("tcp://127.0.0.1:5555", "a/b")
    with pytest.raises(ValueError, match="timeout_seconds"):
        Subscriber("tcp://127.0.0.1:5555", timeout_seconds=0)


def test_silence_is_a_timeout_error_that_names_the_address() -> None:
    address = free_address()
    silence = pytest.raises(TimeoutError, match=re.escape(address) + ".*is a publisher running there")
    with Subscriber(address, timeout_seconds=0.3) as subscriber, silence:
        next(subscriber)


def test_silence_of_one_source_is_noticed_and_heartbeats_are_no_silence() -> None:
    with make_publisher(heartbeat_seconds=0.05) as publisher:
        other = Subscriber(publisher.address, "door", timeout_seconds=0.3)
        with other, pytest.raises(TimeoutError, match="'door'"):
            next(other)
        subscriber = Subscriber(publisher.address, "cam", timeout_seconds=0.5)
        with subscriber, pytest.raises(TimeoutError, match="no new message"):
            subscriber.latest(timeout_seconds=1.5)


def test_silence_is_said_in_the_log_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.wire.subscriber, "SILENCE_WARNING_SECONDS", 0.1)
    with Subscriber(free_address()) as subscriber:
        wait_until(lambda: subscriber.address in caplog.text, what="a warning")
    assert "is a publisher running there" in caplog.text


def test_garbage_is_counted_and_reported_and_does_not_hide_the_good(caplog: pytest.LogCaptureFixture) -> None:
    parts = some_masks()
    garbage = [
        [b"vis1/masks/cam/"],
        [b"vis1/masks/cam/", b"\xff", b"", b""],
        [b"vis1/what/cam/", b"\x80"],
        [b"vis1/", b"\x80"],
        [*parts[:3], b"!"],
        [b"vis1/end/cam/", b"\x80"],
    ]
    with raw_socket(zmq.XPUB) as (socket, address), Subscriber(address, timeout_seconds=10) as subscriber:
        while receive(socket) != [b"\x01vis1/"]:
            pass
        for each in garbage * 50:
            socket.send_multipart(each)
        socket.send_multipart(parts)
        assert next(subscriber).seq == 0
        assert subscriber.malformed == 300
        assert not subscriber.ended
    warnings = [record for record in caplog.records if "malformed" in record.message]
    assert 5 <= len(warnings) <= 12  # a flood does not fill the log
    assert address in warnings[0].message


def test_silence_tells_of_the_garbage_that_was_heard() -> None:
    with raw_socket(zmq.XPUB) as (sender, address), Subscriber(address, timeout_seconds=1) as subscriber:
        while receive(sender) != [b"\x01vis1/"]:
            pass
        for _ in range(3):
            sender.send_multipart([b"vis1/masks/cam/", b"\xff", b"", b""])
        with pytest.raises(TimeoutError, match=r"only 3 malformed messages.*another program"):
            next(subscriber)


def some_masks() -> list[bytes]:
    """Return the parts of a real `masks` message."""
    return encode(
        mask_message(
            small_result(0),
            facts=make_facts("cam"),
            producer="p",
            boot="b",
            seq=0,
            published_ns=0,
            dropped=NO_DROPS,
        )
    )


def foreign(parts: list[bytes]) -> list[bytes]:
    return [parts[0].replace(b"vis1", b"vis2"), *parts[1:]]


def some_message() -> list[bytes]:
    message = HeartbeatMessage("cam", "p", "b", None, 0, "live", {})
    return encode(message)


def test_a_publisher_of_another_major_version_is_an_error_that_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.wire.subscriber, "FOREIGN_GRACE_SECONDS", 0.2)
    with (
        raw_socket(zmq.XPUB) as (socket, address),
        Subscriber(address, "cam", timeout_seconds=10) as subscriber,
    ):
        while receive(socket) != [b"\x01vis1/masks/cam/"]:
            pass
        socket.send_multipart(foreign(some_message()))
        with pytest.raises(WireVersionError, match="version 2, this subscriber version 1"):
            next(subscriber)


def test_a_publisher_of_both_versions_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.wire.subscriber, "FOREIGN_GRACE_SECONDS", 0.3)
    with raw_socket(zmq.XPUB) as (socket, address), Subscriber(address, timeout_seconds=10) as subscriber:
        while receive(socket) != [b"\x01vis1/"]:
            pass
        socket.send_multipart(foreign(some_message()))
        socket.send_multipart(some_message())
        left = {b"\0vis0", *(b"\0vis%d" % major for major in range(2, 10))}
        while left:  # it does not take the other version's masks any more
            left.discard(receive(socket)[0])
        with pytest.raises(TimeoutError, match="no new message"):
            subscriber.latest(timeout_seconds=0.6)


def test_a_subscriber_of_another_major_version_is_named_by_the_publisher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with make_publisher() as publisher:
        with Subscriber(publisher.address):
            publisher.wait_for_subscribers(1)
        assert "wire version" not in caplog.text  # ours looks for others, that is no fault
        with raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis2/masks/cam/"]):
            wait_until(
                lambda: "asks for wire version 2, this publishes version 1" in caplog.text, what="a warning"
            )
    assert any(record.levelno == logging.WARNING for record in caplog.records)


def test_closing_from_another_thread_ends_a_waiting_iteration() -> None:
    with make_publisher() as publisher:
        subscriber = Subscriber(publisher.address)
        timer = threading.Timer(0.2, subscriber.close)
        timer.start()
        assert list(subscriber) == []
        timer.join()
        subscriber.close()


def test_a_subscriber_loads_neither_torch_nor_av_nor_cv2() -> None:
    code = (
        "import sys; from pipeline import Subscriber; import pipeline.wire.message_json, pipeline.__main__; "
        "print(sorted({'torch', 'av', 'cv2', 'scipy', 'pydantic'} & set(sys.modules)), Subscriber.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "Subscriber"]
