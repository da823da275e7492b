"""A stream end to end on a CPU: run_stream.py as users run it, a real subscriber, peers on the same clip.

    python tests/benchmarks/bench_live.py [--json FILE] [--frames N] [--rounds N] [--seconds S]
                                          [--engines eager inductor] [--strides 1 2] [--peer-python PYTHON]
                                          [--parts file former peers first rtsp streams]

A 720p30 H.264 file of the demo's pictures, every frame shown to the model, at stride 1 and 2: frames a second
that reach the subscriber. `former` runs the weights that shipped before and today's, at two sizes, in turns with each other.
The same file from a real RTSP server at 10 frames a second: from the decoded frame
to the subscriber; and how many such cameras at 5 frames a second the machine serves before the 95th percentile
is above 250 ms or 1 % of the frames are dropped. The time from starting the process to the first mask, with an empty cache folder and again.
Where the processor has more than AVX2, all of it a second time with torch and oneDNN limited to AVX2.

Streams and peers take turns, `--rounds` times. `--peer-python` is an interpreter that has the ultralytics
package (peer_per_frame.py); where it has none the row says so. An engine that is not in the user's cache is
compiled first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ENVIRONMENT = dict(os.environ)
"""What children get: the user's own, before this process is tuned below."""

import numpy as np
import pytest
import torch
from benchmarks.bench_pipeline import make_720p_clip
from benchmarks.processes import Arrival, OtherWork, StreamRun
from support.rtsp_server import RtspServer

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CADENCE = 10
FPS = 30
NUM_WARM_UP = 10
WARM_UP_SECONDS = 2.0
PARTS = ("file", "former", "peers", "first", "rtsp", "streams")
STREAMS_CADENCE = 5
BUDGET_MS = 250.0
BUDGET_STALE_PERCENT = 1.0
MOST_STREAMS = 16
PEERS = ("plain", "per_frame", "per_frame_full_size")
COMPARED = (("resnet18", 192, 320), ("default", 192, 320), ("default", 256, 416))
"""Weights, height and width of the rows of the part `former`."""


def limits() -> dict[str, dict[str, str]]:
    """Name → environment variables of the instruction sets to run with: the machine's own, and AVX2 where
    that is less."""
    own = torch.backends.cpu.get_cpu_capability()
    return {own: {}} if own in ("AVX2", "DEFAULT") else {own: {}, "AVX2 (limited)": AVX2}


