"""Look for the numbers of the benchmark's peer that do best on the labelled clip itself.

    python tests/benchmarks/real/tune_peer.py [--seconds 600] [--pedestrians vtest.avi]

Random sets of options; each is judged by AP50 + IDF1, averaged over the still and the moving shots, or on the clip of
pedestrians. Prints the best ones, to be written into `PeerOptions`, or `PEDESTRIANS`, by hand.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[folders]) for folders in (3, 2)]

from benchmarks.peer_background import BackgroundPeer, PeerOptions, RunningMedian
from benchmarks.real import pedestrians
from benchmarks.real.runs import Found, clip_frames, load_labels, measure, select

MEDIANS: dict[str, tuple[Any, ...]] = {
    "num_samples": (3, 5, 9, 15, 31),
    "sample_seconds": (0.1, 0.2, 0.5, 1.0),
    "warm_samples": (1, 2, 3),
}
REST: dict[str, tuple[Any, ...]] = {
    "threshold": (12, 16, 20, 25, 30, 40),
    "open_pixels": (1, 3, 5, 7, 9, 11, 15),
    "close_pixels": (3, 5, 9, 15, 25, 41, 61),
    "fill": (False, True),
    "min_area": (100, 200, 400, 800, 1600, 3000, 6000, 9000),
    "match_iou": (0.05, 0.1, 0.2, 0.3),
    "lost_frames": (2, 5, 10),
}


def main() -> None:
    """Print the best options found in the time given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pedestrians", type=Path, metavar="FILE", help="OpenCV's sample vtest.avi")
    args = parser.parse_args()
    if args.pedestrians:
        pedestrians.check(args.pedestrians)
        groups, frames = [load_labels(pedestrians.LABELS)], clip_frames(args.pedestrians)
    else:
        labels = load_labels()
        plain = {video["id"] for video in labels["videos"] if video["transforms"] is None}
        groups = [
            select(labels, {v["id"] for v in labels["videos"] if v["id"] in plain and v["camera"] == camera})
            for camera in ("still", "moving")
        ]
        frames = clip_frames()
    chosen = random.Random(args.seed)
    ends, tried = time.monotonic() + args.seconds, []
    while time.monotonic() < ends:
        background = {name: chosen.choice(values) for name, values in MEDIANS.items()}
        if background["warm_samples"] > background["num_samples"]:
            continue
        median = RunningMedian(**background)
        differences = [(index, median.update(rgb, seconds)) for index, seconds, rgb in frames]
        for _ in range(6 if args.pedestrians else 20):
            rest = {name: chosen.choice(values) for name, values in REST.items()}
            options = replace(PeerOptions(), **background, **rest)
            peer = BackgroundPeer(options)
            found: Found = {}
            for index, (difference, cut) in differences:
                found[index] = [(each.track_id, each.score, each.mask) for each in peer.take(difference, cut)]
            figures = [measure(group, found) for group in groups]
            score = sum(each["AP50"] + each["IDF1"] for each in figures) / len(groups)
            tried.append((score, [(each["AP50"], each["IDF1"]) for each in figures], options))
    tried.sort(key=lambda row: -row[0])
    print(f"{len(tried)} sets tried; still (AP50, IDF1), moving (AP50, IDF1)")
    for score, both, options in tried[:10]:
        pairs = "  ".join(f"({ap:.3f}, {idf1:.3f})" for ap, idf1 in both)
        print(f"{score:.3f}  {pairs}  {options}")


if __name__ == "__main__":
    main()
