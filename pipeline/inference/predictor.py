"""Windows → instance candidates: what a stream asks of a model, and what it may know of one.

A model has one thing to do: `begin` with windows, and return what finishes them. All else that it can do
stands in its `Capabilities`. A model that answers window by window (`predict`) is completed by
`as_predictor`. Four kinds fit: clip models, frame models (T = 1), stateful models with ids of their own, and
detectors without masks.

Loads neither torch nor any network: sinks, and predictors that are none of ours, need the facts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from model.class_lists import unknown_class
from pipeline.config import StreamConfig, stride_error
from pipeline.errors import ConfigError
from pipeline.types import Frame, Window, WindowPrediction

if TYPE_CHECKING:
    from ops.masks import CropMasks, MakeSums

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
    has_masks: bool = True
    """False for a detector: its predictions have no mask logits, and boxes are published with empty masks."""


Finish = Callable[[], list[WindowPrediction]]
"""Waits for the predictions of windows that were begun, one a window, in their order; called once."""


@dataclass(frozen=True)
class Capabilities:
    """What a predictor can do besides `begin`. The default is the least: a window at a time, nothing kept."""

    prepare: Callable[[Frame], None] | None = None
    """Does what depends on one frame alone; called from one thread, next to `begin` of earlier windows.

    Every frame of a source that will stand in a window comes, in order, after `forget` where it does not
    continue the ones before it; its window is begun when this has returned.
    """
    forget: Callable[[str], None] | None = None
    """Drops what is kept of a source: it ended, or what follows does not continue it. None of the source's
    windows is open then."""
    batches: bool = False
    """Whether `begin` takes windows of several sources at once (`model.max_batch`); else it gets one."""
    overlaps: bool = False
    """Whether windows may be begun before those before are finished: for a device that works next to its
    caller. Two are open at most, and they are finished in the order in which they were begun."""
    takes_yuv: bool = False
    """Whether frames may come with planes alone (`Frame.yuv`): RGB is made only where something else asks."""
    crop_masks: CropMasks | None = None
    """Makes masks of logits where the model runs: equal to `ops.masks.crop_masks`, which None stands for."""
    mask_sums: MakeSums | None = None
    """Sums and encodes the published masks where the model runs (`WindowPrediction.on_device`), so that they
    leave the device once more, as run lengths; None: on the host, by `crop_masks`."""


class Predictor(Protocol):
    """Windows of T frames in, candidates out: scores, boxes, and perhaps masks, embeddings, ids. T may be
    1."""

    @property
    def facts(self) -> ModelFacts:
        """What the model is; the same all its life."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do besides; the same all its life."""

    def begin(self, windows: Sequence[Window]) -> Finish:
        """Ask for the candidates of each window's T frames; each window is of another source.

        A predictor that overlaps waits for nothing here.
        """


class WindowModel(Protocol):
    """The least that a model must be, for `as_predictor`: facts, and an answer to one window.

    A method `forget(source)` is called where it has one (`Capabilities.forget`).
    """

    @property
    def facts(self) -> ModelFacts:
        """What the model is; the same all its life."""

    def predict(self, window: Window) -> WindowPrediction:
        """Return the candidates of the window's T frames, on the host."""


class _OneByOne:
    """A `WindowModel` as a `Predictor`."""

    def __init__(self, model: WindowModel) -> None:
        self._model = model
        self.facts = model.facts
        self.capabilities = Capabilities(forget=getattr(model, "forget", None))

    def begin(self, windows: Sequence[Window]) -> Finish:
        predictions = [self._model.predict(window) for window in windows]
        return lambda: predictions


def as_predictor(model: Predictor | WindowModel) -> Predictor:
    """Return a predictor as it is, and a model that answers window by window completed to one.

    Raises TypeError for an object that is neither.
    """
    found: Any = model
    if isinstance(getattr(found, "facts", None), ModelFacts):
        if callable(getattr(found, "begin", None)):
            if isinstance(getattr(found, "capabilities", None), Capabilities):
                return found  # type: ignore[no-any-return]
        elif callable(getattr(found, "predict", None)):
            return _OneByOne(found)
    raise TypeError(
        f"{type(model).__name__} is no model for a stream: it needs `facts` (a ModelFacts) and a method "
        "`predict(window)`, or `facts`, `capabilities` (a Capabilities) and a method `begin(windows)`"
    )


def predict_window(predictor: Predictor, window: Window) -> WindowPrediction:
    """Return what a predictor says of one window, at once."""
    predictions = predictor.begin([window])()
    check_predictions(predictions, predictor.facts, num_windows=1)
    return predictions[0]


def check_predictions(
    predictions: Sequence[WindowPrediction], facts: ModelFacts, *, num_windows: int
) -> None:
    """Raises ValueError for predictions that are not what the model said of itself."""
    if len(predictions) != num_windows:
        raise ValueError(
            f"model {facts.name!r} returned {len(predictions)} predictions for {num_windows} windows: "
            "return one for each"
        )
    for prediction in predictions:
        if facts.has_masks != (prediction.mask_logits is not None):
            raise ValueError(
                f"model {facts.name!r} has facts.has_masks {facts.has_masks}, its prediction has "
                f"{'no ' if prediction.mask_logits is None else ''}mask logits: the two must agree"
            )


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


def check_stride(config: StreamConfig, facts: ModelFacts) -> None:
    """Raises ConfigError for a stride that skips frames of the model's windows."""
    if config.window.stride > facts.num_frames:
        raise ConfigError(stride_error(config.window.stride, facts.num_frames))
