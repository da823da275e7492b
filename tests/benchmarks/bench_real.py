"""The pipeline and its peer against the hand-drawn labels of a real street clip, in the same run.

    python tests/benchmarks/bench_real.py [--weights FILE] [--config FILE] [--set KEY=VALUE] [--pedestrians vtest.avi]
                                          [--json FILE] [--page docs/benchmark-real.md]

Both are shown the same frames, the whole clip from its start at 10 frames per second, and know nothing of its
cuts. Figures are `model.evaluation.frame_metrics` over the labelled frames: AP50 of single frames, recall at
IoU 0.5 by object height, ids (IDF1, switches). A shot of a walker is run a second time with the camera's own
motion undone: the clip has no person before a still camera. `--pedestrians` adds a clip that has: OpenCV's sample
vtest.avi, with labels after the median of all of it (real/pedestrians.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipeline.process import tune_process

tune_process()

from benchmarks.peer_background import PEDESTRIANS, BackgroundPeer
from benchmarks.real import page, pedestrians, pictures, runs
from benchmarks.real.runs import Found

from model.checkpoint import shipped_weights
from model.config import SHIPPED_WEIGHTS
from model.evaluation.frame_metrics import frame_metrics
from pipeline.config_file import load_config
from pipeline.predict import load_predictor

PEOPLE_MIN_HEIGHT = 24
PEOPLE_MIN_RECALL = 0.70
KEYS = ("AP50", "recall", "precision", "IDF1", "id_recall", "num_id_switches", "num_object_frames")


def groups(labels: Mapping[str, Any]) -> dict[str, set[int]]:
    """Name → ids of the videos: each camera's, all of the clip as it is, and each shot."""
    videos = labels["videos"]
    by_name = {
        camera: {video["id"] for video in videos if video["camera"] == camera}
        for camera in ("still", "moving", "held still", "pedestrians")
        if any(video["camera"] == camera for video in videos)
    }
    if "still" in by_name and "moving" in by_name:
        by_name["all"] = by_name["still"] | by_name["moving"]
    return {**by_name, **{f"shot {video['name']}": {video["id"]} for video in videos}}


def compare(labels: Mapping[str, Any], found: Mapping[str, Mapping[int, Found]]) -> dict[str, Any]:
    """Figures by group and by who found what; `found` is by who and by video id."""
    result: dict[str, Any] = {}
    for name, ids in groups(labels).items():
        rows: dict[str, Any] = {"cameras": sorted({v["camera"] for v in labels["videos"] if v["id"] in ids})}
        for who, by_video in found.items():
            everything = figures(labels, ids, by_video)
            people = figures(labels, ids, by_video, kinds=("person",))
            rows[who] = {
                **{key: everything[key] for key in KEYS},
                "recall_by_height": everything["recall_by_height"],
                "people": {key: people[key] for key in (*KEYS, "recall_by_height")},
            }
        result[name] = rows
    return result


def figures(
    labels: Mapping[str, Any],
    ids: set[int],
    by_video: Mapping[int, Found],
    *,
    kinds: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """`frame_metrics` of some videos, each with what was found in it."""
    chosen = runs.select(labels, ids, kinds=kinds)
    results = []
    for video in chosen["videos"]:
        results += runs.to_results({**chosen, "videos": [video]}, by_video[video["id"]])
    return frame_metrics(chosen, results, use_categories=False)


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
            told[f"recall of people ≥ {PEOPLE_MIN_HEIGHT} px, {where}"] = {
                "ours": recall,
                "bound": PEOPLE_MIN_RECALL,
                "met": recall >= PEOPLE_MIN_RECALL,
            }
    return told


def tall_recall(ranges: Sequence[Mapping[str, Any]]) -> float:
    """Recall of those at least PEOPLE_MIN_HEIGHT px high; -1 where there are none."""
    tall = [each for each in ranges if each["min"] >= PEOPLE_MIN_HEIGHT and each["num_frames"]]
    num = sum(each["num_frames"] for each in tall)
    return sum(each["recall"] * each["num_frames"] for each in tall) / num if num else -1.0


def describe(weights: str | None) -> str:
    """Which network was run."""
    if weights is None:
        return "no weights"
    path = shipped_weights() if weights == SHIPPED_WEIGHTS else Path(weights)
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"


def main() -> int:
    """Run both, print the figures, write what is asked for; targets are shown, not asserted."""
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
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--page", metavar="FILE", help="write the page, and its pictures into images/ beside it"
    )
    args = parser.parse_args()
    if args.pedestrians:
        try:
            pedestrians.check(args.pedestrians)
        except (OSError, ValueError) as error:
            parser.error(f"--pedestrians: {error}")

    values: dict[str, Any] = {"model": {"weights": args.weights}} if args.weights else {}
    # Figures must not depend on what a machine has compiled before, nor on its arithmetic.
    fixed = ["model.engine=eager", "model.precision=fp32"]
    config = load_config(args.config, overrides=[*fixed, *args.set], values=values)
    predictor = load_predictor(config)
    labels, frames = runs.load_labels(), runs.clip_frames()
    ours = runs.run_clip(predictor, config)
    peer = runs.run_peer(frames)
    found: dict[str, dict[int, Found]] = {"ours": {}, "peer": {}}
    shown: dict[int, dict[int, Any]] = {}
    for video in labels["videos"]:
        held = runs.held_frames(frames, video) if video["transforms"] else None
        shown[video["id"]] = {index: rgb for index, _, rgb in held or frames}
        found["ours"][video["id"]] = runs.run_held(held, predictor, config) if held else ours
        found["peer"][video["id"]] = runs.run_peer(held) if held else peer
    if args.pedestrians:
        more = runs.load_labels(pedestrians.LABELS)
        (video,) = more["videos"]
        people = runs.clip_frames(args.pedestrians)
        shown[video["id"]] = {index: rgb for index, _, rgb in people}
        found["ours"][video["id"]] = runs.run_clip(predictor, config, args.pedestrians)
        found["peer"][video["id"]] = runs.run_peer(people, BackgroundPeer(PEDESTRIANS))
        labels = {**labels, **{key: labels[key] + more[key] for key in ("videos", "annotations")}}
    result = compare(labels, found)
    told: dict[str, Any] = {
        "model": predictor.facts.name,
        "trained": predictor.facts.trained,
        "weights": describe(config.model.weights),
        "overrides": args.set,
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
        good: list[runs.Image] = []
        bad: list[runs.Image] = []
        for video in labels["videos"]:
            if video["camera"] == "pedestrians":
                continue  # whose the clip is is not clear enough to print its frames
            masks = found["ours"][video["id"]], found["peer"][video["id"]]
            places = pictures.choose(labels, video, masks[0])
            for rows, place in zip((good, bad), places or (), strict=bool(places)):
                index = video["frame_indices"][place]
                label = runs.label_masks(labels, video, place)
                both = [each.get(index, []) for each in masks]
                rows.append(pictures.row(shown[video["id"]][index], label, *both))
        pictures.write(target.parent / "images" / "real_good.jpg", good)
        pictures.write(target.parent / "images" / "real_bad.jpg", bad)
        target.write_text(page.page(told, labels), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
