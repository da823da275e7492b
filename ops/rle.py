"""A mask as COCO run lengths of its crop: small on the wire, convertible both ways to full-frame COCO RLE.

Run lengths go down the columns of the crop (column-major), zeros first, written in COCO's compressed form:
each count from the third on as its difference to the one two before, in groups of 5 bits, least significant
first, bit 5 for "more follows", plus 48 (cocodataset/cocoapi, common/maskApi.c). The conversions work on
runs, never on pixels.

Only numpy is imported, and pycocotools where masks are encoded: programs that read masks from the wire decode
with this module.
Counts may be garbage there, and pycocotools trusts them. So they are parsed here, and summed before
anything of their size is allocated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_AREA", "CropRLE", "encode_crop"]

MAX_AREA = 1 << 26
"""Pixels of the largest frame decoded, twice 8K: bounds what a bad message can make a reader allocate."""

_BLOCK = 1 << 18
"""Characters that are parsed at once: their arrays take some 70 times as many bytes."""

_MAX_CHARACTERS = 7
"""Characters of the longest count: 7 · 5 bits hold any difference of two counts up to MAX_AREA."""


class _Runs(NamedTuple):
    """The runs of ones, [start, end) in column-major order, sorted, neither empty nor touching."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CropRLE:
    """A mask in a rectangle of a frame; all outside is 0. An empty mask has width and height 0 and no counts.

    Raises ValueError where the rectangle is not one; counts are checked when they are read (or by `check`).
    """

    x: int
    """Left column of the crop in the frame, in pixels."""
    y: int
    """Top row of the crop in the frame, in pixels."""
    width: int
    """Columns of the crop."""
    height: int
    """Rows of the crop."""
    counts: bytes
    """COCO compressed run lengths of the crop."""

    def __post_init__(self) -> None:
        rectangle = (self.x, self.y, self.width, self.height)
        for value in rectangle:
            if not isinstance(value, int) or not 0 <= value <= MAX_AREA:
                raise ValueError(f"crop x, y, width, height must be integers ≥ 0, got {rectangle}")
        if (self.width == 0) != (self.height == 0):
            raise ValueError(f"crop must have both a width and a height, got {self.width}×{self.height}")
        _check_area(self.width, self.height)
        if not isinstance(self.counts, bytes):
            raise ValueError(f"counts must be bytes, got {type(self.counts).__name__}")  # noqa: TRY004

    @property
    def is_empty(self) -> bool:
        """Whether the crop has no pixel."""
        return self.width == 0

    @property
    def area(self) -> int:
        """Number of ones. Raises ValueError for bad counts."""
        return int(self._lengths()[1::2].sum())

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The crop's corners in pixels, the right and lower ones outside."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def check(self) -> None:
        """Raises ValueError unless counts are well-formed and sum to width · height."""
        self._lengths()

    def decode_crop(self) -> NDArray[np.bool_]:
        """The crop as (height, width) bool. Raises ValueError for bad counts."""
        return _fill(self._lengths(), self.width, self.height)

    def decode(self, height: int, width: int) -> NDArray[np.bool_]:
        """The frame as (height, width) bool. Raises ValueError for bad counts or a crop outside the frame."""
        self._check_inside(height, width)
        lengths = self._lengths()
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[self.y : self.y + self.height, self.x : self.x + self.width] = _fill(
            lengths, self.width, self.height
        )
        return mask

    def to_coco(self, height: int, width: int) -> dict[str, Any]:
        """Full-frame COCO RLE, {"size": [height, width], "counts": bytes}, equal to pycocotools' own bytes.

        Raises ValueError for bad counts or a crop that leaves the frame.
        """
        self._check_inside(height, width)
        runs = _runs_of(self._lengths())
        if not self.is_empty:
            runs = _move(runs, self.height, height, self.x, self.y)
        (text,) = write_counts([_counts_of(runs, height * width)])
        return {"size": [height, width], "counts": text}

    @classmethod
    def from_coco(cls, rle: Mapping[str, Any]) -> "CropRLE":
        """From a full-frame COCO RLE, cropped to its ones; counts may be bytes, str, or an uncompressed list.

        Raises ValueError for a size or for counts that are not COCO's.
        """
        size, counts = rle.get("size"), rle.get("counts")
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(_is_size(v) for v in size):
            raise ValueError(f"COCO RLE: size must be [height, width], got {size!r}")
        height, width = int(size[0]), int(size[1])
        _check_area(width, height)
        if isinstance(counts, str):
            counts = counts.encode("ascii", errors="replace")
        lengths = _integers(counts) if isinstance(counts, list) else _parse(counts)
        runs = _runs_of(_check_lengths(lengths, width * height))
        if not len(runs.starts):
            return EMPTY
        columns, tops, bottoms = _split_columns(runs, height)
        return encode_runs(np.zeros_like(columns), columns, tops, bottoms, num=1)[0]

    def _lengths(self) -> NDArray[np.int64]:
        return _check_lengths(_parse(self.counts), self.width * self.height)

    def _check_inside(self, height: int, width: int) -> None:
        if not (_is_size(height) and _is_size(width)):
            raise ValueError(f"frame height and width must be integers ≥ 0, got {height!r} and {width!r}")
        _check_area(width, height)
        if self.x + self.width > width or self.y + self.height > height:
            raise ValueError(
                f"crop {self.width}×{self.height} at ({self.x}, {self.y}) leaves "
                f"the frame of {width}×{height}"
            )


