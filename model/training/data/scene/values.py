"""Numbers of a description: rounded ones, and seeds of what it holds. Source: ours."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_seed", "rounded"]


def rounded(value: float) -> float:
    """Round to four decimals, so that the last bits of a platform's arithmetic never reach a hash."""
    return round(float(value), 4)


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed of 31 bits."""
    return int(rng.integers(0, 2**31))
