"""The textbook form of multi-scale deformable attention, one `grid_sample` per level.

It is the oracle of the tests and the peer of the benchmarks: short, readable, differentiable by autograd,
slow. Nothing on a hot path calls it. Formula: Deformable DETR (arXiv 2010.04159), section 4.1, with the two
forms of reference points of its encoder (2-d) and of iterative box refinement (4-d).

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.levels import level_sizes

__all__ = ["deform_attn_reference"]


def deform_attn_reference(
    value: Tensor,
    sampling: Tensor,
    reference: Tensor,
    height0: int,
    width0: int,
    num_levels: int,
    num_points: int,
) -> Tensor:
    """Same arguments and result as `ops.deform_attn`, computed in the dtype of `value` all through."""
    B, _, M, D = value.shape
    Q, L, K = sampling.shape[1], num_levels, num_points
    x, y, logits = sampling.to(value.dtype).view(B, Q, 3, M, L, K).unbind(2)
    weights = logits.flatten(-2).softmax(-1).view(B, Q, M, L, K)
    reference = reference.to(value.dtype)
    if reference.dim() == 3:
        reference = reference.unsqueeze(2).expand(-1, -1, L, -1)  # (B, Q, L, 2|4)

    result = value.new_zeros(B, M, D, Q)
    start = 0
    for level, (height, width) in enumerate(level_sizes(height0, width0, num_levels=L)):
        offset = torch.stack([x[:, :, :, level], y[:, :, :, level]], dim=-1)  # (B, Q, M, K, 2)
        point = reference[:, :, level, None, None]
        if reference.shape[-1] == 2:
            location = point + offset / value.new_tensor([width, height])
        else:
            location = point[..., :2] + offset / K * point[..., 2:] * 0.5
        image = value[:, start : start + height * width].permute(0, 2, 3, 1)  # (B, M, D, P)
        start += height * width
        sampled = F.grid_sample(
            image.reshape(B * M, D, height, width),
            (2 * location - 1).transpose(1, 2).flatten(0, 1),  # (B·M, Q, K, 2)
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # (B·M, D, Q, K)
        weight = weights[:, :, :, level].transpose(1, 2).unsqueeze(2)  # (B, M, 1, Q, K)
        result = result + (sampled.view(B, M, D, Q, K) * weight).sum(-1)
    return result.permute(0, 3, 1, 2).reshape(B, Q, M * D)
