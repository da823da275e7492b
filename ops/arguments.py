"""The arguments of `vis::deform_attn` as one value, which all of its implementations take. Ours.

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["DeformAttnArguments"]


class DeformAttnArguments(NamedTuple):
    """In the order of the operator's schema; `ops.deform_attn` says what each is."""

    value: Tensor
    """(B, S, M, D)."""
    sampling: Tensor
    """(B, Q, 3·M·L·K)."""
    reference: Tensor
    """(B, Q, 2|4) or (B, Q, L, 2|4)."""
    height0: int
    width0: int
    num_levels: int
    num_points: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Value, sampling and reference."""
        return self[:3]

    @property
    def geometry(self) -> tuple[int, int, int, int]:
        """height0, width0, L and K."""
        return self[3:]
