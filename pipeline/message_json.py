"""The JSON twin of a `masks` message: one line a message; a file of such lines is a recorded stream.

Masks are full-frame COCO RLE, so that common tools read them as they are. Keys: docs/wire.md. Design: ours.
"""

from __future__ import annotations

from typing import Any

from pipeline.types import Instance, MaskMessage

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
    "rle",
)
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
        "rle": _rle(instance, size),
    }


def _rle(instance: Instance, size: tuple[int, int]) -> dict[str, Any] | None:
    if instance.mask is None:
        return None
    coco = instance.mask.to_coco(*size)
    return {"size": list(coco["size"]), "counts": coco["counts"].decode("ascii")}
