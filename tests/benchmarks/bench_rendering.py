"""What a frame and a training clip of the street set cost, in milliseconds of one core.

python tests/benchmarks/bench_rendering.py [--scenes N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2

from model.training.data.render import SceneRenderer
from model.training.data.street import StreetClips

FRAMES = range(10, 14)


def spent(work: Callable[[], object]) -> float:
    """Milliseconds of this thread."""
    begun = time.thread_time()
    work()
    return (time.thread_time() - begun) * 1e3


def main() -> int:
    """Print medians over scenes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=20)
    scenes = range(parser.parse_args().scenes)
    cv2.setNumThreads(1)
    source = StreetClips(0)
    renderers = [SceneRenderer(source.scene(index)) for index in scenes]
    frames = [spent(lambda r=each, f=frame: r(f)) for each in renderers for frame in FRAMES]  # type: ignore[misc]
    clips = [spent(lambda i=index: source(i, num_frames=3)) for index in scenes]  # type: ignore[misc]
    print(
        f"frame {statistics.median(frames):.1f} ms, clip of 3 frames with its cue {statistics.median(clips):.0f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
