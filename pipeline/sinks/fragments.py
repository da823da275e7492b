"""How many frames of a growing mp4 are on the disk: the whole fragments, counted by their boxes alone.

FFmpeg's `hybrid_fragmented` writes the samples of the first fragment into `moov` and those of each later one
into a `moof` (ISO/IEC 14496-12); the bytes themselves follow in an `mdat`. Nothing but box heads is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
# Where the number of samples stands in a box's content: behind version and flags, and in stsz a size.
_COUNT_AT = {b"stsz": 8, b"trun": 4}


def count_frames(path: Path) -> int:
    """Return the frames of the file's whole fragments, or of a plain mp4; 0 for what is no mp4."""
    total = announced = 0
    bytes_first = False  # as in a plain mp4 that was finished
    with path.open("rb") as file:
        end = file.seek(0, 2)
        for kind, start, stop in _boxes(file, 0, end):
            if stop > end:
                break
            if kind in (b"moov", b"moof"):
                announced = _count_samples(file, start, stop)
            elif kind == b"mdat":
                bytes_first |= not announced
                total += announced
                announced = 0
    return total + (announced if bytes_first else 0)


def _count_samples(file: BinaryIO, start: int, stop: int) -> int:
    total = 0
    for kind, content, end in _boxes(file, start, stop):
        if kind in _CONTAINERS:
            total += _count_samples(file, content, end)
        elif kind in _COUNT_AT:
            file.seek(content + _COUNT_AT[kind])
            total += int.from_bytes(file.read(4), "big")
    return total


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start of the content, end) of the boxes in a range; the last one may reach beyond it."""
    while start + 8 <= stop:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            length, head = int.from_bytes(file.read(8), "big"), 16
        if length < head:
            return
        yield kind, start + head, start + length
        start += length
