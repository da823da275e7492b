"""The foreground-background separability loss: does this mask separate what the encoder sees in this frame?

Source: the seed S1.2 and model.md 4: a discriminator of (frame, foreground mask, multi-scale encoder
features), real with the masks of the targets, fake with the predicted ones. Ours: the union over instances
(soft for predictions), the entry's width, the kernel sizes, logits in place of the sigmoid.
It exists in training alone: the network does not know it, and no weights file or export holds it.

Dimensions: B windows, T frames, N = B·T frames, C width, L levels, n instances of all windows, D inner width,
h × w mask cells (stride 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.modules import module_list, split_dim
from model.training.targets import Target
from ops.levels import Sizes, level_starts

WIDTHS = (64, 128, 256, 512)
"""Channels of the entry and of the conv stack; one more conv makes a logit per patch."""

SLOPE = 0.2
"""Of the leaky ReLU below zero."""

_MASK, _FEATURES = 8.0, 0.3
"""What mask and features weigh at first, times the usual random weights. With those alone the judge told no
true mask from a predicted one in hundreds of steps."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (N, C, h, w), each position on its own: no map is too small for it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class Discriminator(nn.Module):
    """Judges (frame, mask, features) patch by patch: a positive logit says that the mask is a true one.

    The weights depend on the seed alone; the global random state is left as it was.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        width, inner = config.hidden_dim, WIDTHS[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Conv2d(3 + 1 + width, inner, 3, padding=1)
            self.project = module_list(nn.Conv2d(width, inner, 1) for _ in range(config.num_levels - 1))
            self.stack = nn.Sequential()
            for before, after in pairwise((inner, *WIDTHS)):
                self.stack.append(nn.Conv2d(before, after, 3, padding=1))
                self.stack.append(ChannelNorm(after))
                self.stack.append(nn.LeakyReLU(SLOPE))
            self.judge = nn.Conv2d(WIDTHS[-1], 1, 3, padding=1)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, a=SLOPE)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)
            with torch.no_grad():
                # One channel among a hundred would not be heard.
                self.enter.weight[:, 3:4] *= _MASK
                self.enter.weight[:, 4:] *= _FEATURES
                for project in self.project:
                    project.weight *= _FEATURES
                self.judge.weight *= 0.03  # undecided at first, so that the model is not led by chance

    def forward(self, frames: Tensor, masks: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Patch logits (N, 1, H_L, W_L), one per cell of the coarsest level.

        frames (N, 3, H, W) normalised; masks (N, 1, h, w) in 0..1 of any size; levels: the encoder's maps
        (N, C, H_l, W_l), finest first, each half of the one before, rounded up.
        Raises ValueError for another number of levels, frames or channels, naming them.
        """
        self._check(frames, masks, levels)
        finest = levels[0]
        size = (finest.shape[-2], finest.shape[-1])
        seen = [F.adaptive_avg_pool2d(x.to(finest.dtype), size) for x in (frames, masks)]
        x = F.leaky_relu(self.enter(torch.cat((*seen, finest), dim=1)), SLOPE)
        for project, level in zip(self.project, levels[1:], strict=True):
            x = F.max_pool2d(x, 3, stride=2, padding=1) + project(level)
        logits: Tensor = self.judge(self.stack(x))
        return logits

    def _check(self, frames: Tensor, masks: Tensor, levels: Sequence[Tensor]) -> None:
        if len(levels) != len(self.project) + 1:
            raise ValueError(f"{len(levels)} feature levels, the config has {len(self.project) + 1}")
        N, width = frames.shape[0], self.enter.in_channels - 4
        if frames.shape[1:2] != (3,) or tuple(masks.shape[:2]) != (N, 1) or masks.dim() != 4:
            raise ValueError(
                f"frames are {tuple(frames.shape)} and masks {tuple(masks.shape)}, "
                "expected (N, 3, H, W) and (N, 1, h, w)"
            )
        for index, level in enumerate(levels):
            if level.dim() != 4 or tuple(level.shape[:2]) != (N, width):
                raise ValueError(
                    f"feature level {index} is {tuple(level.shape)}, expected ({N}, {width}, H_l, W_l)"
                )


def discriminator_loss(
    d: Discriminator, frames: Tensor, real: Tensor, fake: Tensor, levels: Sequence[Tensor]
) -> Tensor:
    """Binary cross-entropy, real masks towards one and fake ones towards zero, mean of both.

    Arguments as in `Discriminator.forward`. Masks and features are detached: no gradient reaches the model.
    """
    detached = [level.detach() for level in levels]
    # One batch for both: half the calls, and every parameter gets its gradient in one go.
    logits = d(
        torch.cat((frames, frames)).detach(),
        torch.cat((real.to(fake.dtype), fake)).detach(),
        [torch.cat((level, level)) for level in detached],
    ).float()
    of_real, of_fake = logits.chunk(2)
    return (F.softplus(-of_real).mean() + F.softplus(of_fake).mean()) / 2


def generator_loss(d: Discriminator, frames: Tensor, fake: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """The model's non-saturating term −log σ(d(fake)), mean over patches.

    Gradients reach the masks and the features; the discriminator's own parameters get none.
    """
    frozen = {name: parameter.detach() for name, parameter in d.named_parameters()}
    logits: Tensor = torch.func.functional_call(d, frozen, (frames, fake, levels))
    return F.softplus(-logits.float()).mean()


def level_maps(memory: Tensor, sizes: Sizes) -> list[Tensor]:
    """Encoder features (N, P, C) as one map per level, (N, C, H_l, W_l), finest first."""
    starts = level_starts(sizes)
    return [
        split_dim(memory[:, starts[level] : starts[level + 1]], 1, size).permute(0, 3, 1, 2)
        for level, size in enumerate(sizes)
    ]


def soft_foreground(mask_logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Soft union of predicted instances, (B·T, 1, h, w) in 0..1, float32: 1 − Π (1 − σ(logit)).

    mask_logits (n, T, h, w), window by window; counts: instances of each of the B windows, n in all.
    """
    windows = torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64)).to(mask_logits.device)
    # log Π (1 − σ(x)) = −Σ softplus(x): no product that saturates, and a gradient for every instance.
    cover = mask_logits.new_zeros((len(counts), *mask_logits.shape[1:]), dtype=torch.float32)
    cover = cover.index_add(0, windows, F.softplus(mask_logits.float()))
    return -torch.expm1(-cover).flatten(0, 1)[:, None]


def true_foreground(targets: Sequence[Target]) -> Tensor:
    """Union of the targets' instances, (B·T, 1, h, w), 0 or 1."""
    union = [
        target.masks.amax(dim=0) if target.num_instances else target.masks.new_zeros(target.masks.shape[1:])
        for target in targets
    ]
    return torch.cat(union)[:, None]
