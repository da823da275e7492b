"""What a publisher may send to a reader: messages that are too large, too many, or ask for too much."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from support.results import make_instance, make_result
from support.wait import wait_until
from support.wire import (
    NO_DROPS,
    make_facts,
    make_publisher,
    peak_mb,
    raw_socket,
    receive,
    small_result,
    start_verb,
)

from ops.rle import encode_crop
from pipeline.config import PublishConfig
from pipeline.errors import MessageError
from pipeline.sources.sampling import size_fault
from pipeline.types import MAX_MASKS_PIXELS, MAX_PIXELS, Instance, MaskMessage
from pipeline.wire import limits
from pipeline.wire.codec import decode, encode, mask_message
from pipeline.wire.message_json import from_json, to_json
from pipeline.wire.messages import EndMessage, EventMessage, HeartbeatMessage, SourceFacts
from pipeline.wire.publisher import Publisher
from pipeline.wire.subscriber import Subscriber
from pipeline.wire.waiting import Waiting

EVENT = EventMessage(
    "cam", "p", "b", None, 0, "live", "net", "list", {1: "person"}, True, SourceFacts("x", "u")
)
PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text("utf-8")


def masks_of(number: int = 1, *, seq: int = 0, **changes: Any) -> MaskMessage:
    """Return a message of `number` instances of one pixel each."""
    pixel = encode_crop(np.ones((1, 1), bool), 0, 0)
    row = Instance(1, 1, "person", 0.5, (0, 0, 1, 1), "confirmed", pixel)
    message = mask_message(
        make_result(0, source="cam", instances=[row] * number),
        facts=make_facts("cam"),
        producer="p",
        boot="b",
        seq=seq,
        published_ns=0,
        dropped=NO_DROPS,
    )
    return dataclasses.replace(message, **changes)


def test_the_page_lists_every_limit() -> None:
    section = PAGE[PAGE.index("## Limits") : PAGE.index("## Security")]
    numbers = {int(each) for each in re.findall(r"\d+", section)}
    for name, value in vars(limits).items():
        if name.isupper():
            assert int(value) in numbers, name
    assert {MAX_PIXELS, MAX_MASKS_PIXELS, 32767} <= numbers


def test_a_small_message_cannot_ask_for_the_whole_memory() -> None:
    parts = encode(masks_of(300, width=8192, height=8192))
    assert sum(map(len, parts)) < 12_000
    message = decode(parts)
    assert isinstance(message, MaskMessage)
    with pytest.raises(MessageError, match=rf"300 masks of 8192×8192.*{MAX_MASKS_PIXELS}.*decode_crop"):
        _ = message.masks
    # One by one they can still be had.
    assert message.instances[7].dense_mask(8192, 8192).sum() == 1
    mask = message.instances[7].mask
    assert mask is not None
    assert mask.decode_crop().tolist() == [[True]]


def test_the_largest_masks_that_are_given_take_their_pixels_and_no_more() -> None:
    message = masks_of(64, width=2048, height=1024)
    tracemalloc.start()
    try:
        masks = message.masks
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert masks.shape == (64, 1024, 2048)
    assert masks.sum() == 64
    assert peak < 1.1 * masks.nbytes


@pytest.mark.parametrize("size", [(32767, 32767), (8193, 8192), (16384, 4097)])
def test_a_picture_with_more_pixels_than_a_mask_may_have_is_refused_at_every_door(
    size: tuple[int, int],
) -> None:
    width, height = size
    with pytest.raises(ValueError, match=f"{MAX_PIXELS} pixels in all"):
        encode(masks_of(width=width, height=height))
    parts = encode(masks_of())
    header = msgpack.packb({**msgpack.unpackb(parts[1]), "width": width, "height": height})
    with pytest.raises(MessageError, match=f"{width}×{height}.*{MAX_PIXELS} pixels in all"):
        decode([parts[0], header, *parts[2:]])
    line = {**to_json(masks_of()), "width": width, "height": height}
    with pytest.raises(MessageError, match=f"{width}×{height}.*{MAX_PIXELS} pixels in all"):
        from_json(line)
    assert f"{MAX_PIXELS}" in size_fault(height, width)
    assert not size_fault(8192, 8192)


def padded(parts: list[bytes], index: int, size: int) -> list[bytes]:
    """Return the parts with one grown by a key that no reader knows."""
    values = {**msgpack.unpackb(parts[index]), "later": b"x" * size}
    return [*parts[:index], msgpack.packb(values), *parts[index + 1 :]]


@pytest.mark.parametrize(
    ("message", "index", "limit"),
    [
        (masks_of(), 1, limits.HEADER_BYTES),
        (masks_of(), 2, limits.INSTANCES_BYTES),
        (EVENT, 1, limits.EVENT_BYTES),
        (HeartbeatMessage("cam", "p", "b", None, 0, "live", {}), 1, limits.HEADER_BYTES),
        (EndMessage("cam", "p", "b", None, 0, "stopped", "", {}), 1, limits.HEADER_BYTES),
    ],
    ids=["masks", "instances", "event", "heartbeat", "end"],
)
def test_a_part_is_read_up_to_its_limit(message: Any, index: int, limit: int) -> None:
    parts = encode(message)
    used = len(padded(parts, index, limit // 2)[index]) - limit // 2
    fits = padded(parts, index, limit - used)
    assert len(fits[index]) == limit
    assert decode(fits).source == "cam"
    with pytest.raises(MessageError, match=f"has {limit + 1} bytes, at most {limit} are allowed"):
        decode(padded(parts, index, limit - used + 1))


def test_a_message_has_a_bounded_number_of_parts() -> None:
    parts = encode(masks_of())
    assert decode([*parts, *[b""] * (limits.PARTS - 4)]).source == "cam"
    with pytest.raises(MessageError, match=f"at most {limits.PARTS} are allowed"):
        decode([*parts, *[b""] * (limits.PARTS - 3)])


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd" + (2**31).to_bytes(4, "big"),
        b"\xdd\x00\x00\xf0\x00" * 500,
        b"\xdf\x00\x00\xf0\x00" * 500,
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
    ids=["list", "nested lists", "nested maps", "text", "bytes", "extension"],
)
@pytest.mark.parametrize("kind", ["event", "end"])
def test_what_a_part_claims_to_hold_costs_nothing_before_it_is_there(bomb: bytes, kind: str) -> None:
    data = b"\x81\xa1x" + bomb.ljust(61_440, b"\xc0")
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode([f"vis1/{kind}/cam/".encode(), data])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A list of an event may be as long as a class list, a pointer a value.
    assert peak < (300e6 if kind == "event" else 10e6)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({65536: "x"}, r"0\.\.65535"),
        ({-1: "x"}, r"0\.\.65535"),
        ({1: "x" * 257}, "at most 256 characters"),
        (dict.fromkeys(range(65536), "a name that is long"), "1048576 are allowed"),
    ],
)
def test_a_class_list_beyond_the_limits_is_neither_read_nor_sent(names: dict[int, str], reason: str) -> None:
    facts = dataclasses.replace(make_facts("cam"), class_names=names)
    with pytest.raises(ValueError, match=reason):
        Publisher(PublishConfig(address="tcp://127.0.0.1:*"), facts=facts)
    header = {
        **msgpack.unpackb(encode(EVENT)[1]),
        "class_names": [[key, name] for key, name in names.items()],
    }
    with pytest.raises(MessageError, match=reason):
        decode([b"vis1/event/cam/", msgpack.packb(header)])


def test_the_largest_class_list_is_read() -> None:
    names = dict.fromkeys(range(limits.CLASSES), "é" * 5)
    event = decode(encode(dataclasses.replace(EVENT, class_names=names)))
    assert isinstance(event, EventMessage)
    assert event.class_names == names


def test_facts_beyond_the_limits_are_refused_when_they_are_set() -> None:
    with make_publisher() as publisher, Subscriber(publisher.address, timeout_seconds=10) as reader:
        publisher.wait_for_subscribers(1)
        with pytest.raises(ValueError, match=r"url must be a string of at most 4096 characters"):
            publisher.set_facts("cam", SourceFacts("rtsp", "x" * 5000))
        publisher.end("cam", "error", "y" * 5000)
        wait_until(lambda: "cam" in reader.ended, what="the end arrives")
        assert reader.ended["cam"].detail == "y" * 4095 + "…"


def test_masks_above_the_size_of_a_part_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PART_BYTES", 100)
    assert len(encode(masks_of(50))[3]) == 100
    with pytest.raises(ValueError, match=r"take 102 bytes, at most 100.*fewer instances"):
        encode(masks_of(51))


def test_a_reader_outlives_a_part_that_is_too_large_and_keeps_its_memory() -> None:
    huge = bytes(200_000_000)
    with raw_socket(zmq.XPUB, XPUB_VERBOSE=1) as (socket, address):
        process = start_verb("subscribe", address, "--source", "cam", "--json")
        try:
            before = 0.0
            for seq in range(5):
                while receive(socket, timeout_seconds=60) != [b"\x01vis1/masks/cam/"]:
                    pass
                before = before or peak_mb(process.pid)
                socket.send_multipart(encode(masks_of(seq=seq)))
                if seq < 4:
                    socket.send_multipart([*encode(masks_of(seq=seq))[:3], huge])
            grown = peak_mb(process.pid) - before
            socket.send_multipart(encode(EndMessage("cam", "p", "b", 4, 0, "stopped", "", {})))
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == list(range(5)), err
    assert grown < 100, f"{grown:.0f} MB more"
    said = [line for line in err.splitlines() if "ended 3 times within a minute" in line]
    assert len(said) == 1, err
    assert f"max_message_bytes ({limits.PART_BYTES})" in said[0]
    assert address in said[0]


def test_the_size_of_a_part_is_an_argument_of_the_reader() -> None:
    with pytest.raises(ValueError, match="max_message_bytes must be at least 1024, got 1023"):
        Subscriber("tcp://127.0.0.1:5555", max_message_bytes=1023)
    noise = make_instance(np.random.default_rng(0).random((64, 96)) < 0.5)
    large = make_result(0, source="cam", instances=[noise] * 3)
    size = len(encode(mask_message(
        large, facts=make_facts("cam"), producer="p", boot="b", seq=0, published_ns=0, dropped=NO_DROPS
    ))[3])  # fmt: skip
    with (
        make_publisher() as publisher,
        Subscriber(publisher.address, max_message_bytes=size, timeout_seconds=10) as enough,
        Subscriber(publisher.address, max_message_bytes=size - 1, timeout_seconds=10) as little,
    ):
        publisher.wait_for_subscribers(2)
        publisher.publish(large, NO_DROPS)
        assert next(enough).seq == 0
        wait_until(lambda: publisher.num_subscribers == 1, what="the other one's connection ends")
        publisher.wait_for_subscribers(2)
        publisher.publish(small_result(1), NO_DROPS)
        assert [next(enough).seq, next(little).seq] == [1, 1]
        assert little.malformed == 0


def test_a_reader_keeps_account_of_a_bounded_number_of_sources(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with (
        raw_socket(zmq.XPUB, SNDHWM=0) as (socket, address),
        Subscriber(address, timeout_seconds=20) as reader,
    ):
        while receive(socket) != [b"\x01vis1/"]:
            pass
        for number in range(limits.SOURCES + 100):
            beat = HeartbeatMessage(f"cam{number}", "p", "b", None, 0, "live", {}, health=())
            socket.send_multipart(encode(beat))
        socket.send_multipart(encode(dataclasses.replace(masks_of(), source="stranger")))
        socket.send_multipart(encode(dataclasses.replace(masks_of(), source="cam5")))
        assert next(reader).source == "cam5"
        assert len(reader.sources) == len(reader.heartbeats) == limits.SOURCES
        assert reader.malformed == 101
        assert reader.health("cam5") == ()
        assert reader.health(f"cam{limits.SOURCES}") is None
    assert f"one more than the {limits.SOURCES} sources" in caplog.text


def test_the_events_of_all_sources_together_are_bounded() -> None:
    names = dict.fromkeys(range(9000), "x" * 100)
    size = len(encode(dataclasses.replace(EVENT, class_names=names))[1])
    fit = limits.BOOK_BYTES // size
    assert 8 <= fit < 10
    with raw_socket(zmq.XPUB) as (socket, address), Subscriber(address, timeout_seconds=20) as reader:
        while receive(socket) != [b"\x01vis1/"]:
            pass
        for number in (*range(12), 0, 1):  # the newest of a source takes the place of the one before
            socket.send_multipart(encode(dataclasses.replace(EVENT, source=f"c{number}", class_names=names)))
        socket.send_multipart(encode(dataclasses.replace(EVENT, source="c0", model_name="last")))
        wait_until(lambda: "c0" in reader.events and reader.events["c0"].model_name == "last", what="all")
        assert set(reader.events) == {f"c{number}" for number in range(fit)}
        assert reader.malformed == 12 - fit


def test_class_lists_that_no_event_names_any_more_are_forgotten() -> None:
    with raw_socket(zmq.XPUB) as (socket, address), Subscriber(address, timeout_seconds=20) as reader:
        while receive(socket) != [b"\x01vis1/"]:
            pass
        for number in range(50):
            socket.send_multipart(encode(dataclasses.replace(EVENT, class_list=f"list{number}")))
        socket.send_multipart(encode(masks_of(class_list="list49")))
        assert next(reader).instances[0].class_name == "person"
        assert set(reader._book.class_names) == {"list49"}


def test_waiting_messages_are_bounded_in_bytes_too() -> None:
    waiting = Waiting(max_number=1000)
    third = limits.WAITING_BYTES // 3 + 1
    for seq in range(3):
        assert waiting.has_room
        waiting.append(masks_of(seq=seq), third)
    assert not waiting.has_room
    assert waiting.take().seq == 0
    assert waiting.has_room
    for name in "abcd":
        waiting.append(masks_of(source=name), third)
    waiting.keep_newest()
    assert [waiting.take().source for _ in range(len(waiting))] == ["c", "d"]
    assert waiting.skipped == 4
    assert waiting.has_room


def test_the_estimate_of_memory_is_above_what_a_message_takes() -> None:
    bomb = {**msgpack.unpackb(encode(masks_of())[1]), "later": [[[]] * 500] * 60}
    for parts in (encode(masks_of(2000)), [b"vis1/masks/cam/", msgpack.packb(bomb), *encode(masks_of())[2:]]):
        tracemalloc.start()
        try:
            message = decode(parts)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert message.source == "cam"
        assert taken < 1.5 * limits.memory_of(parts)
