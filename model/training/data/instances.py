"""Instances out of rendered identities, and the window of a clip that shows some of them.

T frames, H × W pixels, N instances. An identity map holds 0 for nobody and i + 1 for the i-th actor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_VISIBLE", "draw_window", "instance_masks", "owners"]

MIN_VISIBLE = 12
"""Pixels, in some frame, below which an instance is left out."""

WINDOW_SHARE = 0.9
"""Share of windows that are laid around somebody."""


def instance_masks(
    ids: NDArray[Any], labels: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(N, T, H, W) masks and (N,) labels out of identities (T, H, W), i + 1 having labels[i].

    Those with too few visible pixels in every frame are left out.
    """
    areas = np.stack([np.bincount(frame.ravel(), minlength=len(labels) + 1) for frame in ids])
    kept = [number for number in range(1, len(labels) + 1) if areas[:, number].max() >= MIN_VISIBLE]
    masks = np.stack([ids == number for number in kept]) if kept else np.zeros((0, *ids.shape), np.bool_)
    return masks, labels[np.array(kept, np.int64) - 1]


def draw_window(rng: np.random.Generator, ids: NDArray[Any], crop: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a window of size `crop` in identities (T, H, W).

    Most windows lie around a visible pixel of an instance, each instance as likely. The others, and those of
    clips without instances, lie anywhere.
    """
    (height, width), (rows, columns) = ids.shape[1:], crop
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    present = np.unique(ids)
    present = present[present > 0]
    if len(present) and rng.random() < WINDOW_SHARE:
        _, y, x = np.nonzero(ids == rng.choice(present))
        pick = int(rng.integers(len(y)))
        top = int(np.clip(y[pick] - rng.uniform(0.2, 0.8) * rows, 0, height - rows))
        left = int(np.clip(x[pick] - rng.uniform(0.2, 0.8) * columns, 0, width - columns))
    return slice(top, top + rows), slice(left, left + columns)


def owners(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Whose each pixel is, (T, H, W): 0 for nobody, i + 1 for instance i; visible masks are disjoint.

    Raises ValueError for more than 255 instances.
    """
    if len(masks) > 255:
        raise ValueError(f"{len(masks)} instances in a clip: there are numbers for 255")
    owners = np.zeros(masks.shape[1:], np.uint8)
    for index, mask in enumerate(masks):
        owners[mask] = index + 1
    return owners
