"""Resident memory of a long stream: growth after frame 500, in one process.

    python tests/benchmarks/bench_memory.py [--json FILE] [--frames N]

A file with moving objects, read at every frame by the null model (tracks, masks, messages and results are
real; the network's own tensors are of fixed size), publishing to a subscriber in the same process. Target: 2
% from 500 to 5,000.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from support.predictors import FixedPredictor
from support.video import write_video

from pipeline import Stream, Subscriber
from pipeline.config_file import load_config
from pipeline.sinks.publish import PublishSink

FIRST = 500
TARGET_PERCENT = 2.0
EVERY = 500


def resident_mb() -> float:
    """Resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(*, num_frames: int, model: bool) -> dict[str, Any]:
    """Stream `num_frames` frames; return resident memory by frame and its growth."""
    with tempfile.TemporaryDirectory() as folder:
        clip = write_video(Path(folder) / "long.mp4", num_frames=num_frames, height=360, width=640)
        config = load_config(
            values={
                "source": {"inputs": {"long": str(clip)}},
                "cadence": {"fps": "source"},
                "publish": {"address": "tcp://127.0.0.1:*", "wait_for_subscribers": 1, "block": True},
            }
        )
        stream = Stream(config, predictor=None if model else FixedPredictor())
        (publisher,) = [sink for sink in stream.sinks if isinstance(sink, PublishSink)]
        received: list[int] = []
        reader = threading.Thread(target=lambda: received.append(count_messages(publisher.address)))
        reader.start()
        resident: dict[int, float] = {}
        for result in stream:
            index = result.frame.index
            if (index >= FIRST and index % EVERY == 0) or index == num_frames - 1:
                gc.collect()
                resident[index] = round(resident_mb(), 2)
        reader.join(60)
    first, largest = resident[FIRST], max(resident.values())
    return {
        "model": "default" if model else "null",
        "frames": num_frames,
        "received": received,
        "resident_mb": resident,
        "growth_percent": round(100 * (largest - first) / first, 3),
        "target_percent": TARGET_PERCENT,
    }


def count_messages(address: str) -> int:
    """Read the source to its end; return the number of messages."""
    with Subscriber(address, source="long") as subscriber:
        return sum(1 for _ in subscriber)


def main() -> int:
    """Print the metrics and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--frames", type=int, default=5001)
    parser.add_argument(
        "--model", action="store_true", help="run the default network instead of the null model"
    )
    args = parser.parse_args()
    result = measure(num_frames=args.frames, model=args.model)
    for index, megabytes in result["resident_mb"].items():
        print(f"frame {index:6} {megabytes:8.1f} MiB")
    print(
        f"growth {result['growth_percent']} % from frame {FIRST} (target {TARGET_PERCENT} %); "
        f"{result['received'][0]} messages received"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
