"""The decoder: instance queries and box queries that look for the same instances in all frames of a window.

Source: SeqFormer (model.md 1.5, 1.6); attention over the T box queries of an instance from the seed S1.3
(model.md 3). What differs: that attention works in a narrow width and starts at zero (ours).

Dimensions: B windows, T frames, P positions, Q queries, C width, d inner width, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention import DeformableAttention, FeedForward, SelfAttention, TimeAttention
from model.layers.heads import MLP
from model.layers.modules import Head, LayerNorm, module_list
from model.layers.position import temporal_sine
from model.layers.proposals import BEHIND, window_proposals
from model.layers.selection import QuerySelection
from ops.boxes import box_cxcywh_to_xyxy, box_iou
from ops.levels import Sizes


@dataclass(frozen=True)
class LayerOutput:
    """What one decoder layer says.

    queries: (B, Q, C) instance queries.
    logits: (B, Q, K) class logits.
    boxes: (B, T, Q, 4) cxcywh in 0..1.
    centres: (B, T, Q, 2) in 0..1, of the reference that entered the layer; the mask head's origin. With
    `mask_coordinates: box` (B, T, Q, 4): its width and height behind.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor
    centres: Tensor


@dataclass(frozen=True)
class ExtraQueries:
    """D more queries for the decoder of a network in training.

    content: (B, D, C); position: (B, D, C); reference: (B, T, D, 4) cxcywh in 0..1; mask: (Q + D, Q + D) True
    where a query may attend to another; class_logits: (B, D, K) that they start from, with a detector.
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    mask: Tensor
    class_logits: Tensor | None = None


@dataclass(frozen=True)
class StartingQueries:
    """What the decoder starts from.

    content: (B, Q, C); position: (1 or B, 1, Q, C); reference: (B, T, Q, 2 or 4); class_logits: (B, Q, K)
    where a detector gives some.
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    class_logits: Tensor | None = None


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


UNSEEN = -4.6
"""Class logit (a score of 1 %) where the detector says nothing."""
SURE = -1.0
"""Class logit of a detector's box from which on its cells are taken."""


LIKELY = -0.4
"""Class logit (a score of 40 %) of a name from which on what shows the same is nothing besides."""
SAME_THING_IOU = 0.5
"""Overlap of boxes, mean over the frames, from which on two of them show the same thing."""


def named_queries(logits: Tensor) -> Tensor:
    """(…, K) class logits of queries of a network with a detector → (…) whether it names them: gives a class
    more than a score of UNSEEN. The same in every decoder layer."""
    named: Tensor = logits[..., :-1].amax(dim=-1) > UNSEEN
    return named


def surely_named(logits: Tensor) -> Tensor:
    """(…, K) → (…) whether the detector is sure of a name."""
    sure: Tensor = logits[..., :-1].amax(dim=-1) >= SURE
    return sure


def names_first(output: LayerOutput) -> LayerOutput:
    """The output without things that have a name: what shows the same as a likely name is no `object`."""
    boxes = box_cxcywh_to_xyxy(output.boxes)
    same = box_iou(boxes, boxes).mean(dim=1) >= SAME_THING_IOU  # (B, Q, Q)
    likely = output.logits[..., :-1].amax(dim=-1) >= LIKELY
    named_besides = (same & likely[:, None]).any(dim=-1) & ~named_queries(output.logits)
    thing = output.logits[..., -1:] - BEHIND * named_besides[..., None]
    return replace(output, logits=torch.cat((output.logits[..., :-1], thing), dim=-1))


class ObjectScore(nn.Module):
    """Class logits (B, Q, K) where a detector names things: only `object`, the last, is learnt, and only of
    queries that the detector does not name.

    Learnt corrections of names were tried and made real footage worse (docs/training.md). The change starts
    at zero and is at most LARGEST. Ours.
    """

    LARGEST = 4.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = Head(width, 1)

    def forward(self, tgt: Tensor, class_logits: Tensor, named: Tensor) -> Tensor:
        """named: (B, Q, 1) whether the detector names a query: gives a class more than a score of UNSEEN."""
        change = self.LARGEST * (self.change(tgt) / self.LARGEST).tanh()
        names, thing = class_logits[..., :-1], class_logits[..., -1:]
        return torch.cat((names, torch.where(named, thing, thing + change)), dim=-1)


