"""Many cameras at once, and cameras that fail: what becomes of the others, and when one is back.

    python tests/benchmarks/bench_cameras.py [--json FILE] [--rounds N] [--seconds S] [--cameras N]
                                             [--parts many faults latest returns]

Scripted RTSP cameras of 640×360 (support/fault_server.py) in a process of their own, and a model that finds
nothing at once. Targets of each part, shown and not asserted:

`many`: 40 cameras at 10 pictures a second keep 95 % of their cadence each. The cadence is what was published
of what the camera sent in the same seconds. The peer decodes the same cameras with PyAV in threads and does
nothing else. The stream runs as it is, and with room for four waiting pictures a camera (`queue.live_frames`).
`faults`: ten such cameras and one that floods or is broken; the ten keep 95 % of theirs.
`latest`: age of what `Subscriber.latest()` returns, from the decoded picture on; 99 % are at most the frame
interval and 50 ms old. The peer is a bare ZeroMQ socket that receives and does nothing else.
`returns`: all cameras lose power at once and come back; each has pictures again within the longest pause of
the back-off, the time of opening and one interval of key pictures. The peer opens the same cameras with PyAV.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import av
import msgpack
import numpy as np
import zmq
from benchmarks.camera_processes import GOP, Cameras, PublishingStream, null_stream
from benchmarks.processes import OtherWork

from pipeline import Stream, Subscriber
from pipeline.sources.backoff import LAST_SECONDS
from pipeline.wire.messages import topic

PARTS = ("many", "faults", "latest", "returns")
FPS = 10.0
TARGET_PERCENT = 95.0
TARGET_MS = 50.0
BAD = "bad"
"""The name of the camera that is broken."""
FAULTS = ("flood", "SEI only", "drips", "drips pictures", "reconnect storm", "becomes H.265")
SETTLE_SECONDS = 10.0
"""In which what waited in the sockets while all were opened is taken up."""
WARM_UP_SECONDS = 3.0
ROOM = 4
"""`queue.live_frames` of the second row of `many`."""
OUTAGE_SECONDS = 12.0
"""Long enough that the pauses between attempts have grown to their longest."""
READER_WORK_MS = (0, 30, 150)
LATEST_FPS = 25.0
_START_SECONDS = 90.0
_POLL_SECONDS = 0.02


def names(number: int) -> list[str]:
    """Of so many cameras."""
    return [f"cam{position}" for position in range(number)]


def wait_for(true: Callable[[], bool], what: str, *, seconds: float = _START_SECONDS) -> None:
    """Return when it is; RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)


