"""DCNv4's deformable attention (flash_deform_attn), where the user has installed its package for the same torch.

    pip install --no-build-isolation PATH/TO/DCNv4_op
    python tests/benchmarks/gpu_report.py --dcnv4

Nothing of it is in this project. It takes locations in 0..1 and logits in one tensor, in half precision, and makes
the softmax itself; what makes locations of our operator's offsets is not in its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.levels import level_sizes

IM2COL_STEP = 128

Peer = Callable[..., Tensor]


def load() -> Peer:
    """Its function. Raises ImportError with the remedy."""
    try:
        from DCNv4.functions.flash_deform_attn_func import (  # type: ignore[import-not-found, unused-ignore]
            FlashDeformAttnFunction,
        )
    except ImportError as exc:
        raise ImportError(f"{exc}: install DCNv4_op of the DCNv4 repository for this torch") from exc
    function: Peer = FlashDeformAttnFunction.apply
    return function


def arguments(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Our operator's inputs with points as references (`gpu_report.make`) → those of the function, float16:
    value (B, S, M, D), sizes and starts of the levels, samples (B, Q, M, 3·L·K), step, K."""
    value, sampling, reference, height0, width0, L, K = inputs
    B, _, M, _ = value.shape
    Q = sampling.shape[1]
    x, y, logits = sampling.float().view(B, Q, 3, M, L, K).unbind(2)
    sizes = torch.tensor(level_sizes(height0, width0, num_levels=L), device=value.device)
    offsets = torch.stack([x, y], dim=-1) / sizes.flip(1)[:, None].float()  # (B, Q, M, L, K, 2)
    locations = reference.float()[:, :, None, None, None] + offsets
    samples = torch.cat((locations.flatten(3), logits.flatten(3)), dim=-1)
    areas = sizes.prod(dim=1)
    starts = areas.cumsum(0) - areas
    return value.half().contiguous(), sizes, starts, samples.half().contiguous(), IM2COL_STEP, K