def encode_crop(mask: NDArray[Any], x: int, y: int, *, tight: bool = True) -> CropRLE:
    """Encode a mask (height, width), non-zero is 1, whose top left pixel stands at (x, y) of its frame.

    With `tight`, the crop shrinks to the ones, so that equal masks have equal encodings; a mask without
    ones is the empty CropRLE. Otherwise the crop is the given rectangle. Raises ValueError for a mask that
    is not 2-d.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be (height, width), got shape {mask.shape}")
    columns = np.ascontiguousarray(mask.T).astype(np.bool_, copy=False)
    if tight:
        used = np.flatnonzero(columns.any(1))
        if not len(used):
            return EMPTY
        columns = columns[used[0] : used[-1] + 1]
        rows = np.flatnonzero(columns.any(0))
        columns = np.ascontiguousarray(columns[:, rows[0] : rows[-1] + 1])
        x, y = x + int(used[0]), y + int(rows[0])
    width, height = columns.shape
    if not columns.size:
        return EMPTY
    from pycocotools import mask as coco

    text: bytes = coco.encode(columns.view(np.uint8).T)["counts"]
    return CropRLE(x, y, width, height, text)


def encode_runs(
    mask: NDArray[np.intp],
    columns: NDArray[np.int64],
    tops: NDArray[np.int64],
    bottoms: NDArray[np.int64],
    *,
    num: int,
) -> list[CropRLE]:
    """Encode `num` masks of one frame, each cropped to its ones, from the runs of ones in their columns.

    Run i is [top, bottom) of a column of mask `mask[i]`. Runs are sorted by mask, column and row and do not
    overlap; empty ones count as none.
    """
    filled = bottoms > tops
    if not filled.all():
        mask, columns, tops, bottoms = mask[filled], columns[filled], tops[filled], bottoms[filled]
    masks = [EMPTY] * num
    borders = np.searchsorted(mask, np.arange(num + 1))
    used = np.flatnonzero(borders[1:] > borders[:-1])
    if not len(used):
        return masks
    first, last = borders[used], borders[used + 1] - 1
    x, y = columns[first], np.minimum.reduceat(tops, first)
    width, height = columns[last] + 1 - x, np.maximum.reduceat(bottoms, first) - y
    # All crops in one row of pixels, with one between them so that no run touches the next crop's.
    size = width * height
    base = np.cumsum(size + 1) - (size + 1)
    num_runs = last + 1 - first
    starts = columns * np.repeat(height, num_runs)
    starts += np.repeat(base - x * height - y, num_runs)
    starts += tops
    starts, ends = _unite(starts, starts + (bottoms - tops))

    bounds = np.empty(2 * len(starts), np.int64)
    bounds[0::2], bounds[1::2] = starts, ends
    counts = np.empty(2 * len(starts) + 1, np.uint32)  # what pycocotools would make of others
    np.subtract(bounds[1:], bounds[:-1], out=counts[1:-1], casting="unsafe")
    begin = np.searchsorted(starts, base)
    end = np.append(begin[1:], len(starts))
    before, after = starts[begin] - base, base + size - ends[end - 1]
    lengths = []
    for begun, ended, zeros_before, zeros_after in _rows(begin, end, before, after):
        # The zeros between two crops are the last count of one and the first of the next.
        own = counts[2 * begun : 2 * ended + bool(zeros_after)].copy()
        own[0] = zeros_before
        if zeros_after:
            own[-1] = zeros_after
        lengths.append(own)
    rectangles = _rows(x, y, width, height)
    for index, rectangle, text in zip(used.tolist(), rectangles, write_counts(lengths), strict=True):
        masks[index] = CropRLE(*rectangle, text)
    return masks


def _rows(*columns: NDArray[np.integer[Any]]) -> Iterator[tuple[int, int, int, int]]:
    """Plain numbers of four arrays, place by place."""
    return zip(*(column.tolist() for column in columns), strict=True)


def _is_size(value: object) -> bool:
    return isinstance(value, int | np.integer) and 0 <= int(value) <= MAX_AREA


def _check_area(width: int, height: int) -> None:
    if width * height > MAX_AREA:
        raise ValueError(f"{width}×{height} pixels are more than a mask may have ({MAX_AREA})")


def _integers(counts: list[Any]) -> NDArray[np.int64]:
    if not all(_is_size(count) for count in counts):
        raise ValueError(f"COCO RLE: uncompressed counts must be integers in 0..{MAX_AREA}")
    return np.array(counts, dtype=np.int64)


def _parse(text: object) -> NDArray[np.int64]:
    """Compressed counts to run lengths. Raises ValueError for what is none."""
    if not isinstance(text, bytes):
        raise ValueError(f"mask counts must be bytes, got {type(text).__name__}")  # noqa: TRY004
    digits = np.frombuffer(text, dtype=np.uint8) - 48  # what is below 48 is above 207 now
    if not len(digits):
        return digits.astype(np.int64)
    if digits.max() > 63:
        raise ValueError("mask counts hold a character that is not COCO RLE")
    if len(digits) <= _BLOCK:
        values = _numbers(digits)
    else:
        values = np.empty(np.count_nonzero(digits < 32), np.int64)
        start = filled = 0
        while start < len(digits):
            stop = start + _BLOCK
            if stop < len(digits):  # not within a number
                ends = np.flatnonzero(digits[stop - _MAX_CHARACTERS : stop] < 32)
                stop += (int(ends[-1]) + 1 if len(ends) else 0) - _MAX_CHARACTERS
            part = _numbers(digits[start:stop])
            values[filled : filled + len(part)] = part
            start, filled = stop, filled + len(part)
    # Undo "minus the count two before", which starts at the fourth count.
    np.cumsum(values[1::2], out=values[1::2])
    np.cumsum(values[2::2], out=values[2::2])
    return values


def _numbers(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers that whole groups of characters write, in their order."""
    ends = np.flatnonzero(digits < 32)  # bit 5 unset: the last character of a count
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("mask counts are truncated: the last one has no end")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError(
            f"mask counts hold a number of {lengths.max()} characters, more than {_MAX_CHARACTERS}"
        )
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31).astype(np.int64) << (5 * place), starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    return values


