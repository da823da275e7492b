"""Windows → instance candidates by the MS-STS network.

Per-frame work (backbone, projections, positions, layer 1's deformable update) is done once per frame and kept
in a ring per source (`model.engines.ring`) for the windows that overlap: bit-equal to doing it again, because
every frame is encoded on its own either way. Cues (`model.cues`) need the stream's order: they are computed
once per frame, when it is prepared or a window first holds it.

On a CPU a stream has the next frames prepared by a thread of its own while a window is decoded: two threads
of one core each get more done than one of two, which meet at hundreds of barriers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint.weights_file import load_weights, weights_path
from model.class_lists import UNNAMED
from model.config import FORMER_WEIGHTS, ModelConfig, Precision, contradictions
from model.cues.flow import Motion, scale_motion
from model.cues.state import CueState
from model.engines.halves import HalvesSpec, spec_outputs
from model.engines.ring import FeatureRing
from model.engines.runtime import EngineName, Runtime
from model.errors import CheckpointError, EngineError
from model.network import FrameFeatures, Network, build_model
from model.postprocess import ComingCandidates, WindowCandidates
from ops.device_masks import mask_sums_on
from ops.device_preprocess import FromPlanes, preprocess_on
from ops.masks import MakeSums
from ops.preprocess import Fit, fit_content, fit_size, normalise_content
from pipeline.config import StreamConfig, stride_error
from pipeline.errors import ConfigError
from pipeline.inference.moving import motion_map, without_still
from pipeline.inference.predictor import (
    MAX_AHEAD,
    Capabilities,
    Finish,
    ModelFacts,
    predict_window,
)
from pipeline.types import Frame, Window, WindowPrediction, YuvPicture

logger = logging.getLogger(__name__)


_MASK_STRIDE = 4
"""Pixels of the input that a mask cell is wide."""


@dataclass
class _Kept:
    """What is kept of a source, by frame index."""

    features: FeatureRing
    """Of the frames of its last window, and of those that are prepared for the next ones."""
    cues: CueState | None
    planes: dict[int, Tensor] = field(default_factory=dict)
    """(R, H, W), zero in the padding; where frames are encoded again for every window."""
    camera: dict[int, Motion | None] = field(default_factory=dict)
    """The camera's motion since the frame before, in source pixels, of frames that no window has held."""
    moving: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """What moves (`motion_map`) in frames that no window has held."""
    num_frames: int = 0
    """Frames seen since the source began or was forgotten."""


