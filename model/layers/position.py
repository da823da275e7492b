"""Sine positions over space and over time, and the geometry of the feature levels.

Source: model.md 1.3 (2-D sine of DETR, normalised, with the half-cell shift of Deformable DETR) and 2
(temporal sine, ours). Every table depends on sizes alone and is kept (`ops.constants`).

Dimensions: C width, L levels, P positions of all levels, P_l = H_l·W_l of one, T frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ops.constants import kept
from ops.levels import Sizes, halve, level_sizes


def image_level_sizes(height: int, width: int, num_levels: int) -> Sizes:
    """Sizes of the levels of an image of height × width pixels; the finest has stride 8."""
    for _ in range(3):
        height, width = halve(height), halve(width)
    return level_sizes(height, width, num_levels=num_levels)


def _sine(phase: Tensor, num_features: int) -> Tensor:
    """sin on even and cos on odd features of phase / 10000^(2⌊i/2⌋/num_features); (..., num_features)."""
    index = torch.arange(num_features, dtype=torch.float32)
    frequency = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / num_features)
    angle = phase[..., None] / frequency
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


@kept
def spatial_sine(sizes: Sizes, num_features: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """2-D sine of every position of every level, (P, num_features): the y half first, then x."""
    tables = []
    for height, width in sizes:
        y = (torch.arange(1, height + 1, dtype=torch.float32) - 0.5) / (height + 1e-6)
        x = (torch.arange(1, width + 1, dtype=torch.float32) - 0.5) / (width + 1e-6)
        rows = _sine(y * 2 * math.pi, num_features // 2)[:, None].expand(height, width, -1)
        columns = _sine(x * 2 * math.pi, num_features // 2)[None].expand(height, width, -1)
        tables.append(torch.cat((rows, columns), dim=-1).flatten(0, 1))
    return torch.cat(tables).to(dtype)


@kept
def temporal_sine(num_frames: int, num_features: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sine of the frame's index in the window, not normalised, (T, num_features)."""
    return _sine(torch.arange(num_frames, dtype=torch.float32), num_features).to(dtype)


@kept
def pixel_centres(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Normalised (x, y) of the centre of every position of every level, (P, 2) in 0..1."""
    tables = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32) + 0.5) / width
        tables.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(tables).to(dtype)
