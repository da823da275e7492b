"""Areas and overlaps of COCO run-length masks, many at once and without their pixels.

Counts come from files, and pycocotools trusts them: a bad one ends the process. So numpy parses all counts of
a track here first. Only then does pycocotools see them, where two masks are compared.

T frames, D detected and G annotated tracks of one video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = Sequence[bytes | None]
"""Per frame a full-frame mask as COCO compressed run lengths; None where there is none."""

_MAX_CHARACTERS = 7
"""Characters of the longest count: 7 · 5 bits hold any difference of two counts up to 2^31."""


def mask_areas(counts: Counts, *, height: int, width: int) -> NDArray[np.int64]:
    """Return (T,) pixels of each mask, 0 where there is none.

    Raises ValueError naming the frame (from 0) for counts that are not COCO's or do not fill the size.
    """
    areas = np.zeros(len(counts), np.int64)
    places = [place for place, text in enumerate(counts) if text is not None]
    texts = [text for text in counts if text is not None]
    if not texts:
        return areas
    found = _parse_areas(texts, height * width)
    if found is None:
        raise ValueError(_first_fault(counts, height=height, width=width))
    areas[places] = found
    return areas


def box_heights(counts: Counts, *, height: int, width: int) -> NDArray[np.float64]:
    """Return (T,) heights in pixels of the masks' tight boxes, 0 where there is no mask."""
    from pycocotools import mask as coco

    heights = np.zeros(len(counts))
    places = [place for place, text in enumerate(counts) if text is not None]
    if places:
        rles = [{"size": [height, width], "counts": counts[place]} for place in places]
        heights[places] = np.asarray(coco.toBbox(rles))[:, 3]
    return heights


def intersections(
    detected: Sequence[Counts], annotated: Sequence[Counts], *, height: int, width: int
) -> NDArray[np.int64]:
    """Return (T, D, G): pixels that each pair of tracks shares in each frame. Counts must be checked."""
    from pycocotools import mask as coco

    num_frames = max((len(counts) for counts in (*detected, *annotated)), default=0)
    shared = np.zeros((num_frames, len(detected), len(annotated)), np.int64)
    size = [height, width]
    for frame in range(num_frames):
        rows = [index for index, counts in enumerate(detected) if counts[frame] is not None]
        columns = [index for index, counts in enumerate(annotated) if counts[frame] is not None]
        if not rows or not columns:
            continue
        first = [{"size": size, "counts": detected[row][frame]} for row in rows]
        second = [{"size": size, "counts": annotated[column][frame]} for column in columns]
        # As crowds, pycocotools divides the shared pixels by the first mask's own: areas below 2^31 make
        # the product exact after rounding.
        share = np.asarray(coco.iou(first, second, [1] * len(second)))
        areas = np.asarray(coco.area(first), np.float64)
        shared[frame][np.ix_(rows, columns)] = np.rint(share * areas[:, None]).astype(np.int64)
    return shared


def _parse_areas(texts: Sequence[bytes], num_pixels: int) -> NDArray[np.int64] | None:
    """Return the number of ones of each mask, or None where any counts are wrong."""
    num_characters = np.array([len(text) for text in texts])
    digits = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    if not num_characters.all() or digits.min() < 0 or digits.max() > 63:
        return None
    is_end = digits < 32  # bit 5 unset: the last character of a count
    if not is_end[np.cumsum(num_characters) - 1].all():
        return None
    # Characters → values: groups of 5 bits, least significant first, the last one with the sign.
    ends = np.flatnonzero(is_end)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        return None
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    # Values → run lengths: from the fourth on, each is a difference to the one two before.
    mask_starts = np.concatenate(([0], np.cumsum(num_characters)[:-1]))
    first = np.searchsorted(starts, mask_starts)  # each mask's first value
    num_values = np.diff(np.append(first, len(values)))
    position = np.arange(len(values)) - np.repeat(first, num_values)
    runs = values.copy()
    for parity in (0, 1):
        own = (position % 2 == parity) & (position > 0)
        sums = np.cumsum(np.where(own, values, 0))
        before = np.concatenate(([0], sums))[first]
        runs[own] = (sums - np.repeat(before, num_values))[own]
    if runs.min() < 0 or runs.max() > num_pixels:
        return None
    if (np.add.reduceat(runs, first) != num_pixels).any():
        return None
    return np.asarray(np.add.reduceat(np.where(position % 2, runs, 0), first), np.int64)


def _first_fault(counts: Counts, *, height: int, width: int) -> str:
    """Say what is wrong with the first bad mask; one after another, because only the text is wanted."""
    from ops.rle import CropRLE

    for frame, text in enumerate(counts):
        if text is not None and _parse_areas([text], height * width) is None:
            try:
                CropRLE(0, 0, width, height, text).check()
            except ValueError as error:
                return f"frame {frame}: {error}"
            return f"frame {frame}: mask counts are no COCO run lengths of {width}×{height} pixels"
    return "mask counts are no COCO run lengths"
