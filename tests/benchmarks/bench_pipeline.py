"""What the pipeline itself costs: a null model against plain decoding of the same 720p file, in the same run.

    python tests/benchmarks/bench_pipeline.py [--json FILE] [--rounds N] [--frames N]

Null model: cadence `source`, stride 1, 10 fixed masks per frame; tracks, masks in 720p and messages are real.
The peer decodes every frame to rgb24, as PyAV does it by default, and does nothing with it. Target: 0.8 of the
peer's frames a second. PyAV converts faster in one thread, as our source does: that is a second peer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from pipeline.process import tune_process

tune_process()

import av
from support.predictors import FixedPredictor

from pipeline import Stream
from pipeline.config_file import load_config
from pipeline.sources.demo import demo_frame

TARGET = 0.8


def make_720p_clip(path: Path, *, num_frames: int) -> Path:
    """Encode the demo's pictures at 1280×720, 30 fps."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "60"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(num_frames):
            picture = av.VideoFrame.from_ndarray(demo_frame(index % 200).rgb, format="rgb24")
            container.mux(stream.encode(picture.reformat(width=1280, height=720)))
        container.mux(stream.encode(None))
    return path


def decode_only(clip: Path, *, threads: int | None = None) -> int:
    """Decode to rgb24, converting with PyAV's default threads or so many; return the number of frames."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        pictures = (frame.to_ndarray(format="rgb24", threads=threads) for frame in container.decode(stream))
        return sum(picture.shape[0] > 0 for picture in pictures)


def run_pipeline(clip: Path, *, publish: bool) -> dict[str, Any]:
    """Stream the clip with the null model; return the report."""
    config = load_config(
        values={
            "source": {"inputs": {"clip": str(clip)}},
            "cadence": {"fps": "source"},
            "publish": {"address": "tcp://127.0.0.1:*" if publish else None},
        }
    )
    return Stream(config, predictor=FixedPredictor()).run()


def measure(*, rounds: int, num_frames: int) -> dict[str, Any]:
    """Run peer and pipeline in turn; return medians and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        clip = make_720p_clip(Path(folder) / "clip.mp4", num_frames=num_frames)
        fps: dict[str, list[float]] = {"decode": [], "decode_one_thread": [], "pipeline": [], "published": []}
        report: dict[str, Any] = {}
        for _ in range(rounds):
            for name, threads in (("decode", None), ("decode_one_thread", 1)):
                start = time.perf_counter()
                decoded = decode_only(clip, threads=threads)
                fps[name].append(decoded / (time.perf_counter() - start))
            for name in ("pipeline", "published"):
                start = time.perf_counter()
                report = run_pipeline(clip, publish=name == "published")
                fps[name].append(report["published"] / (time.perf_counter() - start))
                if report["published"] != decoded:
                    raise RuntimeError(f"{decoded} frames were decoded, {report['published']} published")
    medians = {name: statistics.median(values) for name, values in fps.items()}
    return {
        "frames": num_frames,
        "fps": medians,
        "ratio": medians["pipeline"] / medians["decode"],
        "ratio_published": medians["published"] / medians["decode"],
        "ratio_one_thread": medians["pipeline"] / medians["decode_one_thread"],
        "target": TARGET,
        "latency_ms": report["latency_ms"],
    }


def main() -> int:
    """Print the metrics; exit 1 never: targets are shown, not asserted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=600)
    args = parser.parse_args()
    result = measure(rounds=args.rounds, num_frames=args.frames)
    for name, value in result["fps"].items():
        print(f"{name:18} {value:7.1f} fps   {value / result['fps']['decode']:.2f} of decoding alone")
    print(
        "stage p50 ms: " + ", ".join(f"{key} {value['p50']}" for key, value in result["latency_ms"].items())
    )
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
