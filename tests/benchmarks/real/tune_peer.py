"""Look for the numbers of the benchmark's peers that do best on the halves for tuning.

    python tests/benchmarks/real/tune_peer.py [--seconds 600] [--pedestrians vtest.avi]
    python tests/benchmarks/real/tune_peer.py --detector FILE --pedestrians vtest.avi [--seconds 600]

Random sets of options; each is judged by AP50 + IDF1. Background subtraction is tuned for each clip by itself: on the
still and the moving shot, averaged, or on the clip of pedestrians. The detector has one set for both clips, as the
network has: on both clips averaged. Frames of the reported half are never judged. Prints the best ones, to be written
into `PeerOptions`, `PEDESTRIANS` or `DetectorOptions`, by hand.
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
from benchmarks.peer_detector import DetectorOptions, DetectorPeer, load_detect
from benchmarks.real import pedestrians
from benchmarks.real.metrics import mask_metrics
from benchmarks.real.people_boxes import TUNING_BEFORE
from benchmarks.real.runs import Found, Image, clip_frames, from_peer, half, labelled, load_labels, select

from model.config import ModelConfig
from model.cues.cut import CutDetector

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
DETECTOR: dict[str, tuple[Any, ...]] = {
    "min_score": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "nms_iou": (0.4, 0.5, 0.6, 0.7),
    "match_iou": (0.05, 0.1, 0.2, 0.3),
    "lost_frames": (2, 5, 10, 20),
}

Frames = list[tuple[int, float, Image]]
Labels = dict[str, Any]


def street() -> tuple[list[Labels], Frames]:
    """The still and the moving shot for tuning, and the frames up to the last labelled one of them."""
    labels = half(load_labels(), for_tuning=True)
    groups = [
        select(labels, {video["id"] for video in labels["videos"] if video["camera"] == camera})
        for camera in ("still", "moving")
    ]
    last = max(video["frame_indices"][-1] for video in labels["videos"])
    return groups, [frame for frame in clip_frames() if frame[0] <= last]


def people(path: Path) -> tuple[list[Labels], Frames]:
    """The labelled frames of pedestrians for tuning, and the frames of that half."""
    pedestrians.check(path)
    labels = half(load_labels(pedestrians.LABELS), for_tuning=True)
    return [labels], [frame for frame in clip_frames(path) if frame[0] < TUNING_BEFORE]


def judge(group: Labels, found: Found) -> tuple[float, float]:
    """AP50 and IDF1."""
    metrics = mask_metrics(group, {video["id"]: found for video in group["videos"]})
    return metrics["AP50"], metrics["IDF1"]


def main() -> None:
    """Print the best options found in the time given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pedestrians", type=Path, metavar="FILE", help="OpenCV's sample vtest.avi")
    parser.add_argument("--detector", type=Path, metavar="FILE", help="tune the second peer")
    args = parser.parse_args()
    if args.detector and not args.pedestrians:
        parser.error("--detector: needs --pedestrians, one set of options serves both clips")
    chance = random.Random(args.seed)
    if args.detector:
        tried = tune_detector(args.detector, args.pedestrians, args.seconds, chance)
    else:
        clip = people(args.pedestrians) if args.pedestrians else street()
        tried = tune_background(*clip, args.seconds, chance, num_a_median=6 if args.pedestrians else 20)
    tried.sort(key=lambda row: -row[0])
    print(f"{len(tried)} sets tried; (AP50, IDF1) of each group")
    for score, both, options in tried[:10]:
        pairs = "  ".join(f"({ap:.3f}, {idf1:.3f})" for ap, idf1 in both)
        print(f"{score:.3f}  {pairs}  {options}")


Tried = list[tuple[float, list[tuple[float, float]], Any]]
"""Score, (AP50, IDF1) of each group, options."""


def tune_background(
    groups: list[Labels], frames: Frames, seconds: float, chance: random.Random, *, num_a_median: int
) -> Tried:
    """Try sets of `PeerOptions`; a median is used for `num_a_median` of them."""
    kept = {index for group in groups for index in labelled(group)}
    ends = time.monotonic() + seconds
    tried: Tried = []
    while time.monotonic() < ends:
        background = {name: chance.choice(values) for name, values in MEDIANS.items()}
        if background["warm_samples"] > background["num_samples"]:
            continue
        median = RunningMedian(**background)
        differences = [(index, median.update(rgb, at)) for index, at, rgb in frames]
        for _ in range(num_a_median):
            rest = {name: chance.choice(values) for name, values in REST.items()}
            options = replace(PeerOptions(), **background, **rest)
            peer = BackgroundPeer(options)
            rows = ((index, peer.take(*difference)) for index, difference in differences)
            found = {index: from_peer(each) for index, each in rows if index in kept}
            both = [judge(group, found) for group in groups]
            tried.append((_score(both), both, options))
    return tried


def tune_detector(path: Path, clip: Path, seconds: float, chance: random.Random) -> Tried:
    """Try sets of `DetectorOptions` at the default network's input size."""
    detect = load_detect(path, height=ModelConfig().height, width=ModelConfig().width)
    clips = []
    for groups, frames in (street(), people(clip)):
        cuts = CutDetector()
        said = [(index, detect(rgb), cuts.update(rgb), rgb.shape) for index, _, rgb in frames]
        clips.append((groups, said))
    ends = time.monotonic() + seconds
    tried: Tried = []
    while time.monotonic() < ends:
        options = DetectorOptions(**{name: chance.choice(values) for name, values in DETECTOR.items()})
        by_clip = []
        for groups, said in clips:
            peer = DetectorPeer(detect, options)
            rows = (
                (index, peer.take(detected, cut, height=shape[0], width=shape[1]))
                for index, detected, cut, shape in said
            )
            kept = {index for group in groups for index in labelled(group)}
            found = {index: from_peer(each) for index, each in rows if index in kept}
            by_clip.append([judge(group, found) for group in groups])
        score = sum(_score(both) for both in by_clip) / len(by_clip)
        tried.append((score, [pair for both in by_clip for pair in both], options))
    return tried


def _score(both: list[tuple[float, float]]) -> float:
    return sum(ap + idf1 for ap, idf1 in both) / len(both)


if __name__ == "__main__":
    main()
