"""The encoder: deformable attention within frames, MS-STS attention across them in one of six places.

Source: Deformable DETR and SeqFormer for the deformable layer, model.md 2 (seed figure S1) for the variants:

    baseline                 x = LN1(x + deform(x));                     x = LN2(x + FFN(x))
    sequential_attention_1   x = LN1(x + deform(x)); x = x + sts(x);     FFN
    sequential_attention_2   x = x + sts(x); x = LN1(x + deform(x));     FFN
    split                    x = LN1(x + deform(x) + sts(x));            FFN
    sequential_encoder_1     all deformable layers, then layers of x = LN1(x + sts(x)), FFN
    sequential_encoder_2     those layers first, then all deformable layers

What differs: the work is cut where frames first meet. `encode_frames` does what a frame needs once, whatever
window it stands in; `encode_window` does the rest.

Dimensions: N frames = B windows × T, P positions of all levels, C width, d inner width of MS-STS.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention import DeformableAttention, FeedForward
from model.layers.modules import LayerNorm, module_list, precise, split_dim
from model.layers.position import pixel_centres
from model.layers.sts import SpatioTemporalSplit
from ops.levels import Sizes


class DeformableLayer(nn.Module):
    """One deformable encoder layer; its two halves are called apart by the variants."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(
            config.hidden_dim,
            num_heads=config.num_heads,
            num_levels=config.num_levels,
            num_points=config.num_points,
        )
        self.norm1 = LayerNorm(config.hidden_dim)
        self.ffn = FeedForward(config.hidden_dim, config.ffn_dim, dropout=config.dropout)
        self.norm2 = LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, x: Tensor, position: Tensor, sizes: Sizes) -> Tensor:
        """x + deform(x), not yet normalised; x (N, P, C), position (P, C)."""
        centres = pixel_centres(sizes, x.device, precise(x.dtype)).expand(x.shape[0], -1, -1)
        update = self.attention(x + position, reference=centres, tokens=x, sizes=sizes)
        output: Tensor = x + self.dropout(update)
        return output

    def feed(self, x: Tensor) -> Tensor:
        """LN2(x + FFN(x))."""
        output: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return output

    def forward(self, x: Tensor, position: Tensor, sizes: Sizes) -> Tensor:
        x = self.norm1(self.attend(x, position, sizes))
        return self.feed(x)


class SplitLayer(nn.Module):
    """One layer of the separate MS-STS encoder: x = LN1(x + sts(x)), x = LN2(x + FFN(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sts = SpatioTemporalSplit(config)
        self.norm1 = LayerNorm(config.hidden_dim)
        self.ffn = FeedForward(config.hidden_dim, config.ffn_dim, dropout=config.dropout)
        self.norm2 = LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def feed(self, x: Tensor) -> Tensor:
        """LN2(x + FFN(LN1(x)))."""
        x = self.norm1(x)
        output: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return output


INSIDE = ("sequential_attention_1", "sequential_attention_2", "split")
"""Variants with an MS-STS module inside each deformable layer."""


class Encoder(nn.Module):
    """The encoder of one of the six variants."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.variant = config.variant
        self.layers = module_list(DeformableLayer(config) for _ in range(config.encoder_layers))
        if config.variant in INSIDE:
            self.sts = module_list(SpatioTemporalSplit(config) for _ in self.layers)
        elif config.variant != "baseline":
            depth = config.sts_layers or config.encoder_layers
            self.sts_layers = module_list(SplitLayer(config) for _ in range(depth))

    def encode_frames(self, x: Tensor, position: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor | None]:
        """Everything before frames first meet: tokens (N, P, C), the first MS-STS module's input (N, P, d).

        The second is None for the baseline, where frames never meet in the encoder.
        """
        if self.variant in INSIDE:
            return self._enter(0, x, position, sizes)
        if self.variant == "sequential_encoder_2":
            return x, self.sts_layers[0].sts.reduce(x)
        for layer in self.layers:
            x = layer(x, position, sizes)
        return x, None if self.variant == "baseline" else self.sts_layers[0].sts.reduce(x)

    def encode_window(
        self, x: Tensor, narrow: Tensor | None, position: Tensor, sizes: Sizes, *, num_frames: int
    ) -> Tensor:
        """The rest of the encoder for windows of `num_frames` frames: → memory (B·T, P, C).

        x and narrow are `encode_frames`'s for the B·T frames, window by window.
        """
        if narrow is None:
            return x
        if self.variant in INSIDE:
            for index in range(len(self.layers)):
                if index > 0:
                    x, narrow = self._enter(index, x, position, sizes)
                x = self._leave(index, x, narrow, position, sizes, num_frames)
            return x
        for index, split in enumerate(self.sts_layers):
            if index > 0:
                narrow = split.sts.reduce(x)
            x = split.feed(x + _across_frames(split.sts, narrow, sizes, num_frames, split.dropout))
        if self.variant == "sequential_encoder_2":
            for layer in self.layers:
                x = layer(x, position, sizes)
        return x

    def _enter(self, index: int, x: Tensor, position: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """The part of layer `index` that is per frame, up to its MS-STS module."""
        layer, sts = self.layers[index], self.sts[index]
        if self.variant == "sequential_attention_2":
            return x, sts.reduce(x)
        if self.variant == "sequential_attention_1":
            x = layer.norm1(layer.attend(x, position, sizes))
            return x, sts.reduce(x)
        return layer.attend(x, position, sizes), sts.reduce(x)

    def _leave(
        self, index: int, x: Tensor, narrow: Tensor, position: Tensor, sizes: Sizes, num_frames: int
    ) -> Tensor:
        """The rest of layer `index`: add the MS-STS update, then what the variant has left."""
        layer = self.layers[index]
        x = x + _across_frames(self.sts[index], narrow, sizes, num_frames, layer.dropout)
        if self.variant == "sequential_attention_2":
            x = layer.norm1(layer.attend(x, position, sizes))
        elif self.variant == "split":
            x = layer.norm1(x)
        fed: Tensor = layer.feed(x)
        return fed


def _across_frames(
    sts: SpatioTemporalSplit, narrow: Tensor, sizes: Sizes, num_frames: int, dropout: nn.Module
) -> Tensor:
    """The module's update (B·T, P, C) for frames that stand one after the other."""
    update: Tensor = dropout(sts(split_dim(narrow, 0, (-1, num_frames)), sizes).flatten(0, 1))
    return update
