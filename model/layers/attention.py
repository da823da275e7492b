"""The attentions of the network: deformable, standard, over time, and over cells of tokens.

Source: Deformable DETR (`DeformableAttention`), the Transformer (`SelfAttention`), model.md 2 and 3 for what
attends to what over time and scales. What differs is the formulation: attention among few tokens at very
many places is written with the places innermost (`planar_attention`), where the usual batched kernels would
work on thousands of 5×5 matrices.

Dimensions: B windows, T frames, S keys, P positions or places, Q queries, C width, d inner width, M heads,
D = C/M, L levels, K points, Z cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.modules import split_dim
from ops import deform_attn
from ops.constants import kept
from ops.levels import Sizes, halve, level_starts


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: K sampled points per head and level, weighted by a softmax.

    `sampling` gives [x offsets | y offsets | logits], each in (head, level, point) order.
    """

    def __init__(self, hidden_dim: int, *, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling = nn.Linear(hidden_dim, 3 * num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)

    def sample(self, query: Tensor, *, reference: Tensor, tokens: Tensor, sizes: Sizes) -> Tensor:
        """What each query finds in the tokens, before the output projection.

        query (B, Q, C), reference (B, Q, 2 or 4) in 0..1, tokens (B, P, C) → (B, Q, C).
        """
        value = split_dim(self.value_proj(tokens), -1, (self.num_heads, -1))  # (B, P, M, D)
        height, width = sizes[0]
        return deform_attn(
            value, self.sampling(query), reference, height, width, self.num_levels, self.num_points
        )

    def forward(self, query: Tensor, *, reference: Tensor, tokens: Tensor, sizes: Sizes) -> Tensor:
        found = self.sample(query, reference=reference, tokens=tokens, sizes=sizes)
        output: Tensor = self.output_proj(found)
        return output


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys carry a position and whose values do not."""

    def __init__(self, hidden_dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, Q, C), position (Q, C) or (B, Q, C) → (B, Q, C).

        mask (Q, Q): True where a query may attend to another; None: everywhere.
        """
        width = x.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        query, key = F.linear(x + position, weight[: 2 * width], bias[: 2 * width]).chunk(2, dim=-1)
        value = F.linear(x, weight[2 * width :], bias[2 * width :])
        query, key, value = (
            split_dim(part, -1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )  # (B, M, Q, D)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """W2·relu(W1·x)."""

    def __init__(self, width: int, inner: int, *, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))
        return output


_FEW = 1 << 17
"""Products up to which `planar_attention` makes them all at once: below, the number of calls is the cost."""


def planar_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over T at every place on its own; all of shape (M, D, B, T, P), places innermost.

    The logits are a sum of D outer products over T×T, each a long contiguous pass over the places. Where the
    number of calls is the cost, as on a GPU, all products are made at once.
    """
    query = query * query.shape[1] ** -0.5
    if query.is_cuda or query.numel() * query.shape[3] <= _FEW:
        pairs = (query[:, :, :, :, None] * key[:, :, :, None]).sum(dim=1)  # (M, B, T, S, P)
        return (pairs.softmax(dim=3)[:, None] * value[:, :, :, None]).sum(dim=4)
    logits = query[:, 0, :, :, None] * key[:, 0, :, None]  # (M, B, T, S, P)
    for feature in range(1, query.shape[1]):
        logits = torch.addcmul(logits, query[:, feature, :, :, None], key[:, feature, :, None])
    weights = logits.softmax(dim=3)[:, None]  # (M, 1, B, T, S, P)
    output = weights[..., 0, :] * value[:, :, :, :1]  # (M, D, B, T, P)
    for frame in range(1, value.shape[3]):
        output = torch.addcmul(output, weights[..., frame, :], value[:, :, :, frame : frame + 1])
    return output


def project_planar(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear map with the places of the result innermost: x (B, T, P, C) → (outputs, B, T, P).

    bias (outputs, T), one column per frame.
    """
    B, T, P, _ = x.shape
    planar = (weight @ x.flatten(0, 2).t()).view(-1, B, T, P)
    return planar + bias[:, None, :, None]


class TimeAttention(nn.Module):
    """Multi-head self-attention over the T tokens of each place; queries and keys carry the frame's position.

    `in_proj` maps outer → 3·inner, `out_proj` inner → outer.
    """

    def __init__(self, outer: int, inner: int, *, num_heads: int) -> None:
        super().__init__()
        self.inner = inner
        self.num_heads = num_heads
        self.in_proj = nn.Linear(outer, 3 * inner)
        self.out_proj = nn.Linear(inner, outer)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (B, T, P, outer) → (B, T, P, outer).

        shift (T, 2·inner) is added to queries and keys after their map: the frame's position there, or what
        their maps make of a position that stands before them.
        """
        B, T, P, _ = x.shape
        bias = self.in_proj.bias[:, None] + F.pad(shift, (0, self.inner)).t()  # (3·inner, T)
        planar = project_planar(x, self.in_proj.weight, bias)
        query, key, value = planar.view(3, self.num_heads, -1, B, T, P)
        attended = planar_attention(query, key, value).reshape(self.inner, -1)
        output = torch.addmm(self.out_proj.bias, attended.t(), self.out_proj.weight.t())
        return output.view(B, T, P, -1)


class CellLayout(NamedTuple):
    """Which tokens of a window form a cell, and which cell answers for a token.

    gather: (Z, T·slots) index into the T·P tokens of a window; a missing token points at any valid one.
    scatter: (T·P,) index into the Z·T·slots tokens in cells.
    missing: (Z, T·slots) True where a cell at an odd border has no token; None if nothing is missing.
    """

    gather: Tensor
    scatter: Tensor
    missing: Tensor | None


@kept
def cell_layout(sizes: Sizes, num_frames: int, *, with_parent: bool, device: torch.device) -> CellLayout:
    """Cells of 2×2 tokens of a level in all T frames, with the coarser level's token over them or without.

    With the parent (slot 4) every pair of successive levels has cells, and the coarsest level's tokens are
    answered for as parents; without it every level has cells.
    """
    starts = level_starts(sizes)
    slots = 5 if with_parent else 4
    num_tokens = starts[-1]
    tables, holes = [], []
    answer = torch.zeros(num_tokens, 2, dtype=torch.long)  # cell and slot of every token
    num_cells = 0
    for level in range(len(sizes) - 1 if with_parent else len(sizes)):
        height, width = sizes[level]
        rows, columns = halve(height), halve(width)
        cell = torch.arange(rows * columns)
        y = (cell // columns)[:, None] * 2 + torch.tensor([0, 0, 1, 1])
        x = (cell % columns)[:, None] * 2 + torch.tensor([0, 1, 0, 1])
        hole = (y >= height) | (x >= width)
        table = torch.where(hole, starts[level], starts[level] + y * width + x)
        slot = torch.arange(4).expand_as(table)
        answer[table[~hole]] = torch.stack((cell[:, None].expand_as(table) + num_cells, slot), -1)[~hole]
        if with_parent:
            parent = starts[level + 1] + cell
            table = torch.cat((table, parent[:, None]), dim=1)
            hole = F.pad(hole, (0, 1), value=False)
            if level == len(sizes) - 2:
                answer[parent] = torch.stack((cell + num_cells, torch.full_like(cell, 4)), dim=-1)
        tables.append(table)
        holes.append(hole)
        num_cells += rows * columns
    table, hole = torch.cat(tables), torch.cat(holes)

    frames = torch.arange(num_frames)
    gather = (table[:, None] + frames[:, None] * num_tokens).flatten(1)
    scatter = (answer[:, 0] * num_frames + frames[:, None]) * slots + answer[:, 1]
    missing = hole.repeat(1, num_frames) if bool(hole.any()) else None
    return CellLayout(gather=gather, scatter=scatter.flatten(), missing=missing)


class CellAttention(nn.Module):
    """Multi-head self-attention among the tokens of a cell in all frames.

    Queries and keys carry a learned embedding of the slot in the cell and the frame's position.
    """

    def __init__(self, width: int, *, num_heads: int, with_parent: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.with_parent = with_parent
        self.slot_embed = nn.Parameter(torch.zeros(5 if with_parent else 4, width))
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, position: Tensor, sizes: Sizes) -> Tensor:
        """x (B, T, P, d), position (T, d) → (B, T, P, d)."""
        B, T, P, width = x.shape
        layout = cell_layout(sizes, T, with_parent=self.with_parent, device=x.device)
        cells, tokens = layout.gather.shape

        # The map is linear: positions are mapped on their own, once for all cells.
        weight, bias = self.in_proj.weight, self.in_proj.bias
        place = (position[:, None] + self.slot_embed).flatten(0, 1)  # (T·slots, d)
        shift = F.pad(F.linear(place, weight[: 2 * width]), (0, width)) + bias  # (T·slots, 3d)
        mapped = F.linear(x, weight).flatten(1, 2)  # (B, T·P, 3d)
        gathered = mapped.index_select(1, layout.gather.flatten()).view(B * cells, tokens, -1)
        gathered += shift

        missing = None
        if layout.missing is not None:
            missing = layout.missing[:, None].repeat(B, 1, 1)  # (B·Z, 1, T·slots)
        attend = self._attend_at_once if x.is_cuda else self._attend_by_head
        attended = attend(*gathered.chunk(3, dim=-1), missing=missing).reshape(B, cells * tokens, width)
        output: Tensor = self.out_proj(attended.index_select(1, layout.scatter).view(B, T, P, width))
        return output

    def _attend_at_once(self, *parts: Tensor, missing: Tensor | None) -> Tensor:
        """All heads in one call, query, key and value (Z, N, d) each, missing (Z, 1, N): few launches."""
        query, key, value = (split_dim(each, -1, (self.num_heads, -1)).transpose(1, 2) for each in parts)
        mask = None if missing is None else ~missing[:, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)

    def _attend_by_head(self, *parts: Tensor, missing: Tensor | None) -> Tensor:
        """The same, head by head: on a CPU copying what one call wants costs more than the calls."""
        scale = (parts[0].shape[-1] // self.num_heads) ** -0.5
        heads = zip(*(each.chunk(self.num_heads, dim=-1) for each in parts), strict=True)
        return torch.cat([self._attend(*each, scale=scale, missing=missing) for each in heads], dim=-1)

    @staticmethod
    def _attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, missing: Tensor | None) -> Tensor:
        """One head: its strided columns go into a batched product as they are, all heads would be copied."""
        logits = torch.bmm(query, key.transpose(1, 2)) * scale
        if missing is not None:
            logits = logits.masked_fill(missing, float("-inf"))
        return torch.bmm(logits.softmax(dim=-1), value)
