"""Small networks that run in milliseconds, with every update alive, for tests of structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model.config import ModelConfig
from model.network import Network, build_model

SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_width": 0.125,
    "cues": ["background"],
    "hidden_dim": 32,
    "num_heads": 4,
    "ffn_dim": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 10,
    "sts_dim": 16,
    "sts_heads": 2,
    "mask_dim": 16,
    "height": 64,
    "width": 96,
}


def small_config(**overrides: Any) -> ModelConfig:
    """A config of the smallest useful size, with fields put over it."""
    return ModelConfig.from_dict({**SMALL, **overrides})


def live_model(config: ModelConfig, *, seed: int = 0) -> Network:
    """A network whose zero-initialised parts are not zero, so that every part shows in the output."""
    network = build_model(config, seed=seed, class_bias=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normalised images (…, 3, H, W)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
