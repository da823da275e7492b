"""Windows → instance candidates: what a stream asks of a model, and what it may know of one.

Loads neither torch nor any network: sinks, and predictors that are none of ours, need the facts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from model.class_lists import unknown_class
from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.types import Frame, Window, WindowPrediction

if TYPE_CHECKING:
    from ops.masks import CropMasks

MAX_AHEAD = 16
"""Frames that a stream prepares before their turn, at most."""


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
    unnamed: frozenset[int] = frozenset()
    """Outputs that stand for what moves and has no name: their tracks are shown from when they move on."""


class Predictor(Protocol):
    """Frames in, masks with scores, labels and optional embeddings out; T = 1 is allowed."""

    facts: ModelFacts

    def predict(self, window: Window) -> WindowPrediction:
        """Return the candidates of the window's T frames, on the host."""

    def forget(self, source: str) -> None:
        """Drop what is kept of a source: it ended, or what follows does not continue it."""


@runtime_checkable
class PreparingPredictor(Predictor, Protocol):
    """A predictor that can begin with a frame before a window holds it."""

    prepares: bool
    """Whether `prepare` does anything here."""

    def prepare(self, frame: Frame) -> None:
        """Do what depends on this frame alone; called from one thread, beside `predict` of earlier windows.

        Every frame of a source that will stand in a window comes, in order, after `forget` where it does not
        continue the ones before it; its window is predicted when this has returned.
        """


@runtime_checkable
class BatchingPredictor(Predictor, Protocol):
    """A predictor that answers for windows of several sources at once."""

    def predict_batch(self, windows: Sequence[Window]) -> list[WindowPrediction]:
        """Return what `predict` returns for each window, up to rounding; each is of another source."""


Finish = Callable[[], list[WindowPrediction]]
"""Waits for the predictions of windows that were begun; called once."""


@runtime_checkable
class OverlappingPredictor(Predictor, Protocol):
    """A predictor on a device that works beside its caller, asked for windows before they are needed."""

    overlaps: bool
    """Whether that pays here."""

    def begin(self, windows: Sequence[Window]) -> Finish:
        """Ask for what `predict` returns for each window, each of another source, and wait for nothing of it.

        They are finished in the order in which they were begun, two are open at most, and a source is
        forgotten when none of its windows is open.
        """


@runtime_checkable
class CroppingPredictor(Predictor, Protocol):
    """A predictor on a device that makes masks of logits, too."""

    crop_masks: CropMasks
    """`ops.masks.crop_masks`, or its equal on the device."""


@runtime_checkable
class YuvPredictor(Predictor, Protocol):
    """A predictor that takes frames as the decoder gives them out."""

    takes_yuv: bool
    """Whether frames may come with planes alone (`Frame.yuv`): RGB is made only where something else asks."""


def birth_scores(config: StreamConfig, facts: ModelFacts) -> dict[int, float]:
    """`model.score_thresholds` by class output, for `Associator`.

    Raises ConfigError for a name that the stream does not publish.
    """
    outputs = {name: output for output, (_, name) in facts.classes.items()}
    thresholds: Mapping[str, float] = config.model.score_thresholds
    for name in thresholds:
        if name not in outputs:
            reason = unknown_class(name, outputs, which="that the stream publishes (model.classes)")
            raise ConfigError(f"model.score_thresholds: {reason}")
    return {outputs[name]: score for name, score in thresholds.items()}
