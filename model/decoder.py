"""The decoder: instance queries and box queries that look for the same instances in all frames of a window.

Source: SeqFormer (model.md 1.5, 1.6); attention over the T box queries of an instance from the seed S1.3
(model.md 3). What differs: that attention works in a narrow width and starts at zero (ours).

Dimensions: B windows, T frames, P positions, Q queries, C width, d inner width, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention import DeformableAttention, FeedForward, SelfAttention, TimeAttention
from model.config import ModelConfig
from model.heads import MLP
from model.modules import Head, LayerNorm, module_list
from model.position import Sizes, temporal_sine
from model.selection import QuerySelection


@dataclass(frozen=True)
class LayerOutput:
    """What one decoder layer says.

    queries: (B, Q, C) instance queries.
    logits: (B, Q, K) class logits.
    boxes: (B, T, Q, 4) cxcywh in 0..1.
    centres: (B, T, Q, 2) in 0..1, of the reference that entered the layer; the mask head's origin.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor
    centres: Tensor


@dataclass(frozen=True)
class ExtraQueries:
    """D more queries for the decoder of a network in training.

    content: (B, D, C); position: (B, D, C); reference: (B, T, D, 4) cxcywh in 0..1; mask: (Q + D, Q + D) True
    where a query may attend to another.
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    mask: Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 − x)) with both parts clamped to eps."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=eps) / (1.0 - x).clamp(min=eps))


class DecoderLayer(nn.Module):
    """One decoder layer, post-norm throughout; the first has no attention over time."""

    def __init__(self, config: ModelConfig, *, over_time: bool) -> None:
        super().__init__()
        width, heads = config.hidden_dim, config.num_heads
        self.self_attention = SelfAttention(width, num_heads=heads)
        self.self_attention_box = SelfAttention(width, num_heads=heads)
        self.time_attention = (
            TimeAttention(width, config.sts_dim, num_heads=config.sts_heads) if over_time else None
        )
        self.cross_attention = DeformableAttention(
            width, num_heads=heads, num_levels=config.num_levels, num_points=config.num_points
        )
        self.output_proj_box = nn.Linear(width, width)
        self.frame_weights = Head(width, 1)
        self.ffn = FeedForward(width, config.ffn_dim, dropout=config.dropout)
        self.ffn_box = FeedForward(width, config.ffn_dim, dropout=config.dropout)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width) for _ in range(3))
        self.norm1_box, self.norm2_box, self.norm3_box = (LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        tgt: Tensor,
        box: Tensor,
        *,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: Sizes,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tgt (B, Q, C); box (B, T, Q, C), in the first layer (B, 1, Q, C); reference (B, T, Q, 2 or 4).

        position (1 or B, 1, Q, C); mask (Q, Q) True where a query may attend to another, or None.
        """
        B, T, Q, _ = reference.shape
        drop = self.dropout

        tgt = self.norm2(tgt + drop(self.self_attention(tgt, position[:, 0], mask)))
        rows = box.flatten(0, 1)
        of_rows = position.expand(B, box.shape[1], -1, -1).flatten(0, 1) if len(position) > 1 else position[0]
        box = self.norm2_box(rows + drop(self.self_attention_box(rows, of_rows, mask))).view_as(box)
        box = box.expand(-1, T, -1, -1)  # (B, T, Q, C)
        if self.time_attention is not None:
            frame = temporal_sine(T, self.time_attention.inner, box.device, box.dtype)
            box = box + drop(self.time_attention(box, frame.repeat(1, 2)))

        found = self.cross_attention.sample(
            (box + position).flatten(0, 1), reference=reference.flatten(0, 1), tokens=memory, sizes=sizes
        ).view(B, T, Q, -1)
        box = self.norm1_box(box + drop(self.output_proj_box(found)))
        box = self.norm3_box(box + drop(self.ffn_box(box)))

        weights = self.frame_weights(box).softmax(dim=1).to(box.dtype)  # (B, T, Q, 1)
        update = (self.cross_attention.output_proj(found) * weights).sum(dim=1)
        tgt = self.norm1(tgt + drop(update))
        tgt = self.norm3(tgt + drop(self.ffn(tgt)))
        return tgt, box


class Decoder(nn.Module):
    """All decoder layers with their queries, class heads and box heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, depth = config.hidden_dim, config.decoder_layers
        self.num_queries = config.num_queries
        if config.query_selection == "learned":
            self.query_embed = nn.Parameter(torch.zeros(config.num_queries, 2 * width))
            self.reference_points = Head(width, 2)
        else:
            self.query_embed = nn.Parameter(torch.zeros(config.num_queries, width))
        self.selection = QuerySelection(config) if config.query_selection == "encoder" else None
        self.layers = module_list(
            DecoderLayer(config, over_time=config.decoder_temporal_attention and index > 0)
            for index in range(depth)
        )
        self.class_embed = module_list(Head(width, config.outputs) for _ in range(depth))
        self.bbox_embed = module_list(MLP(width, width, 4, num_layers=3, linear=Head) for _ in range(depth))

    def forward(
        self,
        memory: Tensor,
        sizes: Sizes,
        *,
        num_frames: int,
        all_layers: bool = False,
        extra: ExtraQueries | None = None,
    ) -> list[LayerOutput]:
        """memory (B·T, P, C) → the last layer's output, or every layer's, first to last.

        extra: queries that training adds (denoising); their answers stand after those of the Q.
        """
        B = memory.shape[0] // num_frames
        content, position, reference = self._queries(memory, sizes, num_frames)
        mask = None
        if extra is not None:
            content = torch.cat((content, extra.content), dim=1)
            position = torch.cat((position.expand(B, -1, -1, -1), extra.position[:, None]), dim=2)
            reference = torch.cat((reference, extra.reference), dim=2)
            mask = extra.mask
        tgt, box = content, content[:, None]

        outputs = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            tgt, box = layer(
                tgt, box, position=position, reference=reference, memory=memory, sizes=sizes, mask=mask
            )
            boxes = self._refine(self.bbox_embed[index], box, reference)
            if all_layers or index == last:
                logits = self.class_embed[index](tgt)
                outputs.append(
                    LayerOutput(queries=tgt, logits=logits, boxes=boxes, centres=reference[..., :2])
                )
            reference = boxes.detach()
        return outputs

    def _queries(self, memory: Tensor, sizes: Sizes, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Content (B, Q, C), position (1 or B, 1, Q, C) and first reference (B, T, Q, 2 or 4)."""
        B = memory.shape[0] // num_frames
        if self.selection is None:
            position, content = self.query_embed.chunk(2, dim=-1)  # (Q, C) each
            reference = self.reference_points(position).sigmoid().expand(B, num_frames, -1, -1)
            return content.expand(B, -1, -1), position[None, None], reference
        anchors = self.selection(memory, sizes, num_frames=num_frames)  # (B, Q, 4)
        position = self.selection.embed(anchors)[:, None]
        return self.query_embed.expand(B, -1, -1), position, anchors[:, None].expand(-1, num_frames, -1, -1)

    @staticmethod
    def _refine(bbox_embed: MLP, box: Tensor, reference: Tensor) -> Tensor:
        """sigmoid(MLP(box) + inverse_sigmoid(reference)); a 2-d reference adds to the centre alone."""
        change = bbox_embed(box)
        known = inverse_sigmoid(reference)
        if reference.shape[-1] == 2:
            known = nn.functional.pad(known, (0, 2))
        refined: Tensor = (change + known).sigmoid()
        return refined
