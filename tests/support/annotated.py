"""Annotated videos made from scripted scenes, and a predictor that knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from support.truth import CLASSES, Corruption, Oracle, Scene
from support.ytvis import rle

from model.evaluation.dataset import read_ground_truth
from pipeline.evaluation.annotated import AnnotatedVideos
from pipeline.inference.predictor import ModelFacts
from pipeline.types import Window, WindowPrediction


def scene_json(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return the scenes as YouTube-VIS ground truth, videos 1, 2, …"""
    tree: dict[str, Any] = {
        "videos": [
            {
                "id": number,
                "height": scene.height,
                "width": scene.width,
                "length": len(scene),
                "file_names": [f"{number}/{index:05}.png" for index in range(len(scene))],
            }
            for number, scene in enumerate(scenes, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in CLASSES.values()],
        "annotations": [],
    }
    for number, scene in enumerate(scenes, start=1):
        for name, output in scene.outputs.items():
            masks = [masks.get(name) for masks in scene.masks]
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]) + 1,
                    "video_id": number,
                    "category_id": CLASSES[output][0],
                    "iscrowd": 0,
                    "segmentations": [None if mask is None else rle(mask) for mask in masks],
                }
            )
    return tree


def scene_videos(scenes: Sequence[Scene]) -> AnnotatedVideos:
    """Return the scenes as annotated videos with black pictures."""
    return AnnotatedVideos(
        read_ground_truth(scene_json(scenes)),
        lambda video, number: np.zeros((video.height, video.width, 3), np.uint8),
    )


class ScenePredictor:
    """Answers for the videos of `scene_videos` with their true masks, or corrupted ones."""

    def __init__(
        self, scenes: Sequence[Scene], *, num_frames: int = 5, corruption: Corruption | None = None
    ) -> None:
        self.facts = ModelFacts(
            name="truth", class_list="test", classes=dict(CLASSES), trained=True, num_frames=num_frames
        )
        self.forgotten: list[str] = []
        self._oracles: Mapping[str, Oracle] = {
            f"video{number}": Oracle(
                scene, corruption or Corruption(), input_size=(scene.height, scene.width), stride=2
            )
            for number, scene in enumerate(scenes, start=1)
        }

    def predict(self, window: Window) -> WindowPrediction:
        """Return the window's candidates, in random order."""
        return self._oracles[window.frames[-1].source].predict(window)

    def forget(self, source: str) -> None:
        """Note that the source has ended."""
        self.forgotten.append(source)