class Counted:
    """Pictures that PyAV decodes from each camera in a thread of its own: the peer."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._stop = threading.Event()
        self.counts = dict.fromkeys(urls, 0)
        self._threads = [
            threading.Thread(target=self._decode, args=(name, url), daemon=True) for name, url in urls.items()
        ]
        for thread in self._threads:
            thread.start()

    def published(self) -> dict[str, int]:
        """Pictures so far."""
        return dict(self.counts)

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _decode(self, name: str, url: str) -> None:
        with av.open(url, options={"rtsp_transport": "tcp"}) as container:
            container.streams.video[0].thread_type = "SLICE"
            for _ in container.decode(video=0):
                self.counts[name] += 1
                if self._stop.is_set():
                    return


class Running:
    """A stream that runs in a thread of this process."""

    def __init__(self, urls: Mapping[str, str], *, live_frames: int = 1) -> None:
        self.stream: Stream = null_stream(urls, address=None, num_masks=0, live_frames=live_frames)
        self.counts = dict.fromkeys(urls, 0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def published(self) -> dict[str, int]:
        """Results so far, by source."""
        return dict(self.counts)

    def close(self) -> None:
        """End it."""
        self.stream.stop()
        self._thread.join()

    def _run(self) -> None:
        for result in self.stream:
            self.counts[result.frame.source] += 1


def cadences(reader: Counted | Running, cameras: Cameras, *, seconds: float) -> dict[str, Any]:
    """Published of sent, per cent of each camera, for so long; and the cores that it took."""

    def moment() -> tuple[float, float, float, dict[str, int], dict[str, int]]:
        served = cameras.cpu_seconds()
        return time.monotonic(), time.process_time(), served, cameras.num_sent(), reader.published()

    good = [name for name in reader.published() if name != BAD]
    wait_for(lambda: all(reader.published()[name] for name in good), "every camera has a picture")
    time.sleep(SETTLE_SECONDS)
    begun = moment()
    time.sleep(seconds)
    ended = moment()
    span = ended[0] - begun[0]
    sent = {name: ended[3][name] - begun[3][name] for name in good}
    shares = [100 * (ended[4][name] - begun[4][name]) / sent[name] for name in good]
    return {
        "worst_percent": min(shares),
        "median_percent": statistics.median(shares),
        "below_target": sum(share < TARGET_PERCENT for share in shares),
        "sent_fps": statistics.median(sent.values()) / span,
        "cores": (ended[1] - begun[1]) / span,
        "cameras_cores": (ended[2] - begun[2]) / span,
    }


def many(*, number: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """The peer and the stream on the same cameras, in turns."""
    kinds: dict[str, Callable[[Mapping[str, str]], Counted | Running]] = {
        "peer: PyAV in threads": Counted,
        "stream": Running,
        f"stream, queue.live_frames: {ROOM}": partial(Running, live_frames=ROOM),
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    with Cameras("steady", fps=FPS) as cameras:
        urls = {each: cameras.url(each) for each in names(number)}
        for name, reads in list(kinds.items()) * rounds:
            with closing(reads(urls)) as reader:
                found = cadences(reader, cameras, seconds=seconds)
            runs.setdefault(name, []).append(found)
            print_row({"name": f"{number} cameras, {name}", **found})
    rows = [{"name": name, "cameras": number, **best(found)} for name, found in runs.items()]
    for row in rows[1:]:
        row["cores_of_peers"] = row["cores"] / rows[0]["cores"]
    return rows


def faults(*, number: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Good cameras with none, and with each kind of bad one."""
    rows = []
    with Cameras("steady", fps=FPS) as cameras:
        urls = {each: cameras.url(each) for each in names(number)}
        for fault in (None, *FAULTS):
            found = []
            with nullcontext() if fault is None else Cameras(fault, fps=FPS) as bad:
                more = {} if bad is None else {BAD: bad.url(BAD)}
                for _ in range(rounds):
                    with closing(Running(urls | more)) as reader:
                        found.append(cadences(reader, cameras, seconds=seconds))
            name = "none is bad" if fault is None else fault
            rows.append({"name": name, "cameras": number, **best(found)})
            print_row(rows[-1])
    return rows


