"""A real street clip through the whole system, by every way in: file, HTTP, RTSP over tcp and udp.

A subscriber in a process of its own receives every message; all 250 frames are accounted for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.rtsp_server import RtspServer
from support.scripted_server import ScriptedServer, http_files
from support.streams import street_clip, tiny_config

from pipeline import Stream
from pipeline.sinks.publish import PublishSink

ROOT = Path(__file__).parents[2]
NUM_FRAMES = 250


def stream_to_subscriber(url: str, **source: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a stream of `url` to its end; return its report and what a subscriber process printed."""
    config = tiny_config(
        {"street": url},
        source=source,
        publish={"address": "tcp://127.0.0.1:*", "wait_for_subscribers": 1, "block": True},
    )
    stream = Stream(config)
    (publisher,) = [sink for sink in stream.sinks if isinstance(sink, PublishSink)]
    subscriber = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "subscribe", publisher.address, "--source", "street", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        report = stream.run()
        out, said = subscriber.communicate(timeout=30)
    finally:
        subscriber.kill()
    assert subscriber.returncode == 0, said
    return report, [json.loads(line) for line in out.splitlines()]


def assert_all_arrived(report: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert report["read"] == NUM_FRAMES == report["published"] + sum(report["dropped"].values())
    assert [message["seq"] for message in messages] == list(range(report["published"]))
    assert all((message["width"], message["height"]) == (640, 272) for message in messages)
    assert report["sources"]["street"]["packet_errors"] == 0


def test_the_street_clip_from_a_file() -> None:
    report, messages = stream_to_subscriber(str(street_clip()))
    assert_all_arrived(report, messages)
    assert (report["published"], report["dropped"]["cadence"]) == (100, 150)
    assert [message["frame_index"] for message in messages] == [slot * 5 // 2 for slot in range(100)]


def test_the_street_clip_from_an_http_server() -> None:
    clip = street_clip()
    with ScriptedServer(http_files(clip.parent)) as server:
        report, messages = stream_to_subscriber(server.url("http", f"/{clip.name}"))
    assert_all_arrived(report, messages)
    assert report["published"] == 100, "a finite file over HTTP waits for its reader: nothing is lost"


@pytest.mark.rtsp
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_street_clip_over_rtsp_at_its_own_pace(transport: str) -> None:
    with RtspServer(file=street_clip()) as server:
        report, messages = stream_to_subscriber(server.file_url, rtsp_transport=transport, reconnect=False)
    assert_all_arrived(report, messages)
    assert report["wall_seconds"] > 9, "250 frames at 25 fps take ten seconds"
    assert report["published"] + report["dropped"]["stale"] == 100
    assert report["sources"]["street"]["end"] == "end_of_file"
