"""Multi-scale deformable attention as one weighted bag of rows: the portable implementation.

A query and head reads 4·L·K rows of `value` (four corners of each bilinear sample) with known weights, and
sums them. That is `F.embedding_bag` with `per_sample_weights`: no image layout, no intermediate per level.
Ours; the usual fallback, one `grid_sample` per level, takes about ten times as long on a CPU.

Bilinear with zeros outside is written with hats, so that no corner needs a validity mask:

    p = location · size − 0.5,  first = floor(clamp(p, 0, size − 2)),
    weight(i) = max(0, 1 − |p − i|)  for i in {first, first + 1}

A sample outside the level meets a hat that is 0 there, and every row index is inside the level whatever the
offset.

The gradient of `value` is a bag as well: the same table read by row instead of by query, which one sort
gives. So it is deterministic, and faster than scattering.

Speed on a CPU: all elementwise work runs over axes that are N = M·L·K wide or L·K wide (axes of 2 or 4 cost
ten times as much), in place, and in chunks of queries that stay in the cache. Batch elements are computed
one by one, so that a result does not depend on what else is in the batch, bit for bit.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points,
N = M·L·K, n queries of a chunk.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.constants import kept
from ops.levels import level_sizes, level_starts

__all__ = ["deform_attn_backward_bag", "deform_attn_bag"]

_CHUNK_ELEMENTS = 512 * 128
"""Queries·N of one chunk on a CPU: 256 KB a float32 buffer, the best of several on an EPYC (measured)."""

_BACKWARD_CHUNK_ELEMENTS = 16 * _CHUNK_ELEMENTS
"""The same for the backward pass, which adds to all of the gradient of `value` once a chunk."""


class _Geometry(NamedTuple):
    """Constants of one pyramid, laid out like the sampling map. Rows are those of value.view(S·M, D)."""

    sizes: Tensor
    """(2, N) widths, then heights, of the level of each sample."""
    last_first: Tensor
    """(2, N) largest index that a first corner takes: max(size − 2, 0)."""
    lowest: Tensor
    """(2, N) zeros."""
    thin: Tensor | None
    """(2, N) 1 where the level has one pixel on that axis, hence no second corner; None if nowhere."""
    origin: Tensor
    """(N,) row of the level's first pixel, for the head."""
    pitch: Tensor
    """(N,) rows from a pixel to the one below."""
    steps: Tensor
    """(M, 4, L·K) rows from the first corner to each corner; 0 to those that the level does not have."""


@kept
def _geometry(
    height0: int, width0: int, L: int, K: int, M: int, dtype: torch.dtype, device: torch.device
) -> _Geometry:
    level = level_sizes(height0, width0, num_levels=L)
    starts = level_starts(level)
    heights, widths = zip(*level, strict=True)

    if starts[-1] * M >= 1 << 24:
        raise ValueError(f"value has {starts[-1]}·{M} rows, more than float32 can number exactly (2^24)")

    def per_sample(values: tuple[int, ...]) -> Tensor:
        return torch.tensor(values[:L]).view(1, L, 1).expand(M, L, K).reshape(M, L * K)

    width, height, start = per_sample(widths), per_sample(heights), per_sample(starts)
    sizes = torch.stack([width.flatten(), height.flatten()])
    right, below = (width > 1) * M, (height > 1) * width * M
    thin = sizes == 1

    return _Geometry(
        sizes=sizes.to(dtype),
        last_first=(sizes - 2).clamp(min=0).to(dtype),
        lowest=torch.zeros(2, M * L * K, dtype=dtype),
        thin=thin.to(dtype) if bool(thin.any()) else None,
        origin=(start * M + torch.arange(M).view(M, 1)).flatten().to(dtype),
        pitch=(width * M).flatten().to(dtype),
        steps=torch.stack([right * 0, right, below, right + below], dim=1).to(torch.int32),
    )


@dataclass(frozen=True)
class _Samples:
    """Where a chunk samples."""

    first: Tensor
    """(n, 2, N) index of the first corner, x then y, as a float."""
    distance: Tensor
    """(n, 2, N) position minus first corner; inside the level it is in [0, 1]."""
    extent: Tensor | None
    """(n, 2, 1|N) pixels a unit of offset, for 4-d references; None for 2-d ones, where it is 1."""


