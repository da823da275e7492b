"""Instances of one frame ↔ the parts `instances` and `masks` of its message (docs/wire.md).

Columns, not a list of maps: little-endian arrays that every language reads without parsing a value at a time.
N instances; the masks part is the run-length counts of all crops, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from ops.rle import CropRLE
from pipeline.errors import MessageError
from pipeline.types import MAX_PIXELS, MAX_SIDE, TRACK_STATES, Instance, MaskMessage
from pipeline.wire import limits
from pipeline.wire.checked_map import CheckedMap, unpack_map

NO_TRACK = -1
"""In the column `merged`: merged into none."""

COLUMNS: dict[str, np.dtype[Any]] = {
    "id": np.dtype("<i4"),
    "class": np.dtype("<u2"),
    "score": np.dtype("<f4"),
    "box": np.dtype(("<i2", (4,))),
    "state": np.dtype("u1"),
    "merged": np.dtype("<i4"),
    "offset": np.dtype("<u4"),
    "length": np.dtype("<u4"),
}
"""Columns of the instances part, each `n` values of this type."""

MOVED = "moved"
"""Column of version 1.1, uint8, absent before: an index of MOVED_VALUES."""
MOVED_SINCE = (1, 1)
MOVED_VALUES: tuple[bool | None, ...] = (False, True, None)


def pack_instances(message: MaskMessage) -> tuple[bytes, bytes]:
    """Return the parts `instances` and `masks`; ValueError where they break a rule or a limit."""
    instances = message.instances
    if fault := picture_fault(message.width, message.height):
        raise ValueError(fault)
    if len(instances) > limits.INSTANCES:
        raise ValueError(f"{len(instances)} instances in one frame, at most {limits.INSTANCES} are allowed")
    counts = [_counts(instance, message) for instance in instances]
    size = sum(map(len, counts))
    if size > limits.PART_BYTES:
        raise ValueError(
            f"the masks of one frame take {size} bytes, at most {limits.PART_BYTES} are allowed: "
            "use smaller frames, or fewer instances"
        )
    lengths = [len(each) for each in counts]
    offsets = [0, *np.cumsum(lengths).tolist()]
    values: dict[str, list[Any]] = {
        "id": [instance.track_id for instance in instances],
        "class": [instance.class_id for instance in instances],
        "score": [instance.score for instance in instances],
        "box": [instance.box_xyxy for instance in instances],
        "state": [TRACK_STATES.index(instance.state) for instance in instances],
        "merged": [
            NO_TRACK if instance.merged_into is None else instance.merged_into for instance in instances
        ],
        "offset": offsets[:-1],
        "length": lengths,
    }
    columns = {name: np.array(values[name], dtype.base).tobytes() for name, dtype in COLUMNS.items()}
    if message.wire_version >= MOVED_SINCE:
        columns[MOVED] = bytes(MOVED_VALUES.index(instance.moved) for instance in instances)
    return msgpack.packb({"n": len(instances), **columns}), b"".join(counts)


def picture_fault(width: int, height: int) -> str:
    """Say what is wrong with a frame's size, "" where nothing is."""
    if max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
        return ""
    return (
        f"a frame of {width}×{height}, at most {MAX_SIDE} a side and {MAX_PIXELS} pixels in all are allowed"
    )


def _counts(instance: Instance, message: MaskMessage) -> bytes:
    """Return the run-length counts, b"" without a mask. The box is the crop, so the two must agree."""
    mask = instance.mask
    x1, y1, x2, y2 = instance.box_xyxy
    if not (0 <= x1 <= x2 <= message.width and 0 <= y1 <= y2 <= message.height):
        raise ValueError(
            f"track {instance.track_id}: box {instance.box_xyxy} is not inside "
            f"{message.width}×{message.height}"
        )
    if mask is None or not mask.width or not mask.height:
        return b""
    if instance.state in ("lost", "ended"):
        raise ValueError(f"track {instance.track_id} is {instance.state}: such rows carry no mask")
    if (x1, y1, x2, y2) != (mask.x, mask.y, mask.x + mask.width, mask.y + mask.height):
        raise ValueError(
            f"track {instance.track_id}: box {instance.box_xyxy} is not the mask's crop "
            f"({mask.x}, {mask.y}, {mask.x + mask.width}, {mask.y + mask.height})"
        )
    return mask.counts


