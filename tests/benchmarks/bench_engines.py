"""The default model's two halves, eager against compiled, in the same run and in turn.

    python tests/benchmarks/bench_engines.py [--json FILE] [--rounds N] [--num-frames 3] [--threads 1]

A frame at stride s costs s calls of `encode` and one of `decode` for s frames. Engines take turns (A B A B …),
so that what else the machine does meets both; best and median of the rounds. An engine that is not in the
cache is compiled first, which takes a minute or two for each number of frames and threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

import torch
from benchmarks.processes import OtherWork

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.engines.cache import EngineCache
from model.engines.halves import HalvesSpec, example_inputs, prepared
from model.engines.runtime import Runtime, build_engine
from model.network import FrameFeatures, Network

STRIDES = (1, 2)
WARM_UP = 3
NUM_KEPT = 20
"""`model.max_instances` of the default config."""


def step(runtime: Runtime, frame: tuple[torch.Tensor, ...], *, stride: int) -> dict[str, list[float]]:
    """Milliseconds of one window's work: `encode` of each new frame, `decode`, and all of it a frame."""
    begun = time.perf_counter()
    spent: dict[str, list[float]] = {"encode": [], "decode": []}
    new: list[FrameFeatures] = []
    for _ in range(stride):
        start = time.perf_counter()
        new.append(runtime.encode(*frame))
        spent["encode"].append((time.perf_counter() - start) * 1e3)
    num_old = runtime.spec.num_frames - stride
    window = FrameFeatures.stack([*new, *new[-1:] * num_old])
    start = time.perf_counter()
    runtime.decode(window)
    ended = time.perf_counter()
    spent["decode"].append((ended - start) * 1e3)
    spent[f"frame, stride {stride}"] = [(ended - begun) * 1e3 / stride]
    return spent


def compare(network: Network, *, num_frames: int, threads: int, rounds: int) -> dict[str, Any]:
    """Best and median milliseconds by engine and part, and eager's time over compiled's."""
    torch.set_num_threads(threads)
    spec = HalvesSpec(
        height=network.config.height,
        width=network.config.width,
        num_frames=num_frames,
        num_kept=NUM_KEPT,
        with_cues=bool(network.config.cues),
    )
    began = time.perf_counter()
    build_engine(prepared(network), spec, cache=EngineCache())
    built = time.perf_counter() - began
    runtimes = {name: Runtime(network, spec, engine=name) for name in ("eager", "inductor")}
    frame, _ = example_inputs(network, spec)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in runtimes}
    for number in range(WARM_UP + rounds):
        for stride in STRIDES:
            for name, runtime in runtimes.items():
                for part, values in step(runtime, frame, stride=stride).items():
                    if number >= WARM_UP:
                        samples[name].setdefault(part, []).extend(values)
    best = {name: {part: min(each) for part, each in parts.items()} for name, parts in samples.items()}
    median = {
        name: {part: statistics.median(each) for part, each in parts.items()}
        for name, parts in samples.items()
    }
    return {
        "num_frames": num_frames,
        "threads": threads,
        "build_seconds": built,
        "best_ms": best,
        "median_ms": median,
        "eager_over_compiled": {
            part: {"best": best["eager"][part] / best["inductor"][part], "median": value / other}
            for part, value in median["eager"].items()
            for other in [median["inductor"][part]]
        },
    }


def main() -> int:
    """Print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--num-frames", type=int, nargs="+", default=[3], help="T")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    if min(args.num_frames) < max(STRIDES):
        parser.error(f"--num-frames: a window holds at least {max(STRIDES)} frames")
    network = load_weights(shipped_weights())
    rows = []
    with OtherWork() as others:
        for threads in args.threads:
            for num_frames in args.num_frames:
                row = compare(network, num_frames=num_frames, threads=threads, rounds=args.rounds)
                rows.append(row)
                print(f"T = {num_frames}, threads {threads}: best (median) ms, eager / compiled", flush=True)
                for part, ratio in row["eager_over_compiled"].items():
                    times = " / ".join(
                        f"{row['best_ms'][name][part]:6.1f} ({row['median_ms'][name][part]:6.1f})"
                        for name in ("eager", "inductor")
                    )
                    print(f"  {part:16} {times}   {ratio['median']:.2f}×", flush=True)
    result = {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "rows": rows,
        "others_cores": others.cores,
    }
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