_Scratch = dict[str, Tensor]
"""Buffers by name, or none: then results are new tensors."""


def _per_axis(reference: Tensor, M: int, K: int) -> Tensor:
    """(n, 2) to (n, 2, 1); (n, L, 2), per level, to (n, 2, N)."""
    if reference.dim() == 2:
        return reference.unsqueeze(-1)
    n, L, _ = reference.shape
    samples = reference.transpose(1, 2).unsqueeze(-1).expand(n, 2, L, K).reshape(n, 2, 1, L * K)
    return samples.expand(n, 2, M, L * K).reshape(n, 2, M * L * K)


def _scratch(n: int, M: int, samples: int, dtype: torch.dtype, device: torch.device) -> _Scratch:
    """Buffers that all chunks share: fresh memory costs more than the arithmetic (page faults)."""
    N = M * samples

    def empty(*shape: int) -> Tensor:
        return torch.empty(n, *shape, dtype=dtype, device=device)

    return {
        "logits": empty(M, samples),
        "attention": empty(M, samples),
        "position": empty(2, N),
        "first": empty(2, N),
        "shortfall_first": empty(2, N),
        "shortfall_second": empty(2, N),
        "row_weights": empty(M, samples),
        "weights": empty(M, 4, samples),
        "pixel": empty(N),
        "base": torch.empty(n, N, dtype=torch.int32, device=device),
        "rows": torch.empty(n, M, 4, samples, dtype=torch.int32, device=device),
    }


def _locate(
    offset: Tensor, reference: Tensor, geometry: _Geometry, M: int, K: int, scratch: _Scratch
) -> _Samples:
    """offset (n, 2, N), reference (n, 2|4) or (n, L, 2|4)."""
    centre = _per_axis(reference[..., :2], M, K)
    extent = None
    if reference.shape[-1] == 2:
        position = torch.addcmul(offset, centre, geometry.sizes, out=scratch.get("position"))
    else:
        extent = _per_axis(reference[..., 2:] * (0.5 / K), M, K) * geometry.sizes
        position = torch.mul(centre, geometry.sizes, out=scratch.get("position")).addcmul_(offset, extent)
    position.sub_(0.5)
    first = torch.clamp(position, geometry.lowest, geometry.last_first, out=scratch.get("first")).floor_()
    return _Samples(first=first, distance=position.sub_(first), extent=extent)


