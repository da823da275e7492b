"""Choose the numbers of association on validation videos: one pass of the network, many passes of the associator.

    python tests/benchmarks/tune_association.py DATA [--limit N] [--set model.weights=FILE] [--json FILE]

DATA is a data set in YouTube-VIS JSON, never the test set (`python -m model data-freeze --split val`). The network's
predictions are kept in memory (1 MB a frame, and the pictures); then one number after the other is tried at the values below, from
the config's own, and what raises the mean of single-frame AP50, IDF1 and whole-track AP50 is kept, twice around.
`logit_shift` is added to the class logits: what a change of the weights' class bias would do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.process import tune_process

tune_process()

import numpy as np

from pipeline.config import StreamConfig
from pipeline.config_file import load_config
from pipeline.evaluation.annotated import AnnotatedVideos, open_annotated
from pipeline.evaluation.evaluate import cut_windows, gather, metrics_of, track_rows
from pipeline.inference.network_predictor import load_predictor
from pipeline.inference.predictor import ModelFacts, Predictor, as_predictor, predict_window
from pipeline.inference.window import Windower
from pipeline.types import Window, WindowPrediction

TRIED: dict[str, tuple[float, ...]] = {
    "logit_shift": (-0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.1),
    "birth_score": (0.25, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "high_score": (0.2, 0.3, 0.4, 0.5),
    "min_score": (0.02, 0.05, 0.1, 0.2),
    "nms_iou": (0.3, 0.4, 0.5, 0.6, 0.7),
    "birth_max_iou": (0.05, 0.1, 0.2, 0.3, 0.5),
    "gate_iou": (0.05, 0.1, 0.2, 0.3),
    "gate_embedding": (0.4, 0.6, 0.8, 0.9),
    "confirm_windows": (1, 2, 3),
    "lost_seconds": (0.5, 1.0, 2.0, 4.0),
    "max_speed": (0.1, 0.25, 0.5, 1.0),
    "weight_lost": (0.3, 0.5, 0.7),
}


class Kept:
    """The windows of a data set with their predictions, half precision."""

    def __init__(self, config: StreamConfig, predictor: Predictor, data: AnnotatedVideos) -> None:
        self.facts: ModelFacts = predictor.facts
        self.truth = data.truth
        self.windows: dict[int, list[tuple[Window, WindowPrediction]]] = defaultdict(list)
        for video in data.truth.videos.values():
            windower = Windower(num_frames=self.facts.num_frames, stride=config.window.stride)
            for window in cut_windows(windower, data.frames(video, fps=config.source.images_fps)):
                found = predict_window(predictor, window)
                half = replace(found, mask_logits=found.mask_logits.astype(np.float16))
                self.windows[video.id].append((window, half))
            if predictor.capabilities.forget is not None:
                predictor.capabilities.forget(data.source(video))
            print(f"video {video.id} of {len(data.truth.videos)}", file=sys.stderr)


class Replay:
    """A predictor that gives a video's kept predictions again."""

    def __init__(self, kept: Kept, video_id: int, *, logit_shift: float) -> None:
        self.facts = kept.facts
        self._answers = {window.frames[-1].index: found for window, found in kept.windows[video_id]}
        self._shift = logit_shift

    def predict(self, window: Window) -> WindowPrediction:
        found = self._answers[window.frames[-1].index]
        scores = np.clip(found.scores, 1e-6, 1 - 1e-6)
        shifted = 1 / (1 + (1 - scores) / scores * np.exp(-self._shift))
        return replace(
            found, scores=shifted.astype(np.float32), mask_logits=found.mask_logits.astype(np.float32)
        )

    def forget(self, source: str) -> None:
        self._answers.clear()


def metrics(config: StreamConfig, kept: Kept, numbers: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of mode `streaming` with these numbers of association."""
    own = {key: value for key, value in numbers.items() if key != "logit_shift"}
    config = config.model_copy(update={"association": config.association.model_copy(update=own)})
    rows = {}
    for video_id, pairs in kept.windows.items():
        replay = Replay(kept, video_id, logit_shift=numbers.get("logit_shift", 0.0))
        windows = (window for window, _ in pairs)
        rows[video_id] = list(
            track_rows(
                config,
                as_predictor(replay),
                kept.truth.videos[video_id],
                windows,
                stride=config.window.stride,
                emission=config.emission,
            )
        )
    found = metrics_of(gather(kept.truth, kept.facts, "streaming", rows, seconds=1.0), "streaming")
    return {
        "frames_ap50": found["frames"]["AP50"],
        "recall": found["frames"]["recall"],
        "precision": found["frames"]["precision"],
        "idf1": found["frames"]["IDF1"],
        "ap50": found["AP50"],
        "ap": found["AP"],
    }


def score(found: Mapping[str, float]) -> float:
    return (found["frames_ap50"] + found["idf1"] + found["ap50"]) / 3


def tune(config: StreamConfig, kept: Kept, *, rounds: int = 2) -> list[dict[str, Any]]:
    """Every trial in order, the last one that says `best` is the choice."""
    section = config.association
    numbers = {key: 0.0 if key == "logit_shift" else getattr(section, key) for key in TRIED}
    found = metrics(config, kept, numbers)
    trials: list[dict[str, Any]] = [{"numbers": dict(numbers), **found, "best": True}]
    best = score(found)
    print(f"as it is: {best:.4f} {found}", flush=True)
    for _ in range(rounds):
        before = best
        for key, values in TRIED.items():
            for value in values:
                if value == numbers[key]:
                    continue
                tried = {**numbers, key: value}
                found = metrics(config, kept, tried)
                trials.append({"numbers": tried, **found, "best": score(found) > best})
                if score(found) > best:
                    best, numbers = score(found), tried
                    print(f"{key} = {value}: {best:.4f} {found}", flush=True)
        if best == before:
            break
    print(json.dumps(numbers))
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many videos")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial")
    options = parser.parse_args()
    config = load_config(None, overrides=["model.engine=eager", "model.precision=fp32", *options.overrides])
    kept = Kept(config, load_predictor(config), open_annotated(options.data, limit=options.limit))
    trials = tune(config, kept)
    if options.json is not None:
        options.json.write_text(json.dumps(trials, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
