"""The pipeline and its peers against the hand-drawn labels of a real street clip, in the same run.

    python tests/benchmarks/bench_real.py [--weights FILE] [--config FILE] [--set KEY=VALUE] [--pedestrians vtest.avi]
                                          [--detector FILE] [--json FILE] [--page docs/benchmark-real.md]

All are shown the same frames, the whole clip from its start at 10 frames per second, and know nothing of its
cuts. Metrics are `model.evaluation.frame_metrics` over the labelled frames: AP50 of single frames, recall at
IoU 0.5 by object height, ids (IDF1, switches); and the share of right names. A shot of a walker is run a second time
with the camera's own motion undone: the clip has no person before a still camera. `--pedestrians` adds a clip that
has: OpenCV's sample vtest.avi, with labels after the median of all of it (real/pedestrians.py), and boxes of
everybody in some frames (real/people_boxes.py). `--detector` adds a second peer: a file that
`python -m model import-detector` made, a box tracker, ellipses (peer_detector.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

from benchmarks.peer_background import PEDESTRIANS, BackgroundPeer
from benchmarks.peer_detector import DetectorPeer, load_detect
from benchmarks.real import page, pedestrians, people_boxes, pictures, runs
from benchmarks.real.metrics import KEYS, box_metrics, mask_metrics, name_metrics
from benchmarks.real.runs import Found

from model.checkpoint.weights_file import weights_path
from model.errors import CheckpointError
from pipeline.config import StreamConfig
from pipeline.config_file import load_config
from pipeline.inference.network_predictor import NetworkPredictor, load_predictor

PEOPLE_MIN_HEIGHT = 24
PEOPLE_MIN_RECALL = 0.70
LEAST: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("reported", "", {"recall": 0.52, "precision": 0.60, "IDF1": 0.48, "right": 0.95}),
    ("still reported", "", {"AP50": 0.42}),
    ("moving reported", "", {"AP50": 0.50}),
    ("pedestrians reported", "people", {"AP50": 0.90, "recall": 0.94, "precision": 0.90}),
    ("pedestrians reported", "boxes", {"recall": 0.85, "precision": 0.85}),
)
"""Group, part of its metrics, and what is asked at least of the weights that ship."""

HALVES = ("reported", "tuning", "all", "pedestrians reported", "pedestrians tuning", "pedestrians")
"""The groups whose metrics have intervals."""


def groups(labels: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → the labels of it: each camera's, both halves, all of the clip as it is, and each shot."""
    videos = labels["videos"]
    by_camera = {
        camera: {video["id"] for video in videos if video["camera"] == camera}
        for camera in ("still", "moving", "held still", "pedestrians")
    }
    chosen = {name: runs.select(labels, ids) for name, ids in by_camera.items() if ids}
    if by_camera["still"] and by_camera["moving"]:
        chosen["all"] = runs.select(labels, by_camera["still"] | by_camera["moving"])
    for whole, prefix in (("all", ""), ("pedestrians", "pedestrians ")):
        if whole in chosen:
            chosen[f"{prefix}reported"] = runs.half(chosen[whole], for_tuning=False)
            chosen[f"{prefix}tuning"] = runs.half(chosen[whole], for_tuning=True)
    for camera in ("still", "moving"):
        if camera in chosen:
            chosen[f"{camera} reported"] = runs.half(chosen[camera], for_tuning=False)
    shots = {f"shot {video['name']}": runs.select(labels, {video["id"]}) for video in videos}
    return {name: each for name, each in {**chosen, **shots}.items() if each["videos"]}


def compare(labels: Mapping[str, Any], found: Mapping[str, Mapping[int, Found]]) -> dict[str, Any]:
    """Metrics by group and by who found what; `found` is by who and by video id."""
    result: dict[str, Any] = {}
    for name, chosen in groups(labels).items():
        rows: dict[str, Any] = {"cameras": sorted({video["camera"] for video in chosen["videos"]})}
        for who, by_video in found.items():
            everything, people = (
                mask_metrics(chosen, by_video, kinds=kinds, with_intervals=name in HALVES)
                for kinds in (None, ("person",))
            )
            kept = (*KEYS, "recall_by_height", *(("intervals",) if name in HALVES else ()))
            rows[who] = {
                **{key: everything[key] for key in kept},
                "people": {key: people[key] for key in kept},
                "names": name_metrics(chosen, by_video),
            }
            boxes = _boxes_of(name)
            if boxes:
                (video,) = chosen["videos"]
                rows[who]["boxes"] = box_metrics(boxes, by_video[video["id"]])
        result[name] = rows
    return result


