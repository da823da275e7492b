"""Many cameras through a null model: cadence kept, with others that fail; latency of `latest()`; coming back.

    python tests/benchmarks/bench_cameras.py [--json FILE] [--page FILE] [--cameras N] [--seconds S]
                                             [--parts many others latest back]

Scripted RTSP cameras (camera_server.py, a process of its own) of 640×360 at 10 frames a second. `many`: the
share of what each camera sent that was published, of the worst and the middle one, and processor time next to
a plain loop that decodes the same cameras in threads and does nothing else. `others`: ten cameras alone, then
next to one that floods, drips, sends no picture or breaks off again and again. `latest`: a subscriber's
`latest()` over loopback, from capture. `back`: from the camera's return to the next frame.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

import av
import numpy as np
from support.wire import free_address

from ops.preprocess import fit_size
from pipeline import Stream, Subscriber
from pipeline.config_file import load_config
from pipeline.inference.predictor import ModelFacts
from pipeline.types import Window, WindowPrediction

FPS = 10.0
PARTS = ("many", "others", "latest", "back")
OTHERS = ("flood", "drips", "SEI only", "storm")
WARM_UP_SECONDS = 6.0
TARGETS = {"many": 0.95, "others": 0.95, "latest_ms": 50.0}


class NullModel:
    """Sees nothing, at no cost."""

    facts = ModelFacts(
        name="null", class_list="object", classes={0: (1, "object")}, trained=True, num_frames=1
    )

    def predict(self, window: Window) -> WindowPrediction:
        """No candidates."""
        frame = window.frames[-1]
        return WindowPrediction(
            scores=np.zeros((0, 1), np.float32),
            boxes_xyxy=np.zeros((0, 1, 4), np.float32),
            mask_logits=np.zeros((0, 1, 48, 80), np.float32),
            fit=fit_size(frame.height, frame.width, height=192, width=320),
        )


class Cameras:
    """The server process and its addresses."""

    def __init__(self, number: int, *, others: Sequence[str] = ()) -> None:
        command = [sys.executable, str(Path(__file__).with_name("camera_server.py")), str(number), str(FPS)]
        command += ["--others", *others] if others else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.steady: list[str] = told["steady"]
        self.others: list[str] = told["others"]

    def power(self, word: str) -> float:
        """Cut the power (`off`) or bring it back (`on`); return when, wall clock."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["at"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def cameras(number: int, *, others: Sequence[str] = ()) -> Iterator[Cameras]:
    """Scripted cameras, as long as the block lasts."""
    served = Cameras(number, others=others)
    try:
        yield served
    finally:
        served.close()


@contextmanager
def running(inputs: dict[str, str], *, address: str | None = None) -> Iterator[Stream]:
    """A stream over cameras, every frame shown to the null model."""
    config = load_config(
        values={
            "source": {
                "inputs": inputs,
                "connect_timeout_seconds": 30.0,
                "read_timeout_seconds": 2.0,
                "wait": True,
            },
            "cadence": {"fps": "source"},
            "publish": {"address": address},
        }
    )
    stream = Stream(config, predictor=NullModel())
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        yield stream
    finally:
        stream.stop()
        thread.join()


def kept(stream: Stream, names: Sequence[str], seconds: float) -> tuple[list[float], float]:
    """The share of the cadence that each camera's published frames keep, ascending; processor cores used."""
    time.sleep(WARM_UP_SECONDS)
    before, begun, used = stream.report()["sources"], time.monotonic(), time.process_time()
    time.sleep(seconds)
    after, took = stream.report()["sources"], time.monotonic() - begun
    shares = [(after[name]["published"] - before[name]["published"]) / took / FPS for name in names]
    return sorted(shares), (time.process_time() - used) / took