class NetworkPredictor:
    """Runs a network on windows of T frames fitted into `height` × `width`; `begin` and `forget` are called
    by one thread, `prepare` perhaps by another.

    The network's cues are computed from the frames; with `cues=False` they stay zero. Without cues, on a GPU
    whose kernel for it works, frames may come as planes, which are uploaded as they are and converted there.
    """

    def __init__(
        self,
        network: Network,
        config: ModelConfig,
        *,
        name: str,
        max_instances: int = 30,
        cache: bool = True,
        cues: bool = True,
        engine: EngineName = "eager",
        device: str = "cpu",
        precision: Precision = "auto",
        weights: Path | None = None,
        max_windows: int = 1,
        max_ahead: int = 1,
        from_planes: FromPlanes | None = None,
        mask_sums: MakeSums | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """What is not of this module is `model.engines.runtime.Runtime`'s, which says what it raises.

        classes: names of the classes that count, None: those that the class list recommends; ValueError for
        others than it has.
        max_ahead: frames that will be prepared before a window holds them; memory is taken for them at once,
        and for more when they come. from_planes: how the planes of frames are converted where there are no
        cues; None: by the kernel, and not at all where it does not work. mask_sums: where published masks are
        summed; None: on the device where the kernel for them works, else on the host.
        """
        self._config = config
        self.input_size = (config.height, config.width)
        """Pixels of what every frame is fitted into."""
        self._cache = cache
        self._cues = config.cues if cues else ()
        spec = HalvesSpec(
            height=config.height,
            width=config.width,
            num_frames=config.num_frames,
            num_kept=max_instances,
            with_cues=bool(self._cues),
            outputs=spec_outputs(config, classes),
        )
        self._outputs = spec.outputs
        self._runtime = Runtime(
            network,
            spec,
            engine=engine,
            device=device,
            precision=precision,
            weights=weights,
            max_windows=max_windows,
        )
        # Cues are computed on the host, of the picture.
        self._from_planes = (
            None if self._cues else from_planes or preprocess_on(self._runtime.device, self._runtime.dtype)
        )
        self._sources: dict[str, _Kept] = {}
        on_cpu = self._runtime.device.type == "cpu"
        # A GPU works next to its caller as it is: windows overlap there, and nothing is prepared.
        prepares = cache and on_cpu
        self.capabilities = Capabilities(
            prepare=self.prepare if prepares else None,
            forget=self.forget,
            batches=True,
            overlaps=not on_cpu,
            takes_yuv=self._from_planes is not None,
            mask_sums=mask_sums if mask_sums is not None else mask_sums_on(self._runtime.device),
        )
        # Queries that start from a detector's boxes know where and what, hardly who: on real people their
        # embeddings brought lost tracks back on others (docs/association.md).
        self._tells_individuals = config.query_selection != "detector"
        self._num_slots = config.num_frames + (max_ahead if prepares else 0)
        self.facts = _facts(name, config, spec.outputs, trained=network.trained)

    def prepare(self, frame: Frame) -> None:
        """Encode the frame (`Capabilities.prepare`)."""
        self._encode([(frame, self._kept(frame.source))])

    def predict(self, window: Window) -> WindowPrediction:
        """Return the candidates of one window at once."""
        return predict_window(self, window)

    @torch.inference_mode()
    def begin(self, windows: Sequence[Window]) -> Finish:
        """Ask for the candidates of windows, best first; on a GPU all is queued when this returns.

        Only frames that no window has held and that were not prepared are encoded. Windows of different
        sources are decoded together as far as the engine does that.
        """
        self._encode([(frame, kept) for window in windows for frame, kept in self._missing(window)])
        frames = [features for window in windows for features in self._features(window)]
        output = self._runtime.decode(frames, num_windows=len(windows))
        keep = self.capabilities.mask_sums is not None
        coming = ComingCandidates(output, self._config, self._outputs, keep_masks=keep)
        on_device = [None] * len(windows) if coming.mask_logits is None else list(coming.mask_logits)
        told = [(self._camera(window), self._moving(window)) for window in windows]
        return lambda: [
            replace(self._prediction(window, found, camera, moving), on_device=masks)
            for window, found, masks, (camera, moving) in zip(
                windows, coming.wait(), on_device, told, strict=True
            )
        ]

    def _camera(self, window: Window) -> tuple[Motion | None, ...] | None:
        """The camera's motion at each new frame of a window; None without cues."""
        kept = self._kept(window.frames[-1].source)
        return (
            None if kept.cues is None else tuple(kept.camera.pop(frame.index, None) for frame in window.new)
        )

    def _moving(self, window: Window) -> NDArray[np.float32] | None:
        """What moves in the window's newest frame; None without cues or where everything has a name."""
        kept = self._kept(window.frames[-1].source)
        *_, newest = (kept.moving.pop(frame.index, None) for frame in window.new)
        return newest

    def _missing(self, window: Window) -> list[tuple[Frame, _Kept]]:
        """The window's frames that must be encoded now; room is made for them."""
        kept = self._kept(window.frames[-1].source)
        if not self._cache:
            kept.features.keep(())
        kept.features.keep(frame.index for frame in window.real)
        return [(frame, kept) for frame in window.real if frame.index not in kept.features]

    def _features(self, window: Window) -> list[FrameFeatures]:
        """The features of the window's T places, which are kept for the next window."""
        kept = self._kept(window.frames[-1].source)
        ring = kept.features
        kept.planes = {index: planes for index, planes in kept.planes.items() if index in ring}
        return [ring[frame.index] for frame in window.frames]

    def _prediction(
        self,
        window: Window,
        found: WindowCandidates,
        camera: tuple[Motion | None, ...] | None,
        moving: NDArray[np.float32] | None,
    ) -> WindowPrediction:
        frame = window.frames[-1]
        scores = found.scores
        if moving is not None:
            scores = without_still(scores, found.mask_logits[:, -1], moving, self.facts.unnamed)
        fit = fit_size(frame.height, frame.width, height=self._config.height, width=self._config.width)
        return WindowPrediction(
            scores=scores,
            boxes_xyxy=fit.boxes_to_source(found.boxes),
            mask_logits=found.mask_logits,
            fit=fit,
            embeddings=found.embeddings if self._tells_individuals else None,
            camera=camera,
        )

    def forget(self, source: str) -> None:
        """Drop the source's features and cues."""
        kept = self._sources.pop(source, None)
        if kept is not None and kept.cues is not None and kept.cues.never_warm:
            logger.info(
                "%s: %d frames were too few or too short for cues to warm up, which stayed zero: %s",
                source,
                kept.num_frames,
                ", ".join(kept.cues.never_warm),
            )

    def _kept(self, source: str) -> _Kept:
        if source not in self._sources:
            cues = CueState(self._cues) if self._cues else None
            self._sources[source] = _Kept(FeatureRing(self._num_slots), cues)
        return self._sources[source]

    def _encode(self, frames: Sequence[tuple[Frame, _Kept]]) -> None:
        """Encode frames and keep their features: several in one call where the runtime does that."""
        inputs = [self._input(frame, kept) for frame, kept in frames]
        for (frame, kept), features in zip(frames, self._runtime.encode_each(inputs), strict=True):
            kept.features.store(frame.index, features)

    def _input(self, frame: Frame, kept: _Kept) -> tuple[Tensor, Tensor | None]:
        """The model's input of a frame: images (1, 3, H, W), cues (1, R, H, W) or None."""
        images = self._converted(frame.yuv) if frame.yuv is not None else None
        cues = None
        if images is None:
            content, fit = fit_content(frame.rgb(), height=self._config.height, width=self._config.width)
            images = normalise_content(content, fit)
            cues = self._cue_planes(frame, kept, content, fit)
        return images[None], None if cues is None else cues[None]

    def _converted(self, yuv: YuvPicture) -> Tensor | None:
        """The model's input (3, H, W) of a picture's planes, on the device; None where RGB must be made."""
        if self._from_planes is None:
            return None
        found = self._from_planes(
            self._runtime.upload(*map(torch.as_tensor, yuv.planes)),
            matrix=yuv.matrix,
            full_range=yuv.full_range,
            height=self._config.height,
            width=self._config.width,
            dtype=self._runtime.dtype,
        )
        return None if found is None else found[0]

    def _cue_planes(self, frame: Frame, kept: _Kept, content: NDArray[np.uint8], fit: Fit) -> Tensor | None:
        """The frame's cue planes (R, H, W), computed once; None where there are no cues."""
        if kept.cues is None:
            return None
        planes = kept.planes.get(frame.index)
        if planes is None:
            found = kept.cues.update(content, frame.seconds)
            if self.facts.unnamed:
                kept.moving[frame.index] = motion_map(found, self._cues, stride=_MASK_STRIDE)
            planes = _pad(found, fit)
            motion = kept.cues.camera
            kept.camera[frame.index] = (
                None if motion is None else scale_motion(motion, (1 / fit.scale_x, 1 / fit.scale_y))
            )
            kept.num_frames += 1
            if not self._cache:
                kept.planes[frame.index] = planes
        return planes


def _facts(name: str, config: ModelConfig, outputs: Sequence[int] | None, *, trained: bool) -> ModelFacts:
    """What a stream says of a network whose `outputs` count, None: all."""
    table = config.output_categories
    outputs = config.used_outputs if outputs is None else outputs
    categories = {output: each for output in outputs if (each := table[output]) is not None}
    unnamed = UNNAMED.get(config.class_list)
    return ModelFacts(
        name=name,
        class_list=config.class_list,
        classes={output: (each.id, each.name) for output, each in categories.items()},
        trained=trained,
        num_frames=config.num_frames,
        unnamed=frozenset(output for output, each in categories.items() if each.name == unnamed),
    )


def _pad(planes: NDArray[np.float32], fit: Fit) -> Tensor:
    """Cue planes (R, content_height, content_width) in the model's input, (R, H, W)."""
    padded = torch.zeros(len(planes), fit.height, fit.width)
    padded[:, : fit.content_height, : fit.content_width] = torch.from_numpy(planes)
    return padded


def load_predictor(config: StreamConfig) -> NetworkPredictor:
    """Make the network that the config names; its weights file's own config is the architecture.

    Raises ConfigError for weights that cannot be read or that a key of `model.network` contradicts, and for
    classes that they do not have.
    """
    section = config.model
    weights = None
    if section.num_threads is not None:
        torch.set_num_threads(section.num_threads)
    if section.weights is None:
        network = build_model(config.network, seed=section.seed, class_bias=section.class_bias)
        wanted = config.network
        name = f"untrained-{wanted.backbone}-{wanted.variant}"
        logger.warning("no weights are given: the model is untrained and its masks mean nothing")
    else:
        weights = weights_path(section.weights)
        network, wanted = _load(weights, section.network)
        known = None if section.weights == FORMER_WEIGHTS else network.metadata.get("name")
        name = known or Path(section.weights).stem
    if config.window.stride > wanted.num_frames:
        raise ConfigError(stride_error(config.window.stride, wanted.num_frames))
    try:
        spec_outputs(wanted, section.classes)
    except ValueError as error:
        raise ConfigError(f"model.classes: {error}") from None
    try:
        return NetworkPredictor(
            network,
            wanted,
            name=name,
            max_instances=section.max_instances,
            cache=section.cache,
            cues=section.cues,
            engine=section.engine,
            device=section.device,
            precision=section.precision,
            weights=weights,
            max_windows=section.max_batch,
            max_ahead=_max_ahead(config),
            classes=section.classes,
        )
    except EngineError as error:
        raise ConfigError(f"model: {error}") from None


def _max_ahead(config: StreamConfig) -> int:
    """Frames of a source that the stream may have prepared for windows to come: those of the window that is
    complete, the one in hand and those that wait behind it."""
    stride = config.window.stride
    return stride + 1 + min(MAX_AHEAD, stride * config.model.max_batch)


def _load(weights: Path, overrides: dict[str, object]) -> tuple[Network, ModelConfig]:
    try:
        network = load_weights(weights)
    except CheckpointError as error:
        raise ConfigError(f"model.weights: {error}") from None
    try:
        faults = contradictions(network.config, overrides)
    except ValueError as error:
        raise ConfigError(f"model.network.{error}") from None
    if faults:
        raise ConfigError(
            f"model.network contradicts model.weights {weights}: {'; '.join(faults)}; "
            "leave the key out: the weights' own config counts (model.weights=null: an untrained network)"
        )
    return network, ModelConfig.from_dict(overrides, base=network.config)
