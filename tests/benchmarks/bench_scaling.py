"""How the default model's speed goes with T, stride, input size, kept instances and streams.

    python tests/benchmarks/bench_scaling.py [--json FILE] [--seconds S] [--engine eager]

Frames a second of `NetworkPredictor.predict` on 720p pictures, one after the other: resizing, cues, network and
what it makes of the output, with the per-frame cache; without decoding, tracks, messages, and without preparing
the next frame next to it, as a stream does. From
the median of the windows' times. T, stride and input size in all combinations, the rest one at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

import cv2
import numpy as np
import torch
from benchmarks.processes import OtherWork
from numpy.typing import NDArray

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.network import Network
from pipeline.inference.network_predictor import NetworkPredictor
from pipeline.inference.window import Windower
from pipeline.sources.demo import demo_frame
from pipeline.types import Frame, Window

FPS = 30
NUM_PICTURES = 12
MIN_WINDOWS = 5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the table; the defaults are the default config's."""

    num_frames: int = 3
    stride: int = 1
    height: int = 192
    width: int = 320
    num_kept: int = 20
    streams: int = 1


def cells() -> list[Cell]:
    """T × stride × size, then kept instances and streams one at a time."""
    sizes = ((128, 224), (192, 320), (256, 416))
    grid = [
        Cell(num_frames=num_frames, stride=stride, height=height, width=width)
        for (height, width), num_frames, stride in itertools.product(sizes, (3, 5), (1, 2, 3))
    ]
    return [*grid, replace(Cell(), num_kept=10), replace(Cell(), streams=2)]


def pictures() -> list[NDArray[np.uint8]]:
    """The demo's pictures at 720p."""
    drawn = [demo_frame(index).rgb for index in range(NUM_PICTURES)]
    return [np.asarray(cv2.resize(each, (1280, 720)), dtype=np.uint8) for each in drawn]


def measure(
    network: Network, cell: Cell, images: list[NDArray[np.uint8]], *, seconds: float, engine: Any
) -> dict[str, float]:
    """Frames a second of each stream, all streams together, and milliseconds of a window."""
    config = replace(network.config, num_frames=cell.num_frames, height=cell.height, width=cell.width)
    predictor = NetworkPredictor(network, config, name="default", max_instances=cell.num_kept, engine=engine)
    windowers = {
        f"cam{number}": Windower(num_frames=cell.num_frames, stride=cell.stride)
        for number in range(cell.streams)
    }
    spent: list[float] = []
    until, index = 0.0, 0
    warm_up = cell.streams * 2
    while len(spent) < warm_up + MIN_WINDOWS or time.perf_counter() < until:
        if len(spent) == warm_up and not until:
            until = time.perf_counter() + seconds
        for source, windower in windowers.items():
            window = windower.push(_frame(source, index, images[index % len(images)]))
            if window is not None:
                spent.append(_predict_ms(predictor, window))
        index += 1
    window_ms = statistics.median(spent[warm_up:])
    fps = cell.stride * 1e3 / window_ms
    return {"window_ms": window_ms, "fps": fps, "fps_of_a_stream": fps / cell.streams}


def _predict_ms(predictor: NetworkPredictor, window: Window) -> float:
    begun = time.perf_counter()
    predictor.predict(window)
    return (time.perf_counter() - begun) * 1e3


def _frame(source: str, index: int, image: NDArray[np.uint8]) -> Frame:
    return Frame(
        source=source,
        epoch=0,
        index=index,
        pts=index,
        time_base=Fraction(1, FPS),
        seconds=index / FPS,
        captured_ns=time.time_ns(),
        captured_monotonic_ns=time.monotonic_ns(),
        picture=image,
    )


def main() -> int:
    """Print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row")
    parser.add_argument("--engine", choices=("eager", "inductor"), default="eager")
    args = parser.parse_args()
    network, images, rows = load_weights(shipped_weights()), pictures(), []
    with OtherWork() as others:
        for cell in cells():
            metrics = measure(network, cell, images, seconds=args.seconds, engine=args.engine)
            rows.append({**vars(cell), **metrics})
            shape = f"T {cell.num_frames}, stride {cell.stride}, {cell.height}×{cell.width}"
            print(
                f"{shape}, {cell.num_kept} kept, {cell.streams} streams: {metrics['window_ms']:.1f} ms a "
                f"window, {metrics['fps']:.1f} frames/s",
                flush=True,
            )
    result = {
        "engine": args.engine,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "others_cores": others.cores,
    }
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