def plain_cores(urls: Sequence[str], seconds: float) -> float:
    """Cores that a plain loop takes: each camera decoded to RGB in a thread, nothing else."""
    stop = threading.Event()

    def decode(url: str) -> None:
        options = {"rtsp_transport": "tcp", "analyzeduration": "100000"}
        with av.open(url, options=options, timeout=(30, 5)) as container:
            container.streams.video[0].thread_type = "SLICE"
            for picture in container.decode(video=0):
                picture.to_ndarray(format="rgb24", threads=1)
                if stop.is_set():
                    return

    threads = [threading.Thread(target=decode, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_SECONDS)
    begun, used = time.monotonic(), time.process_time()
    time.sleep(seconds)
    cores = (time.process_time() - used) / (time.monotonic() - begun)
    stop.set()
    for thread in threads:
        thread.join()
    return cores


def many(number: int, seconds: float) -> dict[str, Any]:
    """So many cameras at once."""
    with cameras(number) as served:
        plain = plain_cores(served.steady, seconds)
        inputs = {f"cam{index}": url for index, url in enumerate(served.steady)}
        with running(inputs) as stream:
            shares, cores = kept(stream, list(inputs), seconds)
    return {
        "cameras": number,
        "worst": round(shares[0], 3),
        "median": round(statistics.median(shares), 3),
        "cores": round(cores, 2),
        "plain_cores": round(plain, 2),
    }


def others(seconds: float, number: int = 10) -> list[dict[str, Any]]:
    """Ten cameras next to one that fails, by what it does."""
    rows = []
    for name in (None, *OTHERS):
        with cameras(number, others=[] if name is None else [name]) as served:
            inputs = {f"cam{index}": url for index, url in enumerate(served.steady)}
            ill = dict(zip(["ill"], served.others, strict=False))
            with running({**inputs, **ill}) as stream:
                shares, cores = kept(stream, list(inputs), seconds)
        rows.append({"next_to": name or "nobody", "worst": round(shares[0], 3), "cores": round(cores, 2)})
    return rows


def latest(seconds: float) -> dict[str, float]:
    """A subscriber that always wants the newest: milliseconds from capture to its hands."""
    address = free_address()
    with cameras(1) as served, running({"cam": served.steady[0]}, address=address):
        ages = []
        with Subscriber(address) as subscriber:
            end = time.monotonic() + WARM_UP_SECONDS + seconds
            begun = time.monotonic()
            while time.monotonic() < end:
                message = subscriber.latest(timeout_seconds=20)
                if message is not None and time.monotonic() - begun > WARM_UP_SECONDS:
                    ages.append((time.time_ns() - message.captured_ns) / 1e6)
    return {
        "messages": len(ages),
        "p50_ms": round(float(np.percentile(ages, 50)), 2),
        "p99_ms": round(float(np.percentile(ages, 99)), 2),
    }


def back(times: int) -> dict[str, float]:
    """Power cuts of two seconds: seconds from the return to the next published frame."""
    took = []
    with cameras(1) as served, running({"cam": served.steady[0]}) as stream:

        def published() -> int:
            return int(stream.report()["published"])

        time.sleep(WARM_UP_SECONDS)
        for _ in range(times):
            served.power("off")
            time.sleep(2.0)
            before = published()
            returned = served.power("on")
            while published() == before:
                time.sleep(0.005)
            took.append(time.time() - returned)
            time.sleep(1.0)
    return {"times": times, "median_s": round(statistics.median(took), 2), "worst_s": round(max(took), 2)}


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = ["| what | metric | target |", "| --- | --- | --- |"]
    if "many" in found:
        each = found["many"]
        rows += [
            f"| {each['cameras']} cameras, cadence that the worst keeps | {each['worst']:.3f} | ≥ 0.95 |",
            f"| the same, the middle one | {each['median']:.3f} | |",
            f"| the same, cores / those of a plain loop that decodes to RGB | {each['cores']} / "
            f"{each['plain_cores']} = {each['cores'] / max(each['plain_cores'], 0.01):.1f} | |",
        ]
    for each in found.get("others", []):
        rows.append(f"| ten cameras next to {each['next_to']}, the worst | {each['worst']:.3f} | ≥ 0.95 |")
    if "latest" in found:
        each = found["latest"]
        rows.append(
            f"| `latest()` over loopback, capture to reader, p50 / p99 | {each['p50_ms']} / {each['p99_ms']} ms | "
            "p99 ≤ 50 ms |"
        )
    if "back" in found:
        each = found["back"]
        rows.append(
            f"| first frame after a camera's return, median / worst of {each['times']} | {each['median_s']} / "
            f"{each['worst_s']} s | ≤ 5 s pause + opening + a key frame |"
        )
    head = (
        "# Many cameras, and cameras that fail\n\nWritten by `python tests/benchmarks/bench_cameras.py --page "
        "docs/performance/cameras.md`: scripted RTSP cameras of 640×360 at 10\nframes a second, H.264, through a "
        f"null model, all frames. Machine: {os.cpu_count()} cores, which the cameras' own process shares.\n\n"
    )
    return head + "\n".join(rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; print and write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--cameras", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    if "many" in options.parts:
        found["many"] = many(options.cameras, options.seconds)
    if "others" in options.parts:
        found["others"] = others(options.seconds)
    if "latest" in options.parts:
        found["latest"] = latest(options.seconds)
    if "back" in options.parts:
        found["back"] = back(options.times)
    print(page(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.page is not None:
        options.page.write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
