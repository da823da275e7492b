"""Heartbeats tell how a source is at this moment, whatever hangs: counters, the last result, conditions."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
import zmq
from support.predictors import FixedPredictor
from support.results import make_result
from support.streams import tiny_config
from support.video import write_video
from support.wait import wait_until
from support.wire import ANY_PORT, NO_DROPS, make_publisher, raw_socket, receive, small_result, start_verb

from pipeline.health import CONDITIONS, Health, Trouble, Vitals
from pipeline.live.stream import Stream
from pipeline.sinks.publish import PublishSink
from pipeline.stats import Ledger
from pipeline.types import Window, WindowPrediction
from pipeline.wire.codec import decode, encode
from pipeline.wire.messages import EventMessage, HeartbeatMessage
from pipeline.wire.subscriber import Subscriber


class Camera:
    """Counters and conditions of a source as a stream keeps them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.health = Health("cam")
        self.last_result: float | None = None

    def vitals(self) -> Vitals:
        ledger, last = self.ledger, self.last_result
        return Vitals(
            read=ledger.read,
            published=ledger.published,
            dropped=ledger.dropped,
            packet_errors=ledger.packet_errors,
            reconnects=ledger.reconnects,
            damaged=ledger.damaged,
            last_result_age_ms=None if last is None else round((time.monotonic() - last) * 1000),
            health=self.health.troubles,
        )


def conditions(reader: Subscriber) -> list[str] | None:
    health = reader.health("cam")
    return None if health is None else [each.condition for each in health]


def test_counters_of_a_heartbeat_are_fresh_though_nothing_is_published() -> None:
    camera = Camera()
    vitals = {"cam": camera.vitals}
    with (
        make_publisher(vitals=vitals, heartbeat_seconds=0.05) as publisher,
        Subscriber(publisher.address) as reader,
    ):
        wait_until(lambda: "cam" in reader.heartbeats, what="a heartbeat")
        first = reader.heartbeats["cam"]
        assert (first.read, first.published, first.last_result_age_ms, first.health) == (0, 0, None, ())
        publisher.set_state("cam", "live", NO_DROPS)
        camera.last_result = time.monotonic()
        for count in (
            camera.ledger.count_read,
            camera.ledger.count_published,
            camera.ledger.count_packet_error,
            camera.ledger.count_reconnect,
            camera.ledger.count_damaged,
        ):
            count()
        camera.ledger.count_dropped("stale", 7)
        wait_until(lambda: reader.heartbeats["cam"].damaged == 1, what="the counters arrive")
        told = reader.heartbeats["cam"]
        assert (told.read, told.published, told.packet_errors, told.reconnects) == (1, 1, 1, 1)
        assert told.dropped == camera.ledger.dropped
        assert told.dropped["stale"] == 7
        assert told.state == "live"
        age = told.last_result_age_ms
        assert age is not None
        wait_until(
            lambda: (reader.heartbeats["cam"].last_result_age_ms or 0) > age + 200,
            what="the age of the last result grows",
        )


def test_a_condition_is_told_at_once_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    camera = Camera()
    with (
        make_publisher(vitals={"cam": camera.vitals}, heartbeat_seconds=3600) as publisher,
        Subscriber(publisher.address) as reader,
    ):
        assert reader.health("cam") is None
        publisher.wait_for_subscribers(1)
        wait_until(lambda: conditions(reader) == [], what="the event says that all is well")
        assert not reader.heartbeats, "the first heartbeat was before this reader's time"
        camera.health.begin("hung", "the model has not answered for 5 s")
        wait_until(lambda: conditions(reader) == ["hung"], what="it hangs")
        (trouble,) = reader.health("cam") or ()
        assert trouble == camera.health.troubles[0]
        assert reader.heartbeats["cam"].health == (trouble,)
        camera.health.begin("behind", "12 frames dropped")
        wait_until(lambda: conditions(reader) == ["hung", "behind"], what="a second one")
        camera.health.end("hung")
        wait_until(lambda: conditions(reader) == ["behind"], what="the first is over")
    ours = [each.getMessage() for each in caplog.records if each.name == "pipeline.wire.source_book"]
    address = publisher.address
    assert f"{address}: source cam: hung: the model has not answered for 5 s" in ours
    assert f"{address}: source cam: hung is over" in ours
    assert sum("behind" in each for each in ours) == 1


