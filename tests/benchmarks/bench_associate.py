"""Milliseconds per `Associator.update`, mask encoding of the new frame at 720p included.

Run from the repository's root: python tests/benchmarks/bench_associate.py

T = 5, stride 1, mask logits 48×80 of a 192×320 input, ellipses that together cover about a quarter of the
frame. Best and median wall time of the windows after a warm-up of 10, and the best CPU time of the thread,
which other work on the machine disturbs less; numpy on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import get_args

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
from support.truth import CLASSES, Mover, Oracle, script
from support.truth import Path as Route

from pipeline.association.associator import Associator
from pipeline.association.emission import Emission
from pipeline.config import AssociationConfig
from pipeline.inference.window import Windower
from pipeline.types import Window, WindowPrediction

T, NUM_FRAMES, WARM_UP = 5, 40, 10


def windows(num_objects: int) -> list[tuple[Window, WindowPrediction]]:
    """Predictions of objects that sway, each in a cell of a grid of its own."""
    columns = math.ceil(math.sqrt(num_objects * 16 / 9))
    rows = math.ceil(num_objects / columns)

    def route(number: int) -> Route:
        x, y = (number % columns + 0.5) / columns, (number // columns + 0.5) / rows
        return lambda frame: (x + 0.01 * math.sin(frame / 4 + number), y)

    radii = (0.28 / columns, 0.28 / rows)
    movers = [Mover(route(each), radii=radii, output=1 + each % 4) for each in range(num_objects)]
    oracle = Oracle(script(movers, NUM_FRAMES, height=720, width=1280), input_size=(192, 320))
    windower, made = Windower(num_frames=T, stride=1), []
    for index in range(NUM_FRAMES):
        window = windower.push(oracle.scene.frame(index))
        assert window is not None
        made.append((window, oracle.predict(window)))
    return made


def measure(
    made: list[tuple[Window, WindowPrediction]], emission: Emission, repeats: int
) -> tuple[float, float, float, int]:
    """Return best wall, median wall and best CPU milliseconds of an update, and the last one's masks."""
    wall, processor, num_masks = [], [], 0
    for _ in range(repeats):
        associator = Associator(AssociationConfig(), emission=emission, classes=CLASSES, num_frames=T)
        for number, (window, prediction) in enumerate(made):
            begun, begun_thread = time.perf_counter(), time.thread_time()
            results = associator.update(window, prediction)
            if number >= WARM_UP:
                processor.append((time.thread_time() - begun_thread) * 1e3)
                wall.append((time.perf_counter() - begun) * 1e3)
            num_masks = sum(row.mask is not None for result in results for row in result.instances)
    return min(wall), float(np.median(wall)), min(processor), num_masks


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rows = []
    print(f"{'candidates':>10} {'emission':>9} {'best ms':>8} {'median ms':>10} {'cpu ms':>7} {'masks':>6}")
    for num_objects in (10, 30):
        made = windows(num_objects)
        for emission in get_args(Emission):
            best, median, processor, num_masks = measure(made, emission, args.repeats)
            rows.append(
                {
                    "candidates": num_objects,
                    "emission": emission,
                    "best_ms": best,
                    "median_ms": median,
                    "cpu_ms": processor,
                }
            )
            times = f"{best:>8.2f} {median:>10.2f} {processor:>7.2f}"
            print(f"{num_objects:>10} {emission:>9} {times} {num_masks:>6}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
