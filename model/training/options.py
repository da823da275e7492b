"""The configuration of a training run: what is trained, on which clips, in which stages.

A run is a TOML file (`configs/train/*.toml`): fields of `TrainingOptions`, one `[[stages]]` table per stage
and `[network]` for what differs from `model.ModelConfig`'s defaults.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from model.config import Arithmetic, ModelConfig
from model.errors import DatasetError, did_you_mean

Schedule = Literal["cosine", "steps", "constant"]
Sampling = Literal["consecutive", "paper"]

DROPS = (0.7, 0.9)
"""Shares of a stage at which the schedule `steps` divides the rate by ten."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a length, a clip shape and the losses that count.

    Raises ValueError, naming the field, for a value that does not fit.
    """

    name: str
    """What logs call the stage."""
    steps: int
    """Optimiser steps."""
    batch_size: int = 8
    """Windows a step, of all processes together."""
    num_frames: int = 1
    """T: frames of a window."""
    crop: tuple[int, int] | None = None
    """Height and width of the crop that is trained on, in pixels of the model's size; None: the whole."""
    learning_rate: float = 4e-4
    """Peak of AdamW's rate."""
    backbone_factor: float = 1.0
    """Factor on the rate of the backbone and of the detector (0.1 for a pre-trained one; 0: they stay as they
    are and cost no backward pass)."""
    sampling_factor: float = 1.0
    """Factor on the rate of sampling offsets and reference points (0.1 in the paper)."""
    warmup_steps: int = 100
    """Steps over which the rate rises from zero."""
    schedule: Schedule = "cosine"
    """How the rate falls: cosine to 2 %, steps (a tenth at 70 % and 90 %), constant."""
    dense_only: bool = False
    """Train the trunk and the encoder on the dense losses alone; the decoder is not run."""
    dense_weight: float = 1.0
    """Factor on the dense losses (centre, box, foreground)."""
    num_denoising: int = 0
    """Denoising queries (noised true boxes) a window."""
    separability_weight: float = 0.0
    """Factor on the fg-bg separability loss; 0: no discriminator."""
    masks_on_all_layers: bool = False
    """Mask losses on every decoder layer (the paper's) or on the last."""
    mask_pixels: int = 0
    """What the mask losses look at: 0, cells of 4×4 pixels, which belong to whom half of their pixels do (the
    paper's); 1, 2 or 4, every so many-th pixel of both axes, others in the next step, as a stream cuts masks
    out."""
    clip_norm: float = 0.1
    """Largest norm of the gradients."""
    weight_decay: float = 1e-4
    """AdamW's decay of matrices."""

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("num_frames", 1),
            ("warmup_steps", 0),
            ("num_denoising", 0),
        ):
            _check_count(getattr(self, name), f"stages.{name}", least)
        for name in ("learning_rate", "clip_norm"):
            _check_number(getattr(self, name), f"stages.{name}", above=True)
        for name in (
            "backbone_factor",
            "sampling_factor",
            "dense_weight",
            "separability_weight",
            "weight_decay",
        ):
            _check_number(getattr(self, name), f"stages.{name}")
        for name in ("dense_only", "masks_on_all_layers"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"stages.{name}: {getattr(self, name)!r} must be true or false")
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"stages.name: {self.name!r} must be a word")
        if isinstance(self.mask_pixels, bool) or self.mask_pixels not in (0, 1, 2, 4):
            raise ValueError(f"stages.mask_pixels: {self.mask_pixels!r} is not one of 0, 1, 2, 4")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"stages.schedule: {self.schedule!r} is not one of {get_args(Schedule)}")
        if self.crop is not None and (
            len(self.crop) != 2
            or any(not isinstance(side, int) or side % 8 or side < 64 for side in self.crop)
        ):
            raise ValueError(
                f"stages.crop: {list(self.crop)} must be [height, width], multiples of 8 from 64"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """A whole run. Raises ValueError, naming the field, for a value that does not fit."""

    stages: tuple[Stage, ...]
    """Stages in order."""
    data: str = "street"
    """Set of clips: street, street_close and street_closer (three tenths, or half, of them through a longer
    lens), street_without_walkers, sprites, or a YouTube-VIS JSON file."""
    images: str | None = None
    """Folder that a JSON file's file_names start from; None: its own, or `images` or `JPEGImages` in it."""
    photos: str | None = None
    """Folder of photographs that some backgrounds of the street sets show; None: none."""
    figures: str | None = None
    """Folder of figures that most people on foot and cars of the street sets are shown as; None: all are
    drawn."""
    sampling: Sampling = "consecutive"
    """Frames of a JSON file's clips: consecutive at 5 to 12 a second, or as SeqFormer's (anywhere)."""
    fps: float | None = None
    """Rate of a JSON file's images; None: its `info.fps`, or YouTube-VIS's 6."""
    seed: int = 0
    """Seed of the weights, of the clips and of dropout."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ModelConfig` that differ from its defaults."""
    initial_weights: str | None = None
    """A .safetensors file of the same network to start from, `default`: those that ship; None: random."""
    detector: str | None = None
    """A .safetensors file of `python -m model import-detector`: the csp trunk and the detector that a run
    without initial_weights starts from."""
    precision: Arithmetic = "fp32"
    """Arithmetic of the forward pass on a GPU that has it; a CPU trains in fp32 unless bf16 is asked."""
    dropout: float | None = None
    """Dropout of this run in place of the network's: a short run on rendered clips fits too little, not too
    much, and drawing the noise takes a tenth of a CPU's step. None: the network's."""
    ema_decay: float = 0.998
    """Decay of the average of the weights, which is what is shipped; it begins faster."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    piece_bytes: int | None = None
    """Largest file of a checkpoint; None: one file."""
    num_workers: int = 1
    """Processes that make clips."""
    pool_clips: int = 0
    """Rendered clips that are kept on disk and drawn again and again; 0: every clip is a new one."""
    disguise: float = 0.0
    """Part of the draws from the pool that get each of: other textures on their instances, still look-alikes
    that are ignored, another lens and sensor (docs/data.md)."""

    RESUMABLE = (
        "precision",
        "checkpoint_seconds",
        "piece_bytes",
        "num_workers",
        "images",
        "photos",
        "figures",
        "detector",
    )
    """Fields that may change when a run is resumed."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: at least one stage is needed ([[stages]] in the file)")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages.name: {names} must differ")
        self._check_arithmetic()
        self._check_data()
        config = self.model_config
        for stage in self.stages:
            _check_fits(stage, config)
        if self.detector is not None and config.query_selection != "detector":
            raise ValueError("detector: needs network.query_selection = 'detector'")
        if self.detector is not None and self.initial_weights is not None:
            raise ValueError("detector: initial_weights hold a detector already; leave one of the two out")

    def _check_arithmetic(self) -> None:
        """How is trained and kept."""
        if self.precision not in get_args(Arithmetic):
            raise ValueError(f"precision: {self.precision!r} is not one of {get_args(Arithmetic)}")
        if self.dropout is not None:
            _check_number(self.dropout, "dropout")
            if not self.dropout < 1:
                raise ValueError(f"dropout: {self.dropout} must be in [0, 1)")
        _check_number(self.ema_decay, "ema_decay")
        if not self.ema_decay < 1:
            raise ValueError(f"ema_decay: {self.ema_decay} must be in [0, 1)")
        _check_number(self.checkpoint_seconds, "checkpoint_seconds", above=True)
        if self.piece_bytes is not None:
            _check_count(self.piece_bytes, "piece_bytes", 1 << 16)

    def _check_data(self) -> None:
        """What is trained on."""
        for name in ("seed", "num_workers", "pool_clips"):
            _check_count(getattr(self, name), name, 0)
        _check_number(self.disguise, "disguise")
        if self.disguise > 1:
            raise ValueError(f"disguise: {self.disguise} must be in [0, 1]")
        if self.disguise and not self.pool_clips:
            raise ValueError("disguise: needs pool_clips, the clips that are drawn in other looks")
        for name in ("photos", "figures"):
            if getattr(self, name) is not None and not self.data.startswith("street"):
                raise ValueError(f"{name}: is for the street sets, and data is {self.data!r}: leave it out")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling: {self.sampling!r} is not one of {get_args(Sampling)}")
        if self.fps is not None:
            _check_number(self.fps, "fps", above=True)

    @property
    def model_config(self) -> ModelConfig:
        """The network's config."""
        return ModelConfig.from_dict(dict(self.network))

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON)."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingOptions:
        """Options from plain values. Raises ValueError or TypeError naming the field."""
        values = dict(values)
        _check_keys(values, cls, where="")
        stages = []
        for index, entry in enumerate(_tables(values)):
            _check_keys(entry, Stage, where=f"stages[{index}].")
            crop = entry.get("crop")
            if crop is not None and not isinstance(crop, list | tuple):
                raise TypeError(f"stages[{index}].crop: {crop!r} must be [height, width]")
            stages.append(Stage(**{**entry, "crop": None if crop is None else tuple(crop)}))
        return cls(**{**values, "stages": tuple(stages)})

    @classmethod
    def read(cls, path: str | Path) -> TrainingOptions:
        """Options from a TOML file.

        Raises DatasetError for a missing file, ValueError naming file and field.
        """
        path = Path(path)
        if not path.is_file():
            raise DatasetError(f"training config {str(path)!r}: no such file")
        try:
            return cls.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as exc:  # tomllib's error is a ValueError
            raise ValueError(f"training config {str(path)!r}: {exc}") from exc