def test_a_detail_that_changes_is_no_news_and_comes_with_the_next_heartbeat() -> None:
    camera = Camera()
    camera.health.begin("hung", "for 0 s")
    with (
        make_publisher(vitals={"cam": camera.vitals}, heartbeat_seconds=0.4) as publisher,
        raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/heartbeat/"]) as (socket, _),
    ):
        told: list[HeartbeatMessage] = []
        for number in itertools.count():
            camera.health.begin("hung", f"for {number} s")
            if socket.poll(10):
                message = decode(socket.recv_multipart())
                assert isinstance(message, HeartbeatMessage)
                told.append(message)
            if len(told) == 4:
                break
    details = [each.health[0].detail for each in told if each.health]
    assert len(set(details)) == 4
    assert told[3].published_ns - told[0].published_ns > 0.7e9, "more than one within a heartbeat"


def test_a_late_joiner_learns_the_conditions_from_the_event() -> None:
    camera = Camera()
    camera.health.begin("clock", "it stands still: arrival counts")
    with (
        make_publisher(vitals={"cam": camera.vitals}, heartbeat_seconds=3600) as publisher,
        raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/event/"]) as (socket, _),
    ):
        event = decode(receive(socket))
        assert isinstance(event, EventMessage)
        assert event.health == camera.health.troubles


def test_without_vitals_the_keys_are_absent_and_a_reader_says_not_known() -> None:
    with make_publisher(heartbeat_seconds=0.05) as publisher:
        with raw_socket(zmq.SUB, connect=publisher.address, topics=[b"vis1/"]) as (socket, _):
            for _ in range(4):
                header = msgpack.unpackb(receive(socket)[1])
                assert header["v"] == [1, 1]
                assert not {"health", "read", "last_result_age_ms"} & set(header)
        with Subscriber(publisher.address) as reader:
            wait_until(lambda: "cam" in reader.heartbeats, what="a heartbeat")
            assert reader.health("cam") is None
            assert reader.heartbeats["cam"].read is None


def test_a_publisher_that_is_started_again_without_vitals_takes_nothing_back_by_silence() -> None:
    """What is not known any more is not said to be well."""
    camera = Camera()
    camera.health.begin("frozen", "the same picture for 60 s")
    with make_publisher(vitals={"cam": camera.vitals}, heartbeat_seconds=0.05) as publisher:
        address = publisher.address
        reader = Subscriber(address)
        wait_until(lambda: conditions(reader) == ["frozen"], what="the condition arrives")
    with reader, make_publisher(address=address, heartbeat_seconds=0.05):
        wait_until(lambda: reader.health("cam") is None, what="it is not known any more")


def test_a_message_of_version_1_0_has_none_of_the_keys() -> None:
    trouble = Trouble("hung", "", 5)
    beat = HeartbeatMessage(
        "cam", "p", "b", None, 0, "live", {}, read=1, published=1, reconnects=0, packet_errors=0, damaged=0,
        health=(trouble,), last_result_age_ms=3,
    )  # fmt: skip
    assert decode(encode(beat)) == beat
    old = decode(encode(dataclasses.replace(beat, wire_version=(1, 0))))
    assert old == HeartbeatMessage("cam", "p", "b", None, 0, "live", {}, wire_version=(1, 0))


def test_more_conditions_and_longer_details_than_a_reader_takes_are_cut_off() -> None:
    troubles = tuple(Trouble(f"c{number}", "\N{CHEESE WEDGE}" * 5000, number) for number in range(40))
    beat = HeartbeatMessage("cam", "p", "b", None, 0, "live", {}, health=troubles)
    again = decode(encode(beat))
    assert isinstance(again, HeartbeatMessage)
    assert again.health is not None
    assert [each.condition for each in again.health] == [f"c{number}" for number in range(16)]
    assert {each.detail for each in again.health} == {"\N{CHEESE WEDGE}" * 511 + "…"}