def file_run(
    clip: Path, *, engine: str, stride: int, limit: Mapping[str, str], settings: Mapping[str, object] = {}
) -> dict[str, float]:
    """Frames a second of a file at the subscriber, after the first NUM_WARM_UP; cores kept busy; ms by
    stage."""
    given = {
        "cadence.fps": "source",
        "window.stride": stride,
        "model.engine": engine,
        "publish.high_water_mark": 16,
        **settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = {**ENVIRONMENT, **limit}
        with StreamRun(
            str(clip), given, environment=environment, arguments=("--report", str(report))
        ) as stream:
            times, processor = [], [0.0, 0.0]
            for arrival in stream.arrivals():
                times.append(arrival.monotonic_seconds)
                if len(times) == NUM_WARM_UP:
                    processor[0] = stream.cpu_seconds()
                elif len(times) > NUM_WARM_UP and len(times) % 10 == 0:
                    processor[1], until = stream.cpu_seconds(), len(times)
        told = json.loads(report.read_text())
    if len(times) < 2 * NUM_WARM_UP:
        raise RuntimeError(f"{len(times)} messages are too few to measure: give more --frames")
    begun = times[NUM_WARM_UP - 1]
    return {
        "fps": (len(times) - NUM_WARM_UP) / (times[-1] - begun),
        "cores": (processor[1] - processor[0]) / (times[until - 1] - begun),
        **{
            f"{stage}_p50_ms": told["latency_ms"][stage]["p50"] for stage in ("predict", "associate", "sinks")
        },
    }


def rtsp_run(
    url: str,
    *,
    engine: str,
    seconds: float,
    limit: Mapping[str, str],
    settings: Mapping[str, object] = {},
    num_streams: int = 1,
    cadence: int = CADENCE,
) -> dict[str, Any]:
    """Milliseconds from the decoded frame to the subscriber, after WARM_UP_SECONDS, and the stream's load; of
    all streams together where the camera is opened several times."""
    given = {"cadence.fps": cadence, "model.engine": engine, **settings}
    kept: list[Arrival] = []
    dropped: dict[str, list[int]] = {}
    environment = {**ENVIRONMENT, **limit}
    with StreamRun(url, given, environment=environment, block=False, num_sources=num_streams) as stream:
        seen: set[str] = set()
        first: float | None = None
        processor = 0.0
        for arrival in stream.arrivals():
            seen.add(arrival.message.source)
            if len(seen) < num_streams:
                continue
            first = arrival.monotonic_seconds if first is None else first
            age = arrival.monotonic_seconds - first
            if age >= WARM_UP_SECONDS:
                if not kept:
                    processor = stream.cpu_seconds()
                kept.append(arrival)
                dropped.setdefault(arrival.message.source, []).append(arrival.message.dropped["stale"])
            if age >= WARM_UP_SECONDS + seconds:
                break
        processor = stream.cpu_seconds() - processor
    if len(kept) < 2:
        raise RuntimeError(f"{len(kept)} messages are too few to measure: give more --seconds")
    latency = [(each.wall_ns - each.message.captured_ns) / 1e6 for each in kept]
    span = kept[-1].monotonic_seconds - kept[0].monotonic_seconds
    stale = sum(counts[-1] - counts[0] for counts in dropped.values())
    return {
        "latency_ms": dict(
            zip(("p50", "p95", "p99"), np.percentile(latency, (50, 95, 99)).tolist(), strict=True)
        ),
        "messages": len(kept),
        "fps": (len(kept) - 1) / span,
        "cores": processor / span,
        "stale_percent": 100 * stale / (stale + len(kept) - 1),
    }


def streams_runs(url: str, *, engine: str, seconds: float) -> list[dict[str, Any]]:
    """`rtsp_run` with one camera, two, …, up to the first number that is over the budget."""
    rows: list[dict[str, Any]] = []
    for number in range(1, MOST_STREAMS + 1):
        metrics = rtsp_run(
            url, engine=engine, seconds=seconds, limit={}, num_streams=number, cadence=STREAMS_CADENCE
        )
        over = metrics["latency_ms"]["p95"] > BUDGET_MS or metrics["stale_percent"] > BUDGET_STALE_PERCENT
        rows.append({"name": f"{number} cameras, {engine}", "streams": number, "over": over, **metrics})
        print_row(rows[-1])
        if over:
            break
    return rows


def first_mask(
    clip: Path, *, engine: str, environment: Mapping[str, str], settings: Mapping[str, object] = {}
) -> dict[str, float | None]:
    """Seconds from starting the process to its first message, and to the first with a mask (None: none)."""
    given = {"cadence.fps": "source", "model.engine": engine, **settings}
    found: dict[str, float | None] = {"message_seconds": None, "mask_seconds": None}
    with StreamRun(str(clip), given, environment=environment) as stream:
        for arrival in stream.arrivals():
            seconds = arrival.monotonic_seconds - stream.started
            found["message_seconds"] = found["message_seconds"] or seconds
            if any(each.mask for each in arrival.message.instances):
                found["mask_seconds"] = seconds
                break
    return found


def first_masks(clip: Path) -> list[dict[str, Any]]:
    """`first_mask` with an empty cache folder, with what that run left in it, and with the compiled engine."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        empty = {**ENVIRONMENT, "XDG_CACHE_HOME": folder}
        for name, environment in (
            ("empty cache", empty),
            ("second start", empty),
            ("compiled before", ENVIRONMENT),
        ):
            rows.append({"cache": name, **first_mask(clip, engine="auto", environment=environment)})
    return rows


def peer_run(name: str, clip: Path, *, frames: int, python: str) -> dict[str, Any] | None:
    """The metrics of a peer's own script; None where its package is missing."""
    script = ROOT / "tests" / "benchmarks" / f"peer_{name.removesuffix('_full_size')}.py"
    interpreter = sys.executable if name == "plain" else python
    more = ["--full-size-masks"] if name.endswith("_full_size") else []
    done = subprocess.run(
        [interpreter, str(script), str(clip), "--frames", str(frames), *more],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 3:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    metrics: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def compile_engine(limit: Mapping[str, str], arguments: Sequence[str] = ()) -> float:
    """Compile the default network, or what `arguments` say, for the threads of a stream, where the cache has
    none; seconds."""
    began = time.monotonic()
    threads = os.environ["OMP_NUM_THREADS"]  # as `tune_process` chooses it, in the stream too
    subprocess.run(
        [sys.executable, "-m", "model", "compile", "--threads", threads, *arguments],
        cwd=ROOT,
        env={**ENVIRONMENT, **limit},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began


def in_turns(
    clip: Path,
    *,
    parts: Sequence[str],
    engines: Sequence[str],
    strides: Sequence[int],
    frames: int,
    rounds: int,
    python: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams and peers, `rounds` times in turn: (row, metrics of a run); metrics are {} where missing."""
    for _ in range(rounds):
        for capability, limit in limits().items() if "file" in parts else ():
            for stride in strides:
                for engine in engines:
                    name = f"{engine}, stride {stride}, {capability}"
                    yield name, file_run(clip, engine=engine, stride=stride, limit=limit)
        for weights, height, width in COMPARED if "former" in parts else ():
            size = {"model.network.height": height, "model.network.width": width}
            for engine in engines:
                settings = {"model.weights": weights, **size}
                name = f"{weights} {height}×{width}, {engine}, stride 1"
                yield name, file_run(clip, engine=engine, stride=1, limit={}, settings=settings)
        for peer in PEERS if "peers" in parts else ():
            yield f"peer {peer}", peer_run(peer, clip, frames=frames, python=python) or {}


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each row's best and median frames a second, and the other metrics of its best run."""
    rows: list[dict[str, Any]] = []
    for name, metrics in runs.items():
        if not all(metrics):
            rows.append({"name": name, "missing": "not installed"})
            continue
        rates = [each["fps"] for each in metrics]
        best = max(metrics, key=lambda each: float(each["fps"]))
        rows.append({"name": name, **best, "fps": max(rates), "fps_median": statistics.median(rates)})
    return rows


def rtsp_runs(clip: Path, *, engines: Sequence[str], seconds: float, streams: bool) -> dict[str, Any]:
    """`rtsp_run` by engine and instruction set, or `streams_runs`; one row that says why where there is no
    server."""
    rows: list[dict[str, Any]] = []
    try:
        with RtspServer(file=clip) as server:
            if streams:
                rows = streams_runs(server.file_url, engine=engines[-1], seconds=seconds)
            else:
                for capability, limit in limits().items():
                    for engine in engines:
                        metrics = rtsp_run(server.file_url, engine=engine, seconds=seconds, limit=limit)
                        rows.append({"name": f"{engine}, {capability}", **metrics})
                        print_row(rows[-1])
    except pytest.skip.Exception as missing:
        rows.append({"name": "RTSP", "missing": str(missing)})
        print_row(rows[-1])
    cadence = STREAMS_CADENCE if streams else CADENCE
    return {"cadence": cadence, "seconds": seconds, "budget_ms": BUDGET_MS, "rows": rows}


def print_row(row: Mapping[str, Any]) -> None:
    """One line for the terminal."""
    rest = {key: value for key, value in row.items() if key not in ("name", "cache")}
    texts = [
        f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in rest.items()
    ]
    print(f"{row.get('name', row.get('cache'))}: {', '.join(texts)}", flush=True)


def measure(
    *,
    parts: Sequence[str],
    engines: Sequence[str],
    strides: Sequence[int],
    frames: int,
    rounds: int,
    seconds: float,
    python: str,
) -> dict[str, Any]:
    """The parts asked for, by name, and with what they were run."""
    built = {}
    if "inductor" in engines:
        built = {name: compile_engine(limit) for name, limit in limits().items()}
        for weights, height, width in COMPARED if "former" in parts else ():
            sizes = ("--height", str(height), "--width", str(width))
            compile_engine({}, ("--weights", weights, *sizes))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = make_720p_clip(Path(folder) / "clip.mp4", num_frames=frames)
        runs: dict[str, list[dict[str, Any]]] = {}
        with OtherWork() as others:
            for name, metrics in in_turns(
                clip,
                parts=parts,
                engines=engines,
                strides=strides,
                frames=frames,
                rounds=rounds,
                python=python,
            ):
                runs.setdefault(name, []).append(metrics)
                print_row({"name": name, **(metrics or {"missing": "not installed"})})
            if "first" in parts:
                found["first_mask"] = first_masks(clip)
                for row in found["first_mask"]:
                    print_row(row)
            if {"rtsp", "streams"} & set(parts):
                num_frames = int((seconds + 4 * WARM_UP_SECONDS) * FPS)
                long = make_720p_clip(Path(folder) / "long.mp4", num_frames=num_frames)
            for part in ("rtsp", "streams"):
                if part in parts:
                    found[part] = rtsp_runs(long, engines=engines, seconds=seconds, streams=part == "streams")
    return {
        "frames": frames,
        "rounds": rounds,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "capabilities": list(limits()),
        "build_seconds": built,
        "file": summary(runs),
        **found,
        "others_cores": others.cores,
    }


def main() -> int:
    """Print the metrics and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--frames", type=int, default=100, help="of the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each RTSP run")
    parser.add_argument("--engines", nargs="+", choices=("eager", "inductor"), default=["eager", "inductor"])
    parser.add_argument("--strides", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--peer-python", metavar="PYTHON", default=sys.executable, help="interpreter with ultralytics"
    )
    args = parser.parse_args()
    if args.frames < 2 * NUM_WARM_UP:
        parser.error(f"--frames {args.frames}: give at least {2 * NUM_WARM_UP}")
    logging.getLogger("pipeline.wire.subscriber").setLevel(
        logging.ERROR
    )  # it listens before there is a stream
    result = measure(
        parts=args.parts,
        strides=args.strides,
        engines=args.engines,
        frames=args.frames,
        rounds=args.rounds,
        seconds=args.seconds,
        python=args.peer_python,
    )
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