def latest(*, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Ages of what `latest()` returns to readers that work for so long between two calls; and of what a bare
    socket receives."""
    runs: dict[str, list[dict[str, Any]]] = {}
    with Cameras("steady", fps=LATEST_FPS) as camera:
        for _ in range(rounds):
            with PublishingStream({"cam": camera.url("cam")}, num_masks=10) as stream:
                runs.setdefault("peer: bare socket", []).append(_ages(_bare(stream.ready), 0, seconds))
                for work_ms in READER_WORK_MS:
                    with Subscriber(stream.ready, source="cam") as subscriber:
                        got = iter(lambda s=subscriber: _captured(s), None)
                        name = f"latest(), {work_ms} ms of work between calls"
                        runs.setdefault(name, []).append(_ages(got, work_ms, seconds))
    rows = []
    for name, found in runs.items():
        least = min(found, key=lambda each: float(each["beyond_interval_p99_ms"]))
        rows.append({"name": name, "fps": LATEST_FPS, **least})
        print_row(rows[-1])
    return rows


def _captured(subscriber: Subscriber) -> int | None:
    message = subscriber.latest()
    return None if message is None else message.captured_ns


def _bare(address: str) -> Iterable[int]:
    """`captured_ns` of each message, once it was received."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(topic("masks", "cam"))
        socket.connect(address)
        while True:
            yield int(msgpack.unpackb(socket.recv_multipart()[1])["captured_ns"])


def _ages(captured: Iterable[int], work_ms: float, seconds: float) -> dict[str, Any]:
    """Milliseconds from the decoded picture to its return, after the warm-up."""
    begun, ages = None, []
    for captured_ns in captured:
        now = time.monotonic()
        begun = now if begun is None else begun
        if now - begun > WARM_UP_SECONDS:
            ages.append((time.time_ns() - captured_ns) / 1e6)
        if now - begun > WARM_UP_SECONDS + seconds:
            break
        time.sleep(work_ms / 1e3)
    p50, p99 = np.percentile(ages, (50, 99)).tolist()
    return {
        "messages": len(ages),
        "p50_ms": p50,
        "p99_ms": p99,
        "worst_ms": max(ages),
        "beyond_interval_p99_ms": p99 - 1e3 / LATEST_FPS,
    }


def returns(*, number: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds from the cameras' return to the first result of each."""
    waits: list[float] = []
    with Cameras("joined", fps=FPS) as cameras:
        urls = {each: cameras.url(each) for each in names(number)}
        opening = [_opening_seconds(url) for url in urls.values()]
        with closing(Running(urls)) as reader:
            for _ in range(rounds):
                wait_for(lambda: all(reader.published().values()), "every camera has a picture")
                wait_for(
                    lambda: all(each.state == "live" for each in reader.stream.sources.values()), "all live"
                )
                time.sleep(WARM_UP_SECONDS)
                cameras.power(on=False)
                time.sleep(OUTAGE_SECONDS)
                before = reader.published()
                cameras.power(on=True)
                waits += _returns(reader, before)
    interval = GOP / FPS
    bound = LAST_SECONDS + max(opening) + interval
    row = {
        "name": f"{number} cameras at once",
        "returns": len(waits),
        "median_seconds": statistics.median(waits),
        "worst_seconds": max(waits),
        "opening_seconds": max(opening),
        "bound_seconds": bound,
        "worst_of_bound": max(waits) / bound,
    }
    print_row(row)
    return [row]


def _opening_seconds(url: str) -> float:
    """From nothing to a container of PyAV that is open, without the wait for a key picture."""
    begun = time.monotonic()
    with av.open(url, options={"rtsp_transport": "tcp", "analyzeduration": "100000"}):
        return time.monotonic() - begun


def _returns(reader: Running, before: Mapping[str, int]) -> list[float]:
    begun = time.monotonic()
    back: dict[str, float] = {}

    def all_back() -> bool:
        now, counts = time.monotonic(), reader.published()
        back.update(
            {name: now - begun for name in before if counts[name] > before[name] and name not in back}
        )
        return len(back) == len(before)

    wait_for(all_back, "every camera is back")
    return list(back.values())


def best(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run whose worst camera did best, and the worst of all runs."""
    chosen = max(found, key=lambda each: float(each["worst_percent"]))
    return {**chosen, "worst_of_all_runs_percent": min(each["worst_percent"] for each in found)}


def print_row(row: Mapping[str, Any]) -> None:
    """One line for the terminal."""
    texts = [
        f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "name"
    ]
    print(f"{row['name']}: {', '.join(texts)}", flush=True)


def measure(*, parts: Sequence[str], number: int, seconds: float, rounds: int) -> dict[str, Any]:
    """The parts asked for, by name, and with what they were run."""
    found: dict[str, Any] = {}
    with OtherWork() as others:
        if "many" in parts:
            found["many"] = many(number=number, seconds=seconds, rounds=rounds)
        if "faults" in parts:
            found["faults"] = faults(number=max(1, number // 4), seconds=seconds, rounds=rounds)
        if "latest" in parts:
            found["latest"] = latest(seconds=seconds, rounds=rounds)
        if "returns" in parts:
            found["returns"] = returns(number=max(1, number // 2), rounds=1)
    return {"rounds": rounds, "seconds": seconds, "fps": FPS, **found, "others_cores": others.cores}


def main() -> int:
    """Print the metrics and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--cameras", type=int, default=40)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    result = measure(parts=args.parts, number=args.cameras, seconds=args.seconds, rounds=args.rounds)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
