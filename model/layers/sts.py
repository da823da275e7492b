"""The multi-scale spatio-temporal split (MS-STS) module: an update of the encoder's tokens from all T frames.

Source: model.md 2 (seed S1.1 and figure S1). Ours: the narrow width d, weights shared by the levels and the
pairs, "together" as cells of 2×2 tokens and their parent, and the map back to C that starts at zero.

Dimensions: B windows, T frames, P positions of all levels, C width, d inner width, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention import CellAttention, FeedForward, SelfAttention, TimeAttention
from model.layers.modules import LayerNorm
from model.layers.position import spatial_sine, temporal_sine
from ops.levels import Sizes, level_starts


class TemporalBlock(nn.Module):
    """Intra-scale: each position attends to itself in the T frames.

    Post-norm: x = LN(x + attention(x)), x = LN(x + FFN(x)).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.sts_dim
        self.attention = TimeAttention(width, width, num_heads=config.sts_heads)
        self.norm1 = LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, dropout=config.dropout)
        self.norm2 = LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        T, width = x.shape[1], x.shape[-1]
        position = temporal_sine(T, width, x.device, x.dtype)
        shift = F.linear(position, self.attention.in_proj.weight[: 2 * width])  # (T, 2d)
        x = self.norm1(x + self.dropout(self.attention(x, shift)))
        output: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return output


class CellBlock(nn.Module):
    """Intra-scale, over space and time: 2×2 tokens of one level in all frames; post-norm as TemporalBlock."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.sts_dim
        self.attention = CellAttention(width, num_heads=config.sts_heads, with_parent=False)
        self.norm1 = LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, dropout=config.dropout)
        self.norm2 = LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        position = temporal_sine(x.shape[1], x.shape[-1], x.device, x.dtype)
        x = self.norm1(x + self.dropout(self.attention(x, position=position, sizes=sizes)))
        output: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return output


class JointBlock(nn.Module):
    """Every token of every scale and frame attends to all others: the form that the split replaces.

    For the ablation: time grows with (T·P)². Queries and keys carry the 2-D sine, a learned embedding of the
    level and the frame's position (ours).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.sts_dim
        self.level_embed = nn.Parameter(torch.zeros(config.num_levels, width))
        self.attention = SelfAttention(width, num_heads=config.sts_heads)
        self.norm1 = LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, dropout=config.dropout)
        self.norm2 = LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        _, T, _, width = x.shape
        place = spatial_sine(sizes, width, x.device, x.dtype) + expand_levels(self.level_embed, sizes)
        position = place + temporal_sine(T, width, x.device, x.dtype)[:, None]  # (T, P, d)
        attended = self.attention(x.flatten(1, 2), position.flatten(0, 1)).view(x.shape)
        x = self.norm1(x + self.dropout(attended))
        output: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return output


class InterBlock(nn.Module):
    """Inter-scale: a token and the 2×2 tokens under it on the finer level, in all frames, attend jointly.

    Pre-norm: x = x + attention(LN(x)), x = x + FFN(LN(x)). All pairs of successive levels work in parallel on
    the same input; a level takes its update from the pair with the coarser level, the coarsest as parent.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.sts_dim
        self.norm1 = LayerNorm(width)
        self.attention = CellAttention(width, num_heads=config.sts_heads, with_parent=True)
        self.norm2 = LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        position = temporal_sine(x.shape[1], x.shape[-1], x.device, x.dtype)
        x = x + self.dropout(self.attention(self.norm1(x), position=position, sizes=sizes))
        output: Tensor = x + self.dropout(self.ffn(self.norm2(x)))
        return output


INTRA_BLOCKS = {"temporal": TemporalBlock, "spatiotemporal": CellBlock, "joint": JointBlock}


class SpatioTemporalSplit(nn.Module):
    """MS-STS: narrow C → d, the intra-scale block, the inter-scale block, and d → C that starts at zero.

    `reduce` is per frame and so can be done once for a frame that stands in several windows; `forward` takes
    its result.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reduce = nn.Linear(config.hidden_dim, config.sts_dim)
        self.intra = INTRA_BLOCKS[config.intra](config) if config.intra != "none" else None
        self.inter = InterBlock(config) if config.inter else None
        self.expand = nn.Linear(config.sts_dim, config.hidden_dim)

    def forward(self, narrow: Tensor, sizes: Sizes) -> Tensor:
        """narrow (B, T, P, d) → update (B, T, P, C)."""
        if self.intra is not None:
            narrow = self.intra(narrow, sizes)
        if self.inter is not None:
            narrow = self.inter(narrow, sizes)
        update: Tensor = self.expand(narrow)
        return update


def expand_levels(embed: Tensor, sizes: Sizes) -> Tensor:
    """One row per level → one per position: (L, C) → (P, C)."""
    starts = level_starts(sizes)
    return torch.cat(
        [embed[level].expand(starts[level + 1] - starts[level], -1) for level in range(len(sizes))]
    )
