"""The JSON twin of a `masks` message: one line a message; a file of such lines is a recorded stream.

`from_json(to_json(message))` keeps what the twin holds; the rest of the header is empty in it.

Masks are full-frame COCO RLE, so that common tools read them as they are. Keys: docs/wire.md. Design: ours.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from ops.rle import CropRLE
from pipeline.errors import MessageError
from pipeline.types import MAX_SIDE, SOURCE_ID, TRACK_STATES, Instance, MaskMessage
from pipeline.wire import limits
from pipeline.wire.checked_map import MAX_INT64, CheckedMap
from pipeline.wire.columns import picture_fault

KEYS = (
    "source",
    "seq",
    "epoch",
    "frame_index",
    "pts_seconds",
    "captured_ns",
    "published_ns",
    "width",
    "height",
    "revision",
    "final",
    "held",
    "damaged",
    "instances",
)
INSTANCE_KEYS = (
    "track_id",
    "class_id",
    "class_name",
    "score",
    "box_xyxy",
    "state",
    "merged_into",
    "moved",
    "rle",
)
MAX_TRACK = 2**31 - 1
MAX_CLASS = 2**16 - 1
SCORE_DIGITS = 6
"""float32 holds no more; without rounding 0.9 would read 0.8999999761581421."""


def to_json(message: MaskMessage) -> dict[str, Any]:
    """Return the message as values that `json.dumps` takes, keys in the order of `KEYS`."""
    size = (message.height, message.width)
    values = {key: getattr(message, key) for key in KEYS}
    return values | {"instances": [_instance(instance, size) for instance in message.instances]}


def _instance(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    """Return one instance; `size` is (height, width) of the frame."""
    return {
        "track_id": instance.track_id,
        "class_id": instance.class_id,
        "class_name": instance.class_name,
        "score": round(instance.score, SCORE_DIGITS),
        "box_xyxy": list(instance.box_xyxy),
        "state": instance.state,
        "merged_into": instance.merged_into,
        "moved": instance.moved,
        "rle": _rle(instance, size),
    }


def _rle(instance: Instance, size: tuple[int, int]) -> dict[str, Any] | None:
    if instance.mask is None:
        return None
    coco = instance.mask.to_coco(*size)
    return {"size": list(coco["size"]), "counts": coco["counts"].decode("ascii")}


def from_json(values: Any) -> MaskMessage:
    """Return the message of one recorded line, as `json.loads` gives it; MessageError where it is none."""
    if not isinstance(values, dict):
        raise MessageError(f"a recorded message must be an object, got {type(values).__name__}")
    line = CheckedMap(values, "recorded message")
    source = line.text("source")
    if not SOURCE_ID.fullmatch(source):
        raise MessageError(f"recorded message: source {source!r} is no source id")
    seconds = line.optional_number("pts_seconds", -1e38, 1e38)
    time = Fraction(0) if seconds is None else Fraction(seconds)  # exact: floats are fractions
    frame_index = line.integer("frame_index", 0, MAX_INT64)
    size = line.integer("height", 1, MAX_SIDE), line.integer("width", 1, MAX_SIDE)
    if fault := picture_fault(size[1], size[0]):
        raise MessageError(f"recorded message: {fault}")
    rows = line.listing("instances", limits.INSTANCES)
    return MaskMessage(
        source=source,
        producer="",
        boot="",
        seq=line.integer("seq", 0, MAX_INT64),
        epoch=line.integer("epoch", 0, MAX_INT64),
        frame_index=frame_index,
        pts=None if seconds is None else time.numerator,
        time_base=Fraction(1, time.denominator),
        captured_ns=line.integer("captured_ns", 0, MAX_INT64),
        published_ns=line.integer("published_ns", 0, MAX_INT64),
        width=size[1],
        height=size[0],
        rotation=0,
        revision=line.integer("revision", 0, MAX_INT64),
        final=line.flag("final"),
        held=line.flag("held"),
        damaged=line.optional_flag("damaged") or False,
        window=(frame_index, frame_index),
        model_name="",
        class_list="",
        trained=False,
        dropped={},
        instances=tuple(_read_instance(row, size) for row in rows),
        extra=line.rest(),
    )


def _read_instance(values: Any, size: tuple[int, int]) -> Instance:
    if not isinstance(values, dict):
        raise MessageError(f"a recorded instance must be an object, got {type(values).__name__}")
    row = CheckedMap(values, "recorded instance")
    score = row.optional_number("score", 0.0, 1.0)
    if score is None:
        raise MessageError("recorded instance: score is null")
    x1, y1, x2, y2 = row.integers("box_xyxy", 4, 0, MAX_SIDE)
    return Instance(
        track_id=row.integer("track_id", 0, MAX_TRACK),
        class_id=row.integer("class_id", 0, MAX_CLASS),
        class_name=row.text("class_name"),
        score=score,
        box_xyxy=(x1, y1, x2, y2),
        state=row.choice("state", TRACK_STATES),
        mask=_read_rle(values.get("rle"), size),
        merged_into=row.optional_integer("merged_into", 0, MAX_TRACK),
        moved=row.optional_flag("moved"),
    )


def _read_rle(rle: Any, size: tuple[int, int]) -> CropRLE | None:
    if rle is None:
        return None
    if not isinstance(rle, dict) or rle.get("size") != list(size):
        raise MessageError(f"recorded instance: rle must be null or COCO's, of size {list(size)}")
    try:
        return CropRLE.from_coco(rle)
    except (ValueError, TypeError, OverflowError) as error:
        raise MessageError(f"recorded instance: rle: {error}") from None
