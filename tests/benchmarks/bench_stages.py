"""Where the milliseconds of a frame go in a running stream, thread by thread, beyond the network too.

    python tests/benchmarks/bench_stages.py [--json FILE] [--frames N] [--engines eager inductor] [--stride N]

A 720p30 H.264 file of the demo's pictures, every frame shown to the model, published to a subscriber in a
process of its own. Functions of the stream are timed in place, wall clock and the thread's own processor
time: where the first is longer, the thread waited, for a core, for Python's lock or for other threads of
torch. FFmpeg's own threads are not seen. Rows that are indented are part of the row above.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

from benchmarks.bench_pipeline import make_720p_clip
from benchmarks.processes import OtherWork

import pipeline.association.associator
import pipeline.inference.network_predictor
import pipeline.sources.ffmpeg
import pipeline.sources.video_source
import pipeline.wire.publisher
from model.cues.state import CueState
from model.engines.ring import FeatureRing
from model.engines.runtime import Runtime
from model.network import FrameFeatures
from pipeline import Stream
from pipeline.config_file import load_config
from pipeline.sinks.publish import PublishSink

WARM_UP = 10
"""Calls of each function that do not count."""


class Part(NamedTuple):
    """A function of the stream that is timed: `name` of `owner`, under a thread and with so much indent."""

    thread: str
    indent: int
    title: str
    owner: Any
    name: str


PARTS = (
    Part("ffmpeg", 0, "decode a picture", pipeline.sources.ffmpeg.VideoInput, "_decode"),
    Part("decode", 0, "YUV to RGB", pipeline.sources.video_source, "to_rgb"),
    Part("prepare", 0, "prepare a frame", pipeline.inference.network_predictor.NetworkPredictor, "prepare"),
    Part("prepare", 1, "resize", pipeline.inference.network_predictor, "fit_content"),
    Part("prepare", 1, "cues", CueState, "update"),
    Part("prepare", 1, "normalise", pipeline.inference.network_predictor, "normalise_content"),
    Part("prepare", 1, "network: encode", Runtime, "encode"),
    Part("prepare", 1, "keep the features", FeatureRing, "store"),
    Part("inference", 0, "predict", pipeline.inference.network_predictor.NetworkPredictor, "begin"),
    Part("inference", 1, "network: decode", Runtime, "decode"),
    Part("inference", 2, "bring the window together", FrameFeatures, "stack"),
    Part("inference", 1, "output to the host", pipeline.inference.network_predictor, "ComingCandidates"),
    Part("inference", 0, "finish", pipeline.inference.network_predictor.NetworkPredictor, "_prediction"),
    Part("inference", 0, "associate", pipeline.association.associator.Associator, "update"),
    Part("inference", 1, "candidates and suppression", pipeline.association.associator, "select_candidates"),
    Part("inference", 1, "affinities", pipeline.association.associator, "measure"),
    Part("inference", 1, "masks in source pixels", pipeline.association.associator.Emitter, "emit"),
    Part("caller", 0, "publish", pipeline.wire.publisher.Publisher, "publish"),
    Part("caller", 1, "make the message", pipeline.wire.publisher, "mask_message"),
    Part("caller", 1, "encode the message", pipeline.wire.publisher, "encode"),
)

Samples = dict[str, list[tuple[float, float]]]


def timed(call: Callable[..., Any], samples: list[tuple[float, float]]) -> Callable[..., Any]:
    """The function, its wall and thread's processor milliseconds kept."""

    def run(*args: Any, **kwargs: Any) -> Any:
        begun, processor = time.perf_counter(), time.thread_time()
        result = call(*args, **kwargs)
        samples.append(((time.perf_counter() - begun) * 1e3, (time.thread_time() - processor) * 1e3))
        return result

    return run


def timed_steps(call: Callable[..., Any], samples: list[tuple[float, float]]) -> Callable[..., Any]:
    """The generator function, each of its steps timed."""

    def run(*args: Any) -> Iterator[Any]:
        steps = call(*args)
        step = timed(lambda: next(steps, None), samples)
        try:
            while (item := step()) is not None:
                yield item
        finally:
            steps.close()

    return run


@contextmanager
def watched() -> Iterator[Samples]:
    """Time all PARTS inside the block."""
    samples: Samples = {part.title: [] for part in PARTS}
    with ExitStack() as stack:
        for part in PARTS:
            time_it = timed_steps if part.name == "_decode" else timed
            made: Any = time_it(getattr(part.owner, part.name), samples[part.title])
            if part.owner is FrameFeatures:
                made = staticmethod(made)
            stack.enter_context(patch.object(part.owner, part.name, made))
        yield samples


def run(clip: Path, *, engine: str, stride: int, model: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Stream the clip; return frames a second and the rows, milliseconds a frame.

    model: more keys of the config's section `model`.
    """
    values = {
        "source": {"inputs": {"cam": str(clip)}},
        "cadence": {"fps": "source"},
        "window": {"stride": stride},
        "model": {"engine": engine, **model},
        "publish": {"address": "tcp://127.0.0.1:*", "wait_for_subscribers": 1, "block": True},
    }
    with watched() as samples:
        stream = Stream(load_config(values=values))
        (publisher,) = [sink for sink in stream.sinks if isinstance(sink, PublishSink)]
        reader = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "subscribe", publisher.address, "--source", "cam"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            report = stream.run()
        finally:
            reader.terminate()
            reader.wait()
    rows = []
    for part in PARTS:
        calls = samples[part.title]
        a_frame = len(calls) / report["published"]
        kept = calls[WARM_UP:] or calls
        wall, processor = (statistics.median(each) for each in zip(*kept, strict=True))
        rows.append(
            {
                "thread": part.thread,
                "indent": part.indent,
                "part": part.title,
                "calls_a_frame": a_frame,
                "wall_ms": wall * a_frame,
                "cpu_ms": processor * a_frame,
            }
        )
    return {"engine": engine, "stride": stride, "fps": report["fps"], "rows": rows}


def main() -> int:
    """Print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=("eager", "inductor"), default=["eager", "inductor"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, OtherWork() as others:
        clip = make_720p_clip(Path(folder) / "clip.mp4", num_frames=args.frames)
        runs = [run(clip, engine=engine, stride=args.stride) for engine in args.engines]
    for each in runs:
        print(f"{each['engine']}, stride {each['stride']}: {each['fps']:.1f} frames/s; ms a frame: wall, cpu")
        for row in each["rows"]:
            title = "  " * row["indent"] + row["part"]
            print(f"  {row['thread']:10} {title:30} {row['wall_ms']:8.2f} {row['cpu_ms']:8.2f}")
    if args.json:
        result = {"runs": runs, "others_cores": others.cores}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
