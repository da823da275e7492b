"""Seconds of CPU and peak memory of `python -m model evaluate` on 200 videos of 40 frames, on one thread.

Run from the repository's root: python tests/benchmarks/bench_evaluate.py [--results 30 100] [--frames]

192×320, 8 drifting ellipses a video as ground truth; results are the same ellipses, shaken by 2 px, and as
many strangers, repeated up to the number asked for. The evaluation runs in a process of its own, whose CPU
time counts: it does not depend on what else the machine does. Targets: 60 s and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS, NUM_FRAMES, NUM_OBJECTS, HEIGHT, WIDTH = 200, 40, 8, 192, 320


def ellipse_track(rng: np.random.Generator, shape: np.ndarray, shake: float) -> list[dict[str, Any] | None]:
    """Encode an ellipse (x, y, speed x, speed y, radius x, radius y) through the frames of a video."""
    from pycocotools import mask as coco

    x, y, speed_x, speed_y, radius_x, radius_y = shape
    down, across = np.ogrid[:HEIGHT, :WIDTH]
    stack = np.zeros((HEIGHT, WIDTH, NUM_FRAMES), np.uint8, order="F")
    for frame in range(NUM_FRAMES):
        centre = x + speed_x * frame + shake * rng.standard_normal(), y + speed_y * frame
        stack[:, :, frame] = ((across - centre[0]) / radius_x) ** 2 + (
            (down - centre[1]) / radius_y
        ) ** 2 <= 1
    seen = stack.any(axis=(0, 1))
    return [
        {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()} if seen[frame] else None
        for frame, rle in enumerate(coco.encode(stack))
    ]


def make(folder: Path, numbers: list[int]) -> None:
    """Write gt.json and one results file per number of results a video."""
    rng = np.random.default_rng(0)
    low, high = (20, 20, -3, -3, 4, 6), (WIDTH - 20, HEIGHT - 20, 3, 3, 30, 50)
    truth: dict[str, Any] = {"videos": [], "categories": [{"id": 1, "name": "object"}], "annotations": []}
    results: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    for video in range(1, NUM_VIDEOS + 1):
        truth["videos"].append({"id": video, "height": HEIGHT, "width": WIDTH, "length": NUM_FRAMES})
        shapes = rng.uniform(low, high, (2 * NUM_OBJECTS, 6))
        found = []
        for place, shape in enumerate(shapes):
            found.append(ellipse_track(rng, shape, 2.0))
            masks = ellipse_track(rng, shape, 0.0) if place < NUM_OBJECTS else []
            if any(masks):
                number = len(truth["annotations"]) + 1
                row = {"id": number, "video_id": video, "category_id": 1, "iscrowd": 0}
                truth["annotations"].append({**row, "segmentations": masks})
        for number, rows in results.items():
            rows.extend(
                {
                    "video_id": video,
                    "category_id": 1,
                    "score": float(rng.random()),
                    "segmentations": found[place % len(found)],
                }
                for place in range(number)
            )
    (folder / "gt.json").write_text(json.dumps(truth))
    for number, rows in results.items():
        (folder / f"results{number}.json").write_text(json.dumps(rows))


def main() -> int:
    """Make the files, evaluate each, print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=int, nargs="+", default=[30, 100], help="results a video")
    parser.add_argument("--frames", action="store_true", help="single frames and identities too")
    parser.add_argument("--json", type=Path, help="file for the metrics")
    args = parser.parse_args()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    metrics = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = sorted(args.results)  # the peak below is that of the largest process so far
        make(folder, numbers)
        for number in numbers:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            files = ["--gt", str(folder / "gt.json"), "--results", str(folder / f"results{number}.json")]
            command = [sys.executable, "-m", "model", "evaluate", *files, "--json"]
            subprocess.run(
                [*command, "--frames"] if args.frames else command,
                cwd=ROOT,
                env={**os.environ, **threads},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            megabytes = after.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
            print(f"{number:4} results a video: {seconds:6.1f} s of CPU, {megabytes:6.0f} MB", flush=True)
            metrics.append({"results": number, "cpu_seconds": seconds, "peak_mb": megabytes})
    if args.json:
        args.json.write_text(json.dumps(metrics, indent=2))
    return int(any(each["cpu_seconds"] > 60 or each["peak_mb"] > 2048 for each in metrics))


if __name__ == "__main__":
    sys.exit(main())