def _shortfalls(distance: Tensor, geometry: _Geometry, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """One minus the hat of the first and second corner, (n, 2, N) each: min(1, |distance to the corner|)."""
    first = torch.abs(distance, out=scratch.get("shortfall_first")).clamp_(max=1)
    second = torch.sub(distance, 1, out=scratch.get("shortfall_second")).abs_().clamp_(max=1)
    if geometry.thin is not None:
        second = torch.maximum(second, geometry.thin, out=second)
    return first, second


def _weights(attention: Tensor, shortfalls: tuple[Tensor, Tensor], scratch: _Scratch) -> Tensor:
    """Attention (n, M, L·K) times the hats of each corner, (n·M, 4·L·K), corners in the order of `_rows`."""
    n, M, samples = attention.shape
    weights = scratch["weights"] if scratch else attention.new_empty(n, M, 4, samples)
    per_head = [shortfall.view(n, 2, M, samples) for shortfall in shortfalls]
    # One operation a corner: broadcast over corners it has five axes, and takes four times as long.
    for y, short_y in enumerate(per_head):
        row = torch.addcmul(attention, attention, short_y[:, 1], value=-1, out=scratch.get("row_weights"))
        for x, short_x in enumerate(per_head):
            torch.addcmul(row, row, short_x[:, 0], value=-1, out=weights[:, :, 2 * y + x])
    return weights.view(n * M, 4 * samples)


def _rows(first: Tensor, element: Tensor | None, geometry: _Geometry, M: int, scratch: _Scratch) -> Tensor:
    """Row of each corner, (n·M, 4·L·K) int32, corners in the order (y, x) = 00, 01, 10, 11.

    element (n, 1, 1) int32 is the first row of each query's batch element; None: 0 for all.
    """
    n, _, N = first.shape
    pixel = torch.add(geometry.origin, first[:, 0], alpha=M, out=scratch.get("pixel"))
    pixel.addcmul_(first[:, 1], geometry.pitch)
    base = scratch["base"].copy_(pixel) if scratch else pixel.to(torch.int32)
    # A NaN becomes 0 or the lowest integer: any row will do, for its weight is NaN too, but it must be a row.
    base = base.clamp_(min=0).view(n, M, N // M)
    if element is not None:
        base += element
    rows = scratch["rows"] if scratch else base.new_empty(n, M, 4, N // M)
    for corner in range(4):
        torch.add(base, geometry.steps[:, corner], out=rows[:, :, corner])
    return rows.view(n * M, 4 * N // M)


def _compute_dtype(value: Tensor) -> torch.dtype:
    """Positions and weights are in float32 for half types: 8 bits of mantissa cannot name a pixel of 80."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _chunks(Q: int, N: int, elements: int, device: torch.device) -> list[tuple[int, int]]:
    size = max(1, elements // N) if device.type == "cpu" else max(1, Q)
    return [(start, min(Q, start + size)) for start in range(0, Q, size)]


def deform_attn_bag(arguments: DeformAttnArguments) -> Tensor:
    """Forward of `vis::deform_attn` (see `ops.deform_attn` for shapes); records no gradient.

    The result of a batch element is the same, bit for bit, whatever else is in the batch.
    """
    value, sampling, reference, height0, width0, L, K = arguments
    B, S, M, D = value.shape
    Q = sampling.shape[1]
    N, dtype = M * L * K, _compute_dtype(value)
    geometry = _geometry(height0, width0, L, K, M, dtype, value.device)
    result = torch.empty(B, Q, M * D, dtype=value.dtype, device=value.device)
    # The queries of all batch elements stand in one row: a few queries each would not fill a chunk.
    table = value.reshape(B * S * M, D).to(dtype)
    queries = sampling.reshape(B * Q, 3, N)
    points = reference.reshape(B * Q, *reference.shape[2:])
    element = torch.arange(B, dtype=torch.int32, device=value.device).repeat_interleave(Q).view(-1, 1, 1) * (
        S * M
    )
    outputs = result.view(B * Q, M * D)
    chunks = _chunks(B * Q, N, _CHUNK_ELEMENTS, value.device)
    scratch = _scratch(chunks[0][1] if chunks else 0, M, L * K, dtype, value.device)
    for start, end in chunks:
        part = {name: buffer[: end - start] for name, buffer in scratch.items()}
        chunk = queries[start:end].to(dtype)
        logits = part["logits"].copy_(chunk[:, 2].view(-1, M, L * K))
        attention = torch.softmax(logits, -1, out=part["attention"])
        samples = _locate(chunk[:, :2], points[start:end].to(dtype), geometry, M, K, part)
        rows = _rows(samples.first, element[start:end], geometry, M, part)
        weights = _weights(attention, _shortfalls(samples.distance, geometry, part), part)
        bags = F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
        outputs[start:end] = bags.view(-1, M * D)
    return result


def deform_attn_backward_bag(grad: Tensor, arguments: DeformAttnArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, sampling and reference, given grad (B, Q, M·D). The forward pass is computed again.

    Where a position is a whole pixel, the derivative to the right is taken, as `grid_sample` does.
    """
    value, sampling, reference, height0, width0, L, K = arguments
    B, S, M, D = value.shape
    Q = sampling.shape[1]
    N, dtype = M * L * K, _compute_dtype(value)
    geometry = _geometry(height0, width0, L, K, M, dtype, value.device)
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    grad_sampling = torch.empty_like(sampling, memory_format=torch.contiguous_format)
    grad_reference = torch.empty_like(reference, memory_format=torch.contiguous_format)
    for b in range(B):
        table = value[b].reshape(S * M, D).to(dtype)
        for start, end in _chunks(Q, N, _BACKWARD_CHUNK_ELEMENTS, value.device):
            chunk = sampling[b, start:end].to(dtype).reshape(end - start, 3, N)
            points = reference[b, start:end].to(dtype)
            bags_grad = grad[b, start:end].to(dtype).reshape(-1, D)  # (n·M, D)
            attention = chunk[:, 2].reshape(-1, M, L * K).softmax(-1)
            samples = _locate(chunk[:, :2], points, geometry, M, K, {})
            rows = _rows(samples.first, None, geometry, M, {})
            shortfalls = _shortfalls(samples.distance, geometry, {})
            weights = _weights(attention, shortfalls, {})
            grad_value[b] += _transposed_bag(rows, weights, bags_grad, S * M).view(S, M, D)
            corners = _corner_products(rows, table, bags_grad).view(-1, M, 4, L * K)
            d_position, d_logits = _chain(corners, attention, samples.distance, shortfalls, geometry)
            d_offset = d_position if samples.extent is None else d_position * samples.extent
            grad_sampling[b, start:end] = torch.cat([d_offset.flatten(1), d_logits.flatten(1)], dim=1)
            grad_reference[b, start:end] = _reference_grad(d_position, chunk, points, geometry, M, K)
    return grad_value, grad_sampling, grad_reference


def _transposed_bag(rows: Tensor, weights: Tensor, bags_grad: Tensor, num_rows: int) -> Tensor:
    """Gradient of the table: row r receives Σ weight · grad of each bag that read r."""
    flat = rows.flatten()
    order = torch.argsort(flat, stable=True)
    ends = torch.bincount(flat, minlength=num_rows).cumsum(0)
    starts = F.pad(ends[:-1], (1, 0))
    readers = torch.div(order, rows.shape[1], rounding_mode="floor")
    return F.embedding_bag(
        readers, bags_grad, starts, mode="sum", per_sample_weights=weights.flatten()[order]
    )


def _corner_products(rows: Tensor, table: Tensor, bags_grad: Tensor) -> Tensor:
    """Gradient of the weights: the product of each row read with the gradient of its bag, like `rows`."""
    num_bags, size = rows.shape
    bags = torch.arange(num_bags, dtype=rows.dtype, device=rows.device)
    mode_sum = 0
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        bags_grad.contiguous(), table, rows.flatten(), bags * size, bags.repeat_interleave(size), mode_sum
    )
    return products


def _chain(
    corners: Tensor,
    attention: Tensor,
    distance: Tensor,
    shortfalls: tuple[Tensor, Tensor],
    geometry: _Geometry,
) -> tuple[Tensor, Tensor]:
    """Gradients of corner weights (n, M, 4, L·K) to those of positions (n, 2, N) and logits (n, M, L·K)."""
    n, M, samples = attention.shape
    floor = distance.floor()
    inside = (floor == 0).to(distance.dtype)
    slope_first = (floor == -1).to(distance.dtype) - inside
    slope_second = inside - (floor == 1).to(distance.dtype)
    if geometry.thin is not None:
        slope_second *= 1 - geometry.thin
    hats = [1 - shortfall.view(n, 2, M, samples) for shortfall in shortfalls]
    slopes = [slope.view(n, 2, M, samples) for slope in (slope_first, slope_second)]

    along_x = [
        corners[:, :, 2 * y] * hats[0][:, 0] + corners[:, :, 2 * y + 1] * hats[1][:, 0] for y in (0, 1)
    ]
    along_y = [corners[:, :, x] * hats[0][:, 1] + corners[:, :, 2 + x] * hats[1][:, 1] for x in (0, 1)]
    sampled = along_x[0] * hats[0][:, 1] + along_x[1] * hats[1][:, 1]
    d_x = attention * (along_y[0] * slopes[0][:, 0] + along_y[1] * slopes[1][:, 0])
    d_y = attention * (along_x[0] * slopes[0][:, 1] + along_x[1] * slopes[1][:, 1])
    d_logits = attention * (sampled - (attention * sampled).sum(-1, keepdim=True))
    return torch.stack([d_x.flatten(1), d_y.flatten(1)], dim=1), d_logits


def _reference_grad(
    d_position: Tensor, chunk: Tensor, points: Tensor, geometry: _Geometry, M: int, K: int
) -> Tensor:
    """Gradient of the reference points (n, 2|4) or (n, L, 2|4)."""
    parts = [d_position * geometry.sizes]
    if points.shape[-1] == 4:
        parts.append(parts[0] * chunk[:, :2] * (0.5 / K))
    full = torch.cat(parts, dim=1)  # (n, 2|4, N)
    if points.dim() == 2:
        return full.sum(-1)
    n, L, _ = points.shape
    return full.view(n, -1, M, L, K).sum((2, 4)).transpose(1, 2)
