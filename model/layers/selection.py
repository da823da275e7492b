"""Queries from the encoder: the cells that look most like an object's centre become the decoder's anchors.

Source: the two-stage form of Deformable DETR and the mixed selection of DINO (content learned, position from
the anchor). Ours: one choice for all T frames of a window (a cell's score is its best over the frames), peaks
only, and the position as a map of the anchor's sine.

Dimensions: B windows, T frames, P positions of all levels, Q queries, C width, K outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.heads import MLP
from model.layers.modules import Head, precise, split_dim
from model.layers.position import pixel_centres
from ops.constants import kept
from ops.levels import Sizes, level_starts

_BESIDE_A_PEAK = 20.0
"""Taken off the logit of a cell with a better neighbour, so that one object does not fill the queries."""

CELLS_PER_BOX = 4.0
"""Side, in cells of its level, of the box that a cell starts from."""


@dataclass(frozen=True)
class DenseOutput:
    """What every cell of N frames says: logits (N, P, K) and boxes (N, P, 4) cxcywh in 0..1."""

    logits: Tensor
    boxes: Tensor


class QuerySelection(nn.Module):
    """Class and box of every cell, and the choice of the best as anchors: of all Q, or, next to a detector,
    of the motion queries, for which a cell has one score alone: is anything there."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        beside = config.query_selection == "detector"
        self.num_queries = config.num_motion_queries if beside else config.num_queries
        self.num_outputs = 1 if beside else config.outputs
        self.class_embed = Head(width, self.num_outputs)
        self.bbox_embed = MLP(width, width, 4, num_layers=3, linear=Head)
        self.num_features = width // 2
        self.position = MLP(4 * self.num_features, width, width, num_layers=2)

    def dense(self, memory: Tensor, sizes: Sizes) -> DenseOutput:
        """memory (N, P, C) of N frames → the answer of every cell; training's dense losses read it."""
        prior = _prior_boxes(sizes, memory.device, precise(memory.dtype))
        return DenseOutput(self.class_embed(memory), (self.bbox_embed(memory) + prior).sigmoid())

    def forward(
        self, memory: Tensor, sizes: Sizes, *, num_frames: int, taken: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """memory (B·T, P, C) → anchors (B, Q, 4) cxcywh in 0..1 and their logits (B, Q), best first; no
        gradient.

        taken: (B, n, 4) cxcywh, boxes whose cells come last; those of no area take none. Of fewer than Q
        cells all are taken, and the best stands for the rest.
        """
        memory = memory.detach()
        logits = split_dim(self.class_embed(memory).amax(dim=-1), 0, (-1, num_frames))  # (B, T, P)
        best, frame = logits.max(dim=1)  # (B, P)
        peaks = best - _BESIDE_A_PEAK * _beaten(best, sizes)
        if taken is not None:
            centres = pixel_centres(sizes, memory.device, taken.dtype)
            apart = (centres[None, :, None] - taken[:, None, :, :2]).abs() * 2  # (B, P, n, 2)
            inside = (apart < taken[:, None, :, 2:]).all(dim=-1).any(dim=-1)
            peaks = peaks - _BESIDE_A_PEAK * inside
        cells = peaks.topk(min(self.num_queries, peaks.shape[1]), dim=1).indices
        if cells.shape[1] < self.num_queries:
            cells = torch.cat((cells, cells[:, :1].expand(-1, self.num_queries - cells.shape[1])), dim=1)
        row = frame.gather(1, cells)
        window = torch.arange(cells.shape[0], device=cells.device)[:, None]
        chosen = split_dim(memory, 0, (-1, num_frames))[window, row, cells]  # (B, Q, C)
        change = self.bbox_embed(chosen)
        prior = _prior_boxes(sizes, memory.device, precise(memory.dtype))
        anchors: Tensor = (change + prior[cells]).sigmoid()
        return anchors.detach(), best.gather(1, cells).detach()

    def embed(self, anchors: Tensor) -> Tensor:
        """The decoder's query position of anchors (…, 4) cxcywh in 0..1: (…, C)."""
        sine = _sine_of_box(anchors, self.num_features)
        embedded: Tensor = self.position(sine.to(self.position.layers[0].weight.dtype))
        return embedded


@kept
def _prior_boxes(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Inverse sigmoid of the box that each cell starts from, (P, 4): its centre, a few cells wide."""
    centres = pixel_centres(sizes, torch.device("cpu"), dtype)  # (P, 2)
    extents = torch.cat(
        [
            centres.new_tensor([CELLS_PER_BOX / width, CELLS_PER_BOX / height]).expand(height * width, 2)
            for height, width in sizes
        ]
    )
    boxes = torch.cat((centres, extents), dim=-1).clamp(1e-3, 0.95)
    return torch.log(boxes / (1.0 - boxes))


def _beaten(scores: Tensor, sizes: Sizes) -> Tensor:
    """1 where a neighbour on the same level has a better score, else 0: (B, P) → (B, P)."""
    starts = level_starts(sizes)
    parts = []
    for level, size in enumerate(sizes):
        part = scores[:, starts[level] : starts[level + 1]]
        best = F.max_pool2d(split_dim(part, 1, size)[:, None], 3, stride=1, padding=1)
        parts.append((best.flatten(1) > part).to(scores.dtype))
    return torch.cat(parts, dim=1)


def _sine_of_box(boxes: Tensor, num_features: int) -> Tensor:
    """Sine of each of the four numbers, `num_features` each: (…, 4) → (…, 4·num_features)."""
    rate = _rates(num_features, boxes.device, boxes.dtype)
    angle = boxes[..., None] * (2.0 * math.pi) * rate  # (…, 4, F/2)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(-2)


@kept
def _rates(num_features: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """10000^(−2i / num_features) of the num_features / 2 sines of a number."""
    index = torch.arange(num_features // 2, dtype=dtype)
    return torch.pow(torch.tensor(10000.0, dtype=dtype), -2.0 * index / num_features)
