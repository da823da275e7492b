"""Windows → instance candidates: the protocol, and the MS-STS network as its first implementation.

Per-frame work (backbone, projections, positions, layer 1's deformable update) is done once per frame and kept in
a ring per source for the windows that overlap: bit-equal to doing it again, because every frame is encoded on its
own either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from model.class_lists import CLASS_LISTS
from model.config import ModelConfig
from model.network import FrameFeatures, Network
from model.postprocess import candidates
from ops.preprocess import Fit, fit_image
from pipeline.config import ModelSection
from pipeline.types import Frame, Window, WindowPrediction


@dataclass(frozen=True)
class ModelFacts:
    """What a stream says about its model on the wire, in reports and in pictures."""

    name: str
    class_list: str
    """Id of the class list."""
    classes: dict[int, tuple[int, str]]
    """Output index → (category id, class name); outputs that are not listed never win."""
    trained: bool
    num_frames: int
    """T, frames in a window."""


class Predictor(Protocol):
    """Frames in, masks with scores, labels and optional embeddings out; T = 1 is allowed."""

    facts: ModelFacts

    def predict(self, window: Window) -> WindowPrediction:
        """Return the candidates of the window's T frames, on the host."""

    def forget(self, source: str) -> None:
        """Drop what is kept of a source: it ended, or what follows does not continue it."""
