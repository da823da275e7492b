"""Publishers, raw sockets and results for tests of the mask stream."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from support.results import ellipse, make_instance, make_result

from ops.rle import encode_crop
from pipeline.config import PublishConfig
from pipeline.health import Vitals
from pipeline.types import FrameResult, Instance
from pipeline.wire.publisher import Publisher, SourceFacts, StreamFacts

ROOT = Path(__file__).parents[2]
ANY_PORT = "tcp://127.0.0.1:*"
NO_DROPS = {"stale": 0}


def make_facts(*sources: str) -> StreamFacts:
    """Return the facts of a stream with these sources."""
    return StreamFacts(
        model_name="net",
        class_list="list",
        class_names={1: "person"},
        trained=False,
        sources={name: SourceFacts("file", f"{name}.mp4", 25.0, 96, 64) for name in sources},
    )


def make_publisher(
    *sources: str,
    address: str = ANY_PORT,
    vitals: Mapping[str, Callable[[], Vitals]] | None = None,
    **config: Any,
) -> Publisher:
    """Return a bound publisher; `config` goes to PublishConfig."""
    facts = make_facts(*(sources or ("cam",)))
    return Publisher(PublishConfig(address=address, **config), facts=facts, vitals=vitals)


def small_result(index: int, source: str = "cam") -> FrameResult:
    """Return a result with one instance, a few hundred bytes on the wire."""
    person = make_instance(ellipse(64, 96, (40, 30), (20, 10)))
    return make_result(index, source=source, instances=[person])


def _noise() -> Instance:
    """Return an instance whose run lengths take about 250 KB."""
    mask = np.random.default_rng(0).random((700, 700)) < 0.5
    crop = encode_crop(mask, 0, 0)
    return Instance(1, 1, "person", 0.9, crop.box_xyxy, "confirmed", crop)


_NOISE = _noise()
_PICTURE = np.zeros((720, 1280, 3), np.uint8)


def big_result(index: int, source: str = "cam") -> FrameResult:
    """Return a result of about 250 KB on the wire: a hundred fill every buffer between two processes."""
    return make_result(index, source=source, image=_PICTURE, instances=[_NOISE])


@contextmanager
def raw_socket(
    kind: int, *, connect: str | None = None, **options: Any
) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    """Yield a socket, connected or bound to a free port, and its address; `topics` are subscribed to."""
    topics = options.pop("topics", ())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(kind)
    try:
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        for topic in topics:
            socket.subscribe(topic)
        if connect is None:
            socket.bind(ANY_PORT)
        else:
            socket.connect(connect)
        yield socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        socket.close(linger=0)
        context.term()


def receive(socket: zmq.Socket[bytes], *, timeout_seconds: float = 10.0) -> list[bytes]:
    """Return the next message; AssertionError when none comes in time."""
    assert socket.poll(int(timeout_seconds * 1000)), f"no message within {timeout_seconds:g} s"
    return socket.recv_multipart()


def start_verb(*arguments: str) -> subprocess.Popen[str]:
    """Start `python -m pipeline …` with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had, in MB; the test is skipped where nobody says so."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(value) / 1024


def free_address() -> str:
    """Return an address on which nobody listens."""
    with raw_socket(zmq.PUB) as (_, address):
        return address