class DetectorStart(nn.Module):
    """Queries from the detector's best boxes of the window and, behind them, from the best cells elsewhere.

    Content: where a query comes from and what the detector calls it. Ours.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_boxes = config.num_queries - config.num_motion_queries
        self.num_outputs = config.outputs
        self.source_embed = nn.Parameter(torch.zeros(2, config.hidden_dim))
        self.class_map = nn.Linear(config.outputs, config.hidden_dim)

    def forward(
        self, selection: QuerySelection, memory: Tensor, sizes: Sizes, num_frames: int, proposals: Tensor
    ) -> StartingQueries:
        """Boxes and names of B windows' best proposals (B·T, R, 4 + K), then cells of memory (B·T, P, C)
        outside of what the detector is sure of."""
        boxes, logits = window_proposals(proposals, num_frames=num_frames, num_queries=self.num_boxes)
        newest = boxes[:, -1]
        sure = logits.amax(dim=-1, keepdim=True) >= SURE
        anchors, found = selection(memory, sizes, num_frames=num_frames, taken=newest * sure)
        anchors = anchors.to(boxes.dtype)
        moving = boxes.new_full((*found.shape, self.num_outputs), UNSEEN)
        moving[..., -1] = found
        unnamed = boxes.new_full((*logits.shape[:2], self.num_outputs - logits.shape[-1]), UNSEEN)
        class_logits = torch.cat((torch.cat((logits, unnamed), dim=-1), moving), dim=1)
        position = selection.embed(torch.cat((newest, anchors), dim=1))
        reference = torch.cat((boxes, anchors[:, None].expand(-1, num_frames, -1, -1)), dim=2)
        return StartingQueries(
            self.content(class_logits, num_boxes=self.num_boxes), position[:, None], reference, class_logits
        )

    def content(self, class_logits: Tensor, *, num_boxes: int) -> Tensor:
        """(B, n, K) → (B, n, C): the first num_boxes come from the detector, the rest from cells."""
        named = self.class_map(class_logits.sigmoid().to(self.class_map.weight.dtype))
        _, n, C = named.shape
        source = torch.cat(
            (self.source_embed[:1].expand(num_boxes, C), self.source_embed[1:].expand(n - num_boxes, C))
        )
        content: Tensor = named + source
        return content


class Decoder(nn.Module):
    """All decoder layers with their queries, class heads and box heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, depth = config.hidden_dim, config.decoder_layers
        self.num_queries, self.num_outputs = config.num_queries, config.outputs
        self.with_sizes = config.mask_coordinates == "box"
        if config.query_selection == "learned":
            self.query_embed = nn.Parameter(torch.zeros(config.num_queries, 2 * width))
            self.reference_points = Head(width, 2)
        elif config.query_selection == "encoder":
            self.query_embed = nn.Parameter(torch.zeros(config.num_queries, width))
        self.selection = QuerySelection(config) if config.query_selection != "learned" else None
        self.start = DetectorStart(config) if config.query_selection == "detector" else None
        self.layers = module_list(
            DecoderLayer(config, over_time=config.decoder_temporal_attention and index > 0)
            for index in range(depth)
        )
        self.class_embed = module_list(
            Head(width, config.outputs) if self.start is None else ObjectScore(width) for _ in range(depth)
        )
        self.bbox_embed = module_list(MLP(width, width, 4, num_layers=3, linear=Head) for _ in range(depth))

    def forward(
        self,
        memory: Tensor,
        sizes: Sizes,
        *,
        num_frames: int,
        all_layers: bool = False,
        extra: ExtraQueries | None = None,
        proposals: Tensor | None = None,
    ) -> list[LayerOutput]:
        """memory (B·T, P, C) → the last layer's output, or every layer's, first to last.

        extra: queries that training adds (denoising); their answers stand after those of the Q. proposals:
        (B·T, R, 4 + K) of the frames, for `query_selection: detector`.
        """
        B = memory.shape[0] // num_frames
        queries = self._queries(memory, sizes, num_frames, proposals)
        content, position, reference = queries.content, queries.position, queries.reference
        class_logits = queries.class_logits
        mask = None
        if extra is not None:
            if class_logits is not None and extra.class_logits is not None:
                class_logits = torch.cat((class_logits, extra.class_logits), dim=1)
            content = torch.cat((content, extra.content), dim=1)
            position = torch.cat((position.expand(B, -1, -1, -1), extra.position[:, None]), dim=2)
            reference = torch.cat((reference, extra.reference), dim=2)
            mask = extra.mask
        tgt, box = content, content[:, None]
        named = None if class_logits is None else named_queries(class_logits)[..., None]

        outputs = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            tgt, box = layer(
                tgt, box, position=position, reference=reference, memory=memory, sizes=sizes, mask=mask
            )
            boxes = self._refine(self.bbox_embed[index], box, reference)
            if named is not None:  # the detector's boxes stay as they are (docs/training.md)
                boxes = torch.where(named[:, None], reference, boxes)
            if all_layers or index == last:
                head = self.class_embed[index]
                logits = head(tgt) if class_logits is None else head(tgt, class_logits, named)
                origin = reference if self.with_sizes else reference[..., :2]
                outputs.append(LayerOutput(queries=tgt, logits=logits, boxes=boxes, centres=origin))
            reference = boxes.detach()
        return outputs

    def _queries(
        self, memory: Tensor, sizes: Sizes, num_frames: int, proposals: Tensor | None
    ) -> StartingQueries:
        B = memory.shape[0] // num_frames
        if self.selection is None:
            position, content = self.query_embed.chunk(2, dim=-1)  # (Q, C) each
            reference = self.reference_points(position).sigmoid().expand(B, num_frames, -1, -1)
            return StartingQueries(content.expand(B, -1, -1), position[None, None], reference)
        if self.start is not None:
            assert proposals is not None
            started: StartingQueries = self.start(self.selection, memory, sizes, num_frames, proposals)
            return started
        anchors, _ = self.selection(memory, sizes, num_frames=num_frames)  # (B, Q, 4)
        position = self.selection.embed(anchors)[:, None]
        reference = anchors[:, None].expand(-1, num_frames, -1, -1)
        return StartingQueries(self.query_embed.expand(B, -1, -1), position, reference)

    @staticmethod
    def _refine(bbox_embed: MLP, box: Tensor, reference: Tensor) -> Tensor:
        """sigmoid(MLP(box) + inverse_sigmoid(reference)); a 2-d reference adds to the centre alone."""
        change = bbox_embed(box)
        known = inverse_sigmoid(reference)
        if reference.shape[-1] == 2:
            known = nn.functional.pad(known, (0, 2))
        refined: Tensor = (change + known).sigmoid()
        return refined
