"""The street clip that ships: as documented, read like any file, and known by its name alone."""

from __future__ import annotations

import json
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.streams import tiny_config
from support.video import make_reading, read

from pipeline import Stream, Subscriber
from pipeline.errors import SourceUnreadable
from pipeline.sinks.publish import PublishSink
from pipeline.sources.addresses import STREET_CLIP, parse_address
from pipeline.types import End

HEIGHT, WIDTH, FPS, NUM_FRAMES = 384, 640, 10, 110
MAX_BYTES = 1_500_000


def test_the_file_is_small_h264_that_plays_while_it_loads() -> None:
    data = STREET_CLIP.read_bytes()
    assert len(data) <= MAX_BYTES
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(STREET_CLIP)) as container:
        assert len(container.streams) == 1, "no sound"
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (HEIGHT, WIDTH)
        assert (stream.average_rate, stream.frames) == (Fraction(FPS), NUM_FRAMES)


def test_every_frame_is_read_and_the_default_cadence_takes_all_of_them() -> None:
    reading = read("street", fps=10.0)
    assert reading.end == End("camera", 0, "end_of_file", f"all {NUM_FRAMES} frames were read")
    assert len(reading.frames) == reading.ledger.read == NUM_FRAMES
    assert reading.source.fps == FPS
    assert reading.gaps == []
    assert all(frame.image.shape == (HEIGHT, WIDTH, 3) for frame in reading.frames)


def test_the_camera_stands_still_while_people_and_cars_move() -> None:
    images = np.stack([frame.image for frame in read("street").frames[::10]]).astype(np.float32).mean(3)
    swing = images.max(0) - images.min(0)
    houses = swing[: HEIGHT // 5, : WIDTH // 3]
    assert np.median(houses) < 12, "noise and compression alone"
    crossing = swing[HEIGHT * 3 // 5 : HEIGHT * 4 // 5, WIDTH // 3 : WIDTH * 4 // 5]
    assert (crossing > 40).mean() > 0.4


def test_a_stream_over_it_runs_to_its_end_and_accounts_for_every_frame() -> None:
    stream = Stream(tiny_config("street", max_frames=12))
    results = list(stream)
    assert [result.frame.index for result in results] == list(range(12))
    report = stream.report()
    assert (report["read"], report["published"], sum(report["dropped"].values())) == (12, 12, 0)
    assert report["sources"]["source0"]["end"] == "max_frames"


def test_subscribers_and_reports_are_told_its_name_and_no_path() -> None:
    publish = {"address": "tcp://127.0.0.1:*", "wait_for_subscribers": 1, "block": True}
    stream = Stream(tiny_config({"cam": "street"}, max_frames=3, publish=publish))
    (publisher,) = [sink for sink in stream.sinks if isinstance(sink, PublishSink)]
    running = threading.Thread(target=stream.run)
    with Subscriber(publisher.address, source="cam", timeout_seconds=30) as subscriber:
        running.start()
        messages = list(subscriber)
        running.join()
    assert [message.frame_index for message in messages] == [0, 1, 2]
    facts = subscriber.events["cam"].facts
    assert (facts.kind, facts.url) == ("file", "street")
    assert str(STREET_CLIP.parent) not in json.dumps(stream.report())


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_a_clip_that_is_missing_or_damaged_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    clip = tmp_path / "street.mp4"
    if damage != "missing":
        clip.write_bytes(b"" if damage == "empty" else bytes(range(256)) * 64)
    monkeypatch.setattr("pipeline.sources.addresses.STREET_CLIP", clip)
    reading = make_reading("street")
    reading.run()
    assert isinstance(reading.error, SourceUnreadable)
    assert "'camera': street:" in str(reading.error)
    assert "install the package again" in str(reading.error)
    assert str(tmp_path) not in str(reading.error)


def test_a_file_of_the_same_name_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street").mkdir()
    assert parse_address("./street").kind == "images"
    assert parse_address("street").target == str(STREET_CLIP)
