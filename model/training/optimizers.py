"""What moves the weights: AdamW by groups of parameters, the discriminator's Adam, the course of the rate.

Source: rates and steps of the paper and of Deformable DETR; the groups are ours.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from model.training.options import DROPS, Stage

__all__ = ["make_judge_optimizer", "make_optimizer", "rate_factor"]


def make_optimizer(network: nn.Module, auxiliary: nn.Module, stage: Stage) -> torch.optim.AdamW:
    """AdamW over both; each group keeps its peak rate as `peak`, and its rate is 0 until a step sets it.

    Where the stage's backbone_factor is 0, the backbone and the detector get no gradients.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in [*network.named_parameters(), *auxiliary.named_parameters()]:
        factor = 1.0
        if name.startswith(("backbone.", "detector.")):
            factor = stage.backbone_factor
            parameter.requires_grad_(factor > 0)
            if factor == 0:
                continue
        elif ".sampling." in name or "reference_points" in name:
            factor = stage.sampling_factor
        decay = stage.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": 0.0, "peak": stage.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ]
    )


def make_judge_optimizer(discriminator: nn.Module) -> torch.optim.Adam:
    """Adam with the usual numbers of an adversary."""
    return torch.optim.Adam(discriminator.parameters(), lr=1e-4, betas=(0.5, 0.999))


def rate_factor(stage: Stage, step: int) -> float:
    """What the peak rate is multiplied by at a step of the stage."""
    warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
    share = step / stage.steps
    if stage.schedule == "cosine":
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
    if stage.schedule == "steps":
        return warm * 0.1 ** sum(share >= drop for drop in DROPS)
    return warm
