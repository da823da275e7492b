"""`python -m pipeline subscribe`: a real process, its output, its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from support.results import ellipse, make_instance, make_result
from support.wait import wait_until
from support.wire import NO_DROPS, free_address, make_publisher, raw_socket, receive, small_result, start_verb

from pipeline.__main__ import VERBS
from pipeline.wire.message_json import INSTANCE_KEYS, KEYS
from pipeline.wire.publisher import Publisher


@contextmanager
def reader_of(publisher: Publisher, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a `subscribe` process that has joined; it is killed where it does not end by itself."""
    before = publisher.num_subscribers
    process = start_verb("subscribe", publisher.address, *arguments)
    try:
        wait_until(
            lambda: publisher.num_subscribers > before, what="the process subscribes", timeout_seconds=30
        )
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    out, err = process.communicate(timeout=30)
    return out.splitlines(), err


def test_the_verbs_are_frozen() -> None:
    assert set(VERBS) == {"adapt", "evaluate", "keys", "subscribe"}


def test_json_lines_on_stdout_all_else_on_stderr_and_the_end_ends_it() -> None:
    lost = make_instance(None, track_id=2, state="lost")
    person = make_instance(ellipse(64, 96, (40, 30), (20, 10)))
    with make_publisher() as publisher, reader_of(publisher, "--source", "cam", "--json") as process:
        for index in range(3):
            publisher.publish(make_result(index, source="cam", instances=[person, lost]), NO_DROPS)
        publisher.end("cam", "end_of_file")
        out, err = finish(process)
    assert process.returncode == 0
    assert "untrained" in err
    assert "3 messages, 0 lost, 0 skipped, 0 malformed" in err
    assert "source cam ended (end_of_file)" in err
    messages = [json.loads(line) for line in out]
    assert [message["seq"] for message in messages] == [0, 1, 2]
    for message in messages:
        assert tuple(message) == KEYS
        first, second = message["instances"]
        assert tuple(first) == tuple(second) == INSTANCE_KEYS
        assert first["class_name"] == "person"
        assert first["rle"]["size"] == [64, 96]
        assert isinstance(first["rle"]["counts"], str)
        assert second["rle"] is None


def test_readable_lines_without_json() -> None:
    lost = make_instance(None, track_id=2, state="lost")
    person = make_instance(ellipse(64, 96, (40, 30), (20, 10)))
    with make_publisher() as publisher, reader_of(publisher, "--count", "2") as process:
        publisher.publish(make_result(7, source="cam", instances=[person, lost]), NO_DROPS)
        publisher.publish(make_result(8, source="cam", held=True, final=False), NO_DROPS)
        out, _ = finish(process)
    assert out == [
        "cam 0 frame 7 0.700 s: #1 person 0.90, #2 person 0.90 (lost)",
        "cam 1 frame 8 0.800 s [held] [not final]: nothing",
    ]
    assert process.returncode == 0


def test_count_ends_it_while_the_stream_goes_on() -> None:
    with (
        make_publisher("cam", "door") as publisher,
        reader_of(publisher, "--count", "3", "--json") as process,
    ):
        for index in range(10):
            publisher.publish(small_result(index), NO_DROPS)
        out, err = finish(process)
    assert len(out) == 3
    assert process.returncode == 0, err


def test_latest_prints_the_newest() -> None:
    with (
        make_publisher() as publisher,
        reader_of(publisher, "--source", "cam", "--latest", "--json") as process,
    ):
        for index in range(500):
            publisher.publish(small_result(index), NO_DROPS)
        publisher.end("cam", "end_of_file")
        out, err = finish(process)
    seqs = [json.loads(line)["seq"] for line in out]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] == 499
    assert f"{len(seqs)} messages, 0 lost, {500 - len(seqs)} skipped" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_cleanly(number: signal.Signals) -> None:
    with make_publisher() as publisher, reader_of(publisher) as process:
        publisher.publish(small_result(0), NO_DROPS)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("cam 0 ")
        process.send_signal(number)
        _, err = finish(process)
        assert process.returncode == 0
        assert "Traceback" not in err
        wait_until(lambda: publisher.num_subscribers == 0, what="it has unsubscribed")


def test_a_reader_of_its_output_that_goes_away_ends_it() -> None:
    stop = threading.Event()
    with make_publisher() as publisher, reader_of(publisher, "--json") as process:

        def publish() -> None:
            while not stop.wait(0.01):
                publisher.publish(small_result(0), NO_DROPS)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(30) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "tcp://HOST:PORT"),
        ([], "ADDR"),
        (["tcp://127.0.0.1:5555", "--source", "a/b"], "source id 'a/b'"),
        (["tcp://127.0.0.1:5555", "--count", "0"], "whole number from 1"),
        (["tcp://127.0.0.1:5555", "--timeout", "soon"], "number of seconds above 0"),
        (["tcp://127.0.0.1:5555", "--colour"], "--colour"),
    ],
)
def test_bad_arguments_end_with_1_and_say_what_is_wrong(arguments: list[str], reason: str) -> None:
    process = start_verb("subscribe", *arguments)
    out, err = finish(process)
    assert process.returncode == 1
    assert reason in err
    assert "Traceback" not in err
    assert not out


def test_an_unknown_verb_ends_with_1() -> None:
    process = start_verb("dance")
    _, err = finish(process)
    assert process.returncode == 1
    assert "subscribe" in err


def test_silence_ends_with_2_and_names_the_address() -> None:
    address = free_address()
    process = start_verb("subscribe", address, "--timeout", "0.3")
    _, err = finish(process)
    assert process.returncode == 2
    assert address in err
    assert "Traceback" not in err


def test_another_major_version_ends_with_2_and_names_both() -> None:
    with raw_socket(zmq.XPUB) as (socket, address):
        process = start_verb("subscribe", address, "--source", "cam")
        while receive(socket, timeout_seconds=30) != [b"\x01vis1/masks/cam/"]:
            pass
        socket.send_multipart([b"vis2/masks/cam/", b"whatever comes then"])
        _, err = finish(process)
    assert process.returncode == 2
    assert "the publisher speaks wire version 2, this subscriber version 1" in err
    assert "Traceback" not in err
