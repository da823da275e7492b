"""The pyramid of feature levels: each is half of the one before, rounded up. Ours.

Dimensions: L levels, S positions of all levels.
"""

__all__ = ["Sizes", "halve", "level_sizes", "level_starts"]

Sizes = tuple[tuple[int, int], ...]
"""(height, width) of every level, finest first."""


def halve(size: int) -> int:
    """ceil(size / 2): what every stride-2 convolution makes of a height or width."""
    return (size + 1) // 2


def level_sizes(height0: int, width0: int, *, num_levels: int) -> Sizes:
    """Height and width of each level, given those of the finest: size_{l+1} = ceil(size_l / 2)."""
    sizes = [(height0, width0)]
    for _ in range(num_levels - 1):
        height, width = sizes[-1]
        sizes.append((halve(height), halve(width)))
    return tuple(sizes)


def level_starts(sizes: Sizes) -> tuple[int, ...]:
    """Index of the first position of every level in the S positions, and S at the end."""
    starts = [0]
    for height, width in sizes:
        starts.append(starts[-1] + height * width)
    return tuple(starts)