def write_counts(masks: Sequence[NDArray[np.integer[Any]]]) -> list[bytes]:
    """Run lengths of each mask to its compressed counts, which do not depend on the mask's size."""
    from pycocotools import mask as coco

    # pycocotools takes lists of counts too, which takes nine times as long.
    rles = coco.frPyObjects([{"size": [0, 0], "counts": counts} for counts in masks], 0, 0)
    return [rle["counts"] for rle in rles]


def _check_lengths(lengths: NDArray[np.int64], area: int) -> NDArray[np.int64]:
    """The same run lengths. Raises ValueError where they do not make up the area."""
    if len(lengths) and (lengths.min() < 0 or lengths.max() > area):
        raise ValueError(f"mask counts hold a run length outside 0..{area}, the pixels of their size")
    if int(lengths.sum()) != area:
        raise ValueError(f"mask counts sum to {int(lengths.sum())} pixels, their size has {area}")
    return lengths


def _runs_of(lengths: NDArray[np.int64]) -> _Runs:
    """Run lengths, zeros first, to runs of ones."""
    bounds = np.cumsum(lengths)
    ends = bounds[1::2]
    return _join(bounds[0::2][: len(ends)], ends)


def _join(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Runs:
    """Drop empty runs and unite those that touch."""
    filled = ends > starts
    if not filled.all():
        starts, ends = starts[filled], ends[filled]
    return _unite(starts, ends)


def _unite(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Runs:
    """Unite runs that touch; none is empty."""
    apart = starts[1:] != ends[:-1]
    if apart.all():
        return _Runs(starts, ends)
    return _Runs(starts[np.append(True, apart)], ends[np.append(apart, True)])


def _counts_of(runs: _Runs, area: int) -> NDArray[np.int64]:
    """Runs of ones to run lengths, zeros first, as COCO writes them: no trailing run of length 0."""
    bounds = np.empty(2 * len(runs.starts) + 2, dtype=np.int64)
    bounds[0], bounds[-1] = 0, area
    bounds[1:-1:2], bounds[2:-1:2] = runs.starts, runs.ends
    counts = bounds[1:] - bounds[:-1]
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _split_columns(
    runs: _Runs, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs, cut at the columns' ends: column, top row and bottom row (outside) of each piece."""
    first, last = runs.starts // height, (runs.ends - 1) // height
    pieces = last - first + 1
    run = np.repeat(np.arange(len(first)), pieces)
    columns = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    tops = np.maximum(runs.starts[run] - columns * height, 0)
    bottoms = np.minimum(runs.ends[run] - columns * height, height)
    return columns, tops, bottoms


def _move(runs: _Runs, height: int, new_height: int, x: int, y: int) -> _Runs:
    """Runs of columns of `height` to those of columns of `new_height`, shifted by (x, y)."""
    columns, tops, bottoms = _split_columns(runs, height)
    base = (columns + x) * new_height + y
    return _join(base + tops, base + bottoms)


def _fill(lengths: NDArray[np.int64], width: int, height: int) -> NDArray[np.bool_]:
    """Run lengths, zeros first, to (height, width)."""
    colours = np.zeros(len(lengths), dtype=np.bool_)
    colours[1::2] = True
    return np.repeat(colours, lengths).reshape(width, height).T


EMPTY = CropRLE(0, 0, 0, 0, b"")