def unpack_instances(
    data: bytes, masks: bytes, width: int, height: int, names: Mapping[int, str], where: str
) -> tuple[Instance, ...]:
    """Read the parts `instances` and `masks` of a frame of width × height pixels (docs/wire.md).

    `names` is class id → name; an id that it lacks gets an empty name. `where` names the message in errors.
    Raises MessageError for anything that is not as the format says.
    """
    fields = CheckedMap(
        unpack_map(data, "instances", limit=limits.INSTANCES_BYTES), f"instances of the {where}"
    )
    number = fields.integer("n", 0, limits.INSTANCES)
    columns: dict[str, NDArray[Any]] = {}
    for name, dtype in COLUMNS.items():
        columns[name] = np.frombuffer(fields.binary(name, number * dtype.itemsize), dtype.base)
    moved = fields.optional_binary(MOVED, number)
    scores = columns["score"]
    if not (np.isfinite(scores) & (scores >= 0) & (scores <= 1)).all():
        raise MessageError(f"{fields.where}: a score is not in 0..1")
    if (columns["id"] < 0).any() or (columns["merged"] < NO_TRACK).any():
        raise MessageError(f"{fields.where}: a track id is negative")
    if (columns["state"] >= len(TRACK_STATES)).any():
        raise MessageError(f"{fields.where}: a state is none of 0..{len(TRACK_STATES) - 1}")
    if moved and max(moved) >= len(MOVED_VALUES):
        raise MessageError(f"{fields.where}: {MOVED} is none of 0..{len(MOVED_VALUES) - 1}")
    boxes = columns["box"].reshape(number, 4)
    x1, y1, x2, y2 = boxes.astype(np.int32).T
    if not ((x1 >= 0) & (x1 <= x2) & (x2 <= width) & (y1 >= 0) & (y1 <= y2) & (y2 <= height)).all():
        raise MessageError(f"{fields.where}: a box is not inside {width}×{height}")
    ends = columns["offset"].astype(np.int64) + columns["length"]
    if (ends > len(masks)).any() or columns["length"].sum(dtype=np.int64) > len(masks):
        raise MessageError(f"{fields.where}: masks overlap or lie beyond the masks part")
    rows = []
    for index in range(number):
        state = TRACK_STATES[columns["state"][index]]
        box = (int(x1[index]), int(y1[index]), int(x2[index]), int(y2[index]))
        counts = masks[columns["offset"][index] : ends[index]]
        if counts and state in ("lost", "ended"):
            raise MessageError(f"{fields.where}: a {state} row carries a mask")
        class_id, merged = int(columns["class"][index]), int(columns["merged"][index])
        rows.append(
            Instance(
                track_id=int(columns["id"][index]),
                class_id=class_id,
                class_name=names.get(class_id, ""),
                score=float(scores[index]),
                box_xyxy=box,
                state=state,
                mask=_crop(box, counts, fields.where),
                merged_into=None if merged == NO_TRACK else merged,
                moved=None if moved is None else MOVED_VALUES[moved[index]],
            )
        )
    return tuple(rows)


def _crop(box: tuple[int, int, int, int], counts: bytes, where: str) -> CropRLE | None:
    if not counts:
        return None
    x1, y1, x2, y2 = box
    try:
        mask = CropRLE(x=x1, y=y1, width=x2 - x1, height=y2 - y1, counts=counts)
        mask.check()
    except ValueError as error:
        raise MessageError(f"{where}: {error}") from None
    return mask