def differing_fields(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Fields in which a stored run and the wanted one contradict each other, as text."""
    one, other = _flat(stored), _flat(wanted)
    return [
        f"{name}: the checkpoint has {one.get(name)!r}, asked for {other.get(name)!r}"
        for name in sorted(one.keys() | other.keys())
        if name not in TrainingOptions.RESUMABLE and one.get(name) != other.get(name)
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a run by its dotted name; what the values lack, as an older run's, has its default."""
    flat = {entry.name: entry.default for entry in fields(TrainingOptions) if entry.default is not MISSING}
    flat |= {name: value for name, value in values.items() if name not in ("stages", "network")}
    flat |= {f"network.{name}": value for name, value in values.get("network", {}).items()}
    for index, stage in enumerate(values.get("stages", ())):
        defaults = {entry.name: entry.default for entry in fields(Stage) if entry.default is not MISSING}
        flat |= {f"stages[{index}].{name}": value for name, value in (defaults | stage).items()}
    return flat


def _tables(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of plain values; TypeError where they, or the network, are no tables."""
    stages = values.get("stages", [])
    if not isinstance(stages, list | tuple) or not all(isinstance(entry, Mapping) for entry in stages):
        raise TypeError("stages: must be tables, [[stages]] in the file")
    if not isinstance(values.get("network", {}), Mapping):
        raise TypeError("network: must be a table, [network] in the file")
    return list(stages)


def _check_fits(stage: Stage, config: ModelConfig) -> None:
    """Raise ValueError where a network of this config cannot be trained by the stage."""
    if stage.crop is not None and (stage.crop[0] > config.height or stage.crop[1] > config.width):
        raise ValueError(
            f"stages.crop: {list(stage.crop)} is larger than the model's size, "
            f"[{config.height}, {config.width}]"
        )
    if stage.num_denoising and config.query_selection == "learned":
        raise ValueError("stages.num_denoising: needs network.query_selection = 'encoder' or 'detector'")
    if stage.crop is not None and config.backbone == "csp" and any(side % 32 for side in stage.crop):
        raise ValueError(
            f"stages.crop: {list(stage.crop)} must be multiples of 32 for network.backbone = 'csp'"
        )


def _check_count(value: object, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r} must be a whole number of at least {least}")


def _check_number(value: object, name: str, *, above: bool = False) -> None:
    """Raise ValueError for what is no finite number of at least 0, or above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (above and value == 0):  # type: ignore[operator]
        raise ValueError(f"{name}: {value!r} must be a number {'above' if above else 'of at least'} 0")


def _check_keys(values: Mapping[str, Any], kind: type, *, where: str) -> None:
    known = {entry.name: entry for entry in fields(kind)}
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"unknown field {where}{key}{hint and f'; {hint}'}")
    missing = [
        name
        for name, entry in known.items()
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"missing field {where}{missing[0]}")
