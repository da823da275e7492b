"""Windows → instance candidates: the protocol, and the MS-STS network as its first implementation.

Per-frame work (backbone, projections, positions, layer 1's deformable update) is done once per frame and kept
in a ring per source for the windows that overlap: bit-equal to doing it again, because every frame is encoded
on its own either way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from model.config import ModelConfig, contradictions
from model.errors import CheckpointError
from model.network import FrameFeatures, Network, build_model
from model.postprocess import candidates
from ops.preprocess import Fit, fit_image
from pipeline.config import StreamConfig, stride_error
from pipeline.errors import ConfigError
from pipeline.types import Frame, Window, WindowPrediction

logger = logging.getLogger(__name__)


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


class NetworkPredictor:
    """Runs a network on windows of T frames fitted into `height` × `width`; used by one thread."""

    def __init__(
        self, network: Network, config: ModelConfig, *, name: str, max_instances: int = 30, cache: bool = True
    ) -> None:
        self._network = network.eval()
        self._config = config
        self._max_instances = max_instances
        self._cache = cache
        self._rings: dict[str, dict[int, tuple[FrameFeatures, Fit]]] = {}
        classes = {
            index: (each.id, each.name)
            for index, each in enumerate(config.output_categories)
            if each is not None
        }
        self.facts = ModelFacts(
            name=name,
            class_list=config.class_list,
            classes=classes,
            trained=network.trained,
            num_frames=config.num_frames,
        )

    @torch.inference_mode()
    def predict(self, window: Window) -> WindowPrediction:
        """Return the candidates of the window, best first; only frames that no window has held are
        encoded."""
        source = window.frames[-1].source
        known = self._rings.get(source, {}) if self._cache else {}
        ring = {frame.index: known.get(frame.index) or self._encode(frame) for frame in window.real}
        self._rings[source] = ring
        places = [ring[frame.index] for frame in window.frames]
        output = self._network.decode_window(
            FrameFeatures.stack([features for features, _ in places]), num_kept=self._max_instances
        )
        (found,) = candidates(output, self._config)
        fit = places[-1][1]
        return WindowPrediction(
            scores=found.scores,
            boxes_xyxy=fit.boxes_to_source(found.boxes),
            mask_logits=found.mask_logits,
            fit=fit,
            embeddings=found.embeddings,
        )

    def forget(self, source: str) -> None:
        """Drop the source's features."""
        self._rings.pop(source, None)

    def _encode(self, frame: Frame) -> tuple[FrameFeatures, Fit]:
        image, fit = fit_image(frame.rgb(), height=self._config.height, width=self._config.width)
        return self._network.encode_frames(image[None]), fit


def load_predictor(config: StreamConfig) -> NetworkPredictor:
    """Make the network that the config names; its weights file's own config is the architecture.

    Raises ConfigError for weights that cannot be read, or that a key of `model.network` contradicts.
    """
    section = config.model
    if section.num_threads is not None:
        torch.set_num_threads(section.num_threads)
    if section.weights is None:
        network = build_model(config.network, seed=section.seed, class_bias=section.class_bias)
        wanted = config.network
        name = f"untrained-{wanted.backbone}-{wanted.variant}"
        logger.warning("no weights are given: the model is untrained and its masks mean nothing")
    else:
        network, wanted = _load(section.weights, section.network)
        name = Path(section.weights).stem
    if config.window.stride > wanted.num_frames:
        raise ConfigError(stride_error(config.window.stride, wanted.num_frames))
    return NetworkPredictor(
        network, wanted, name=name, max_instances=section.max_instances, cache=section.cache
    )


def _load(weights: str, overrides: dict[str, object]) -> tuple[Network, ModelConfig]:
    from model.checkpoint import load_weights

    try:
        network = load_weights(weights)
    except CheckpointError as error:
        raise ConfigError(f"model.weights: {error}") from None
    faults = contradictions(network.config, overrides)
    if faults:
        raise ConfigError(
            f"model.network contradicts model.weights {weights}: {'; '.join(faults)}; "
            "leave the key out: the weights' own config counts"
        )
    return network, ModelConfig.from_dict(overrides, base=network.config)
