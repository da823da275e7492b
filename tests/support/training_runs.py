"""Training runs that take a second: the smallest network, a few steps, clips of discs and bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.toy_clips import ToyClips
from torch import Tensor

from model.network import Network, build_model
from model.training.data.clip import ClipSource
from model.training.options import TrainingOptions
from model.training.state import read_state
from model.training.trainer import CHECKPOINT, Trainer

NETWORK: dict[str, Any] = {
    "backbone_width": 0.125,
    "cues": ["background"],
    "hidden_dim": 32,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 6,
    "sts_dim": 16,
    "mask_dim": 16,
    "height": 64,
    "width": 64,
}


def stage(name: str = "clip", **changes: Any) -> dict[str, Any]:
    """A stage of four steps of two windows of two frames."""
    values: dict[str, Any] = {
        "name": name,
        "steps": 4,
        "batch_size": 2,
        "num_frames": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
    }
    return values | changes


def tiny_options(
    *stages: dict[str, Any], network: dict[str, Any] | None = None, **changes: Any
) -> TrainingOptions:
    """Options of the smallest network; `stages` as `stage` makes them, one by default."""
    values: dict[str, Any] = {
        "network": NETWORK | (network or {}),
        "num_workers": 0,
        "checkpoint_seconds": 1e9,
        "stages": list(stages) or [stage()],
    }
    return TrainingOptions.from_dict(values | changes)


def toy_clips(num_clips: int = 64) -> ToyClips:
    """Clips of the tiny network's size."""
    return ToyClips(num_clips=num_clips, height=64, width=64)


def trainer(options: TrainingOptions, folder: Path, *, source: ClipSource | None = None) -> Trainer:
    """A trainer whose stages all draw from one source."""
    source = source or toy_clips()
    return Trainer(options, {each.name: source for each in options.stages}, folder)


def averaged_network(run: Trainer) -> Network:
    """A network in eval mode with the averaged weights of a run: what is shipped."""
    network = build_model(run.options.model_config, seed=run.options.seed)
    network.load_state_dict({name: value.cpu() for name, value in run.average.items()})
    return network


def state_tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in the checkpoint of a run's folder by its dotted name, numbers as tensors."""
    return dict(_flat(read_state(folder / CHECKPOINT), ""))


def _flat(value: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return [(name, torch.tensor(value))] if isinstance(value, int | float) else []
    return [pair for key, part in items for pair in _flat(part, f"{name}.{key}")]