def test_a_damaged_picture_is_marked_and_others_are_not() -> None:
    with make_publisher() as publisher, Subscriber(publisher.address, timeout_seconds=10) as reader:
        publisher.wait_for_subscribers(1)
        good = small_result(0)
        publisher.publish(good, NO_DROPS)
        broken = dataclasses.replace(good, frame=dataclasses.replace(good.frame, damaged=True))
        publisher.publish(broken, NO_DROPS)
        assert [next(reader).damaged, next(reader).damaged] == [False, True]
    with make_publisher() as publisher:
        process = start_verb("subscribe", publisher.address, "--count", "1")
        publisher.wait_for_subscribers(1)
        result = make_result(3, source="cam")
        publisher.publish(
            dataclasses.replace(result, frame=dataclasses.replace(result.frame, damaged=True)), NO_DROPS
        )
        out, _ = process.communicate(timeout=30)
    assert out == "cam 0 frame 3 0.300 s [damaged]: nothing\n"


def test_the_verb_says_health_on_stderr_and_keeps_its_lines_for_masks() -> None:
    camera = Camera()
    camera.health.begin("record", "no\nroom \x1b[31mleft")
    with make_publisher(vitals={"cam": camera.vitals}, heartbeat_seconds=0.05) as publisher:
        process = start_verb("subscribe", publisher.address, "--source", "cam", "--json")
        publisher.wait_for_subscribers(1)
        publisher.publish(small_result(0), NO_DROPS)
        publisher.end("cam", "stopped", "ended \x1b[31mso")
        out, err = process.communicate(timeout=30)
    assert len(out.splitlines()) == 1
    assert "source cam: record: no room \N{REPLACEMENT CHARACTER}[31mleft" in err
    assert "ended \N{REPLACEMENT CHARACTER}[31mso" in err
    assert "\x1b" not in err


class Hanging(FixedPredictor):
    """Answers some windows and then no more, until it is let go."""

    def __init__(self, answers: int) -> None:
        super().__init__(num_masks=1)
        self.let_go = threading.Event()
        self.hangs = threading.Event()
        self._left = answers

    def predict(self, window: Window) -> WindowPrediction:
        self._left -= 1
        if self._left < 0:
            self.hangs.set()
            assert self.let_go.wait(60)
        return super().predict(window)


def test_a_model_that_hangs_shows_in_the_heartbeats_of_a_stream(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=60)
    config = tiny_config(
        clip,
        cadence={"fps": "source"},
        publish={"address": ANY_PORT, "wait_for_subscribers": 1, "heartbeat_seconds": 0.05},
    )
    model = Hanging(answers=3)
    stream = Stream(config, predictor=model)
    (sink,) = [each for each in stream.sinks if isinstance(each, PublishSink)]
    with Subscriber(sink.address, "source0", timeout_seconds=30) as reader:
        runner = threading.Thread(target=stream.run)
        runner.start()
        try:
            assert model.hangs.wait(30)
            masks = [next(reader) for _ in range(3)]
            wait_until(beat_of(reader, lambda beat: beat.published == 3), what="the counters arrive")
            ages = []
            for number in range(3):
                ages.append(reader.heartbeats["source0"].last_result_age_ms or 0)
                wait_until(
                    beat_of(reader, lambda beat, at=ages[number]: (beat.last_result_age_ms or 0) > at + 100),
                    what="the age grows",
                )
            beat = reader.heartbeats["source0"]
            assert beat.state == "live"
            assert beat.seq == masks[-1].seq == 2
            assert beat.published == 3
            assert beat.read is not None
            assert beat.read > 3
        finally:
            model.let_go.set()
            runner.join(60)
        assert len(list(reader)) == 57


def beat_of(reader: Subscriber, says: Callable[..., bool]) -> Callable[[], bool]:
    return lambda: "source0" in reader.heartbeats and says(reader.heartbeats["source0"])


def test_every_condition_reaches_a_reader() -> None:
    camera = Camera()
    for name in CONDITIONS:
        camera.health.begin(name, f"detail of {name}")
    with make_publisher(vitals={"cam": camera.vitals}) as publisher, Subscriber(publisher.address) as reader:
        wait_until(lambda: conditions(reader) == list(CONDITIONS), what="all arrive")
    page = (Path(__file__).parents[3] / "docs" / "wire.md").read_text("utf-8")
    for name in CONDITIONS:
        assert f"`{name}`" in page[page.index("## `heartbeat`") : page.index("## `end`")], name