def _boxes_of(group: str) -> list[people_boxes.PeopleBoxes]:
    """The frames of a group in which everybody has a box."""
    halves = {"pedestrians": (True, False), "pedestrians reported": (False,), "pedestrians tuning": (True,)}
    return [each for each in people_boxes.load() if each.for_tuning in halves.get(group, ())]


def targets(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the default model, and whether it holds."""
    told: dict[str, Any] = {}
    for camera in ("still", "moving"):
        ours, peer = result[camera]["ours"], result[camera]["peer"]
        for key in ("AP50", "IDF1"):
            told[f"{key} ahead of the peer, {camera} shots"] = {
                "ours": ours[key],
                "bound": peer[key],
                "met": ours[key] > peer[key],
            }
    for camera, where in (("pedestrians", "still camera (pedestrians)"), ("held still", "camera held still")):
        if camera in result:
            recall = tall_recall(result[camera]["ours"]["people"]["recall_by_height"])
            told[f"recall of people ≥ {PEOPLE_MIN_HEIGHT} px, {where}"] = _at_least(recall, PEOPLE_MIN_RECALL)
    for group, what, bounds in LEAST:
        if group not in result:
            continue
        row = result[group]["ours"]
        for key, bound in bounds.items():
            part = row["names"] if key == "right" else row[what] if what else row
            label = "right names" if key == "right" else key
            told[f"{label}, {group}{f' ({what})' if what else ''}"] = _at_least(part[key], bound)
    for group, what in (("reported", ""), ("pedestrians reported", "people")):
        if group in result and "detector" in result[group]:
            both = (result[group][who] for who in ("ours", "detector"))
            ours, detector = (row[what] if what else row for row in both)
            for key in ("AP50", "IDF1"):
                told[f"{key} ahead of the detector alone, {group}"] = {
                    "ours": ours[key],
                    "bound": detector[key],
                    "met": ours[key] > detector[key],
                }
    return told


def _at_least(value: float, bound: float) -> dict[str, Any]:
    return {"ours": value, "bound": bound, "met": value >= bound}


def tall_recall(ranges: Sequence[Mapping[str, Any]]) -> float:
    """Recall of those at least PEOPLE_MIN_HEIGHT px high; -1 where there are none."""
    tall = [each for each in ranges if each["min"] >= PEOPLE_MIN_HEIGHT and each["num_frames"]]
    num = sum(each["num_frames"] for each in tall)
    return sum(each["recall"] * each["num_frames"] for each in tall) / num if num else -1.0


def describe(weights: str | None) -> str:
    """Which network was run."""
    if weights is None:
        return "no weights"
    return describe_file(weights_path(weights))


def describe_file(path: Path) -> str:
    """A file's name and the start of its checksum."""
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"


class Peers:
    """Who else runs, on each of the two clips, by the names of the report."""

    def __init__(self, detect: Any | None) -> None:
        self.street: dict[str, Callable[[], runs.Peer]] = {"peer": BackgroundPeer}
        self.pedestrians: dict[str, Callable[[], runs.Peer]] = {"peer": lambda: BackgroundPeer(PEDESTRIANS)}
        if detect is not None:
            self.street["detector"] = self.pedestrians["detector"] = lambda: DetectorPeer(detect)


def parse() -> argparse.Namespace:
    """The arguments; a clip of pedestrians that is another ends the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="FILE", help="instead of the config's")
    parser.add_argument("--config", metavar="FILE", help="a stream's config; default: the default config")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="over the config, e.g. association.birth_score=0.3",
    )
    parser.add_argument("--pedestrians", metavar="FILE", type=Path, help="OpenCV's sample vtest.avi")
    parser.add_argument(
        "--detector",
        metavar="FILE",
        type=Path,
        help="one more peer, the detector alone: of the default weights, or as import-detector made it",
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--page", metavar="FILE", help="write the page, and its pictures into images/ next to it"
    )
    args = parser.parse_args()
    if args.pedestrians:
        try:
            pedestrians.check(args.pedestrians)
        except (OSError, ValueError) as error:
            parser.error(f"--pedestrians: {error}")
    return args


def run_street(
    predictor: NetworkPredictor, config: StreamConfig, peers: Peers
) -> tuple[dict[str, dict[int, Found]], dict[int, dict[int, Any]]]:
    """Who → video → what was found on the street clip, and the pictures shown of each video."""
    labels, frames = runs.load_labels(), runs.clip_frames()
    kept = runs.labelled(labels)
    whole = {
        "ours": runs.run_clip(predictor, config, kept=kept),
        **{who: runs.run_peer(frames, make(), kept=kept) for who, make in peers.street.items()},
    }
    found: dict[str, dict[int, Found]] = {who: {} for who in whole}
    shown: dict[int, dict[int, Any]] = {}
    for video in labels["videos"]:
        still = runs.held_frames(frames, video) if video["transforms"] else None
        shown[video["id"]] = {index: rgb for index, _, rgb in still or frames}
        for who in found:
            if still is None:
                found[who][video["id"]] = whole[who]
            elif who == "ours":
                found[who][video["id"]] = runs.run_held(still, predictor, config)
            else:
                found[who][video["id"]] = runs.run_peer(still, peers.street[who](), kept=kept)
    return found, shown


def run_pedestrians(
    found: dict[str, dict[int, Found]],
    labels: dict[str, Any],
    path: Path,
    predictor: NetworkPredictor,
    config: StreamConfig,
    peers: Peers,
) -> dict[str, Any]:
    """Add what was found on the second clip to `found`; return the labels of both clips."""
    more = runs.load_labels(pedestrians.LABELS)
    (video,) = more["videos"]
    people = runs.clip_frames(path)
    kept = runs.labelled(more)
    found["ours"][video["id"]] = runs.run_clip(predictor, config, path, kept=kept)
    for who, make in peers.pedestrians.items():
        found[who][video["id"]] = runs.run_peer(people, make(), kept=kept)
    return {**labels, **{key: labels[key] + more[key] for key in ("videos", "annotations")}}


def write_pictures(
    folder: Path,
    labels: dict[str, Any],
    found: dict[str, dict[int, Found]],
    shown: dict[int, dict[int, Any]],
) -> None:
    """The best and the worst frame of each shot of the street clip."""
    good: list[runs.Image] = []
    bad: list[runs.Image] = []
    for video in labels["videos"]:
        if video["camera"] == "pedestrians":
            continue  # whose the clip is is not clear enough to print its frames
        masks = [by_video[video["id"]] for by_video in found.values()]
        places = pictures.choose(labels, video, masks[0])
        for rows, place in zip((good, bad), places or (), strict=bool(places)):
            index = video["frame_indices"][place]
            label = runs.label_masks(labels, video, place)
            each_found = [each.get(index, []) for each in masks]
            rows.append(pictures.row(shown[video["id"]][index], label, *each_found))
    pictures.write(folder / "real_good.jpg", good)
    pictures.write(folder / "real_bad.jpg", bad)


def main() -> int:
    """Run all, print the metrics, write what is asked for; targets are shown, not asserted."""
    args = parse()
    values: dict[str, Any] = {"model": {"weights": args.weights}} if args.weights else {}
    # Metrics must not depend on what a machine has compiled before, nor on its arithmetic.
    fixed = ["model.engine=eager", "model.precision=fp32"]
    config = load_config(args.config, overrides=[*fixed, *args.set], values=values)
    predictor = load_predictor(config)
    detect = None
    if args.detector:
        height, width = predictor.input_size
        try:
            detect = load_detect(args.detector, height=height, width=width)
        except CheckpointError as error:
            print(f"bench_real.py: --detector: {error}", file=sys.stderr)
            return 2
    peers = Peers(detect)
    found, shown = run_street(predictor, config, peers)
    labels = runs.load_labels()
    if args.pedestrians:
        labels = run_pedestrians(found, labels, args.pedestrians, predictor, config, peers)
    result = compare(labels, found)
    told: dict[str, Any] = {
        "model": predictor.facts.name,
        "trained": predictor.facts.trained,
        "weights": describe(config.model.weights),
        "overrides": args.set,
        "detector": describe_file(args.detector) if args.detector else None,
        "groups": result,
        "targets": targets(result),
    }
    print(page.table(result))
    for name, row in told["targets"].items():
        print(f"{'met   ' if row['met'] else 'missed'}  {name}: {row['ours']:.3f} (bound {row['bound']:.3f})")
    if args.json:
        Path(args.json).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if args.page:
        target = Path(args.page)
        write_pictures(target.parent / "images", labels, found, shown)
        target.write_text(page.page(told, labels), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
