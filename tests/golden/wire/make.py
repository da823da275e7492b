"""Write the golden messages: bytes put together by hand from docs/wire.md, and what they must decode to.

Nothing of the system is used, so that the files check every encoder and decoder, ours included. Each file:
`parts` (base64 of each part) and `expected`. Run it from anywhere: `python tests/golden/wire/make.py`.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH = 48, 64
COMMON = {"producer": "golden", "boot": "00112233aabbccdd", "published_ns": 1_767_225_600_123_456_789}
DROPPED = {"cadence": 30, "decode": 0, "stale": 2, "window": 0, "publisher": 1, "stop": 0}
CLASSES = [[0, "person"], [7, "giant panda"], [39, "Zebra ünïcode"]]
NAMES = {"golden40": {str(number): name for number, name in CLASSES}}


def blob(seed: int) -> np.ndarray:
    """Return a mask with holes, (HEIGHT, WIDTH) uint8."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = generator.integers(0, 20, 2)
    mask[top : top + 17, left : left + 23] = generator.random((17, 23)) < 0.8
    return mask


def crop_of(mask: np.ndarray) -> tuple[tuple[int, int, int, int], bytes]:
    """Return the tight box and the run-length counts of its crop."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return (x1, y1, x2, y2), coco.encode(np.asfortranarray(mask[y1:y2, x1:x2]))["counts"]


ROWS: list[dict[str, Any]] = [
    {"id": 1, "class": 0, "score": 0.9375, "mask": blob(1), "state": "confirmed", "merged": None},
    {"id": 2, "class": 7, "score": 0.5, "mask": blob(2), "state": "tentative", "merged": None},
    {"id": 3, "class": 39, "score": 0.25, "mask": None, "state": "lost", "merged": None},
    {"id": 9, "class": 0, "score": 0.0, "mask": None, "state": "ended", "merged": 1},
    {"id": 2147483647, "class": 12, "score": 1.0, "mask": np.ones((HEIGHT, WIDTH), np.uint8),
     "state": "confirmed", "merged": None},
]  # fmt: skip
STATES = ["tentative", "confirmed", "lost", "ended"]


def instance_parts(rows: list[dict[str, Any]], **more: Any) -> list[bytes]:
    """Return the parts `instances` and `masks`."""
    columns = dict.fromkeys(("id", "class", "score", "box", "state", "merged", "offset", "length"), b"")
    masks = b""
    for row in rows:
        box, counts = ((0, 0, 0, 0), b"") if row["mask"] is None else crop_of(row["mask"])
        columns["id"] += struct.pack("<i", row["id"])
        columns["class"] += struct.pack("<H", row["class"])
        columns["score"] += struct.pack("<f", row["score"])
        columns["box"] += struct.pack("<4h", *box)
        columns["state"] += struct.pack("B", STATES.index(row["state"]))
        columns["merged"] += struct.pack("<i", -1 if row["merged"] is None else row["merged"])
        columns["offset"] += struct.pack("<I", len(masks))
        columns["length"] += struct.pack("<I", len(counts))
        masks += counts
    return [msgpack.packb({"n": len(rows), **columns, **more}), masks]


def expected_instances(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the instances of the JSON twin."""
    names = dict(CLASSES)
    out = []
    for row in rows:
        box, rle = (0, 0, 0, 0), None
        if row["mask"] is not None:
            box = crop_of(row["mask"])[0]
            full = coco.encode(np.asfortranarray(row["mask"]))
            rle = {"size": [HEIGHT, WIDTH], "counts": full["counts"].decode()}
        out.append({
            "track_id": row["id"], "class_id": row["class"], "class_name": names.get(row["class"], ""),
            "score": row["score"], "box_xyxy": list(box), "state": row["state"],
            "merged_into": row["merged"], "rle": rle,
        })  # fmt: skip
    return out


def masks(*, seq: int, frame: int, pts: int | None, rows: list[dict[str, Any]],
          version: tuple[int, int] = (1, 0), header: dict[str, Any] | None = None,
          columns: dict[str, Any] | None = None, moved: list[bool | None] | None = None,
          **changes: Any) -> dict[str, Any]:  # fmt: skip
    """Return a golden `masks` message; with `moved` it has the column of version 1.1."""
    values = {
        "v": list(version), **COMMON, "seq": seq, "epoch": 1, "frame": frame, "pts": pts,
        "time_base": [1, 90000], "captured_ns": 1_767_225_600_000_000_000, "clock_ns": None,
        "clock_quality": None, "width": WIDTH, "height": HEIGHT, "rotation": 0, "model": "golden-model",
        "classes": "golden40", "trained": True,
        "window": [max(0, frame - 4), frame], "revision": 0, "final": True, "held": False, "dropped": DROPPED,
        "encoding": "crop-rle", **changes,
    }  # fmt: skip
    twin = {
        "source": "cam-1", "seq": seq, "epoch": 1, "frame_index": frame,
        "pts_seconds": None if pts is None else pts / 90000, "captured_ns": values["captured_ns"],
        "published_ns": values["published_ns"], "width": WIDTH, "height": HEIGHT,
        "revision": values["revision"], "final": values["final"], "held": values["held"],
        "instances": expected_instances(rows),
    }  # fmt: skip
    if "damaged" in changes:
        twin["damaged"] = changes["damaged"]
    if moved is not None:
        columns = {**(columns or {}), "moved": bytes([False, True, None].index(each) for each in moved)}
        for instance, each in zip(twin["instances"], moved, strict=True):
            instance["moved"] = each
    parts = [
        b"vis1/masks/cam-1/",
        msgpack.packb(values | (header or {})),
        *instance_parts(rows, **(columns or {})),
    ]
    fields = {
        "wire_version": list(version), "producer": values["producer"], "boot": values["boot"],
        "source_clock_ns": values["clock_ns"], "source_clock_quality": values["clock_quality"],
        "rotation": values["rotation"], "model_name": values["model"], "class_list": values["classes"],
        "trained": values["trained"], "window": values["window"], "dropped": DROPPED, "extra": header or {},
    }  # fmt: skip
    return {
        "kind": "masks",
        "class_names": NAMES,
        "parts": parts,
        "expected": twin,
        "expected_fields": fields,
    }


VITALS = {"last_result_age_ms": 44_120, "read": 5210, "published": 5007, "reconnects": 3,
          "packet_errors": 17, "damaged": 12}  # fmt: skip
NO_VITALS = dict.fromkeys(VITALS, 0) | {"last_result_age_ms": None}
HEALTH = [
    {
        "condition": "hung",
        "detail": "the model has not answered for 44 s",
        "since_ns": 1_767_225_556_000_000_000,
    },
    {"condition": "of_a_later_minor_version", "detail": "", "since_ns": 1_767_225_599_000_000_000},
]


def control(kind: str, /, *, seq: int | None, expected: dict[str, Any], version: tuple[int, int] = (1, 0),
            **values: Any) -> dict[str, Any]:  # fmt: skip
    """Return a golden message of another kind; what came with version 1.1 is null where it is not told."""
    header = {"v": list(version), **COMMON, "seq": seq, **values}
    parts = [f"vis1/{kind}/cam-1/".encode(), msgpack.packb(header)]
    later = {} if kind == "end" else {"health": None}
    if kind == "heartbeat":
        later |= dict.fromkeys(VITALS)
    fields = {"source": "cam-1", "seq": seq, **COMMON, "wire_version": list(version), "extra": {}, **later}
    return {"kind": kind, "parts": parts, "expected": fields | expected}


def goldens() -> dict[str, dict[str, Any]]:
    """Return file name → message."""
    facts = {"kind": "rtsp", "url": "rtsp://camera.example/stream", "fps": 29.97, "width": 64, "height": 48}
    event = {"state": "live", "model": "golden-model", "classes": "golden40", "class_names": CLASSES,
             "trained": True, **facts}  # fmt: skip
    event_expected = {
        "state": "live", "model_name": "golden-model", "class_list": "golden40",
        "class_names": NAMES["golden40"], "trained": True, "facts": facts, "reason": None, "detail": "",
    }  # fmt: skip
    gone = {"reason": "lost", "detail": "no answer for 60 s"}
    return {
        "masks": masks(seq=41, frame=73, pts=219000, rows=ROWS),
        "masks_empty": masks(seq=0, frame=0, pts=None, rows=[]),
        "masks_held": masks(seq=42, frame=74, pts=-3000, rows=ROWS[:1], held=True, rotation=90),
        "masks_revision": masks(seq=2**53 + 1, frame=2**40, pts=2**62, rows=ROWS[:2], revision=1,
                                trained=False, clock_ns=1_767_225_600_000_000_001, clock_quality="rtcp"),
        "masks_later_minor": masks(seq=43, frame=75, pts=225000, rows=ROWS[1:3], version=(1, 7),
                                   header={"lens": {"k": [0.5, 1.5]}}, columns={"depth": bytes(8)}),
        "masks_damaged": masks(seq=45, frame=77, pts=231000, rows=ROWS[:2], version=(1, 1),
                               moved=[None, True], damaged=True),
        "masks_moved": masks(seq=44, frame=76, pts=228000, rows=ROWS, version=(1, 1),
                             moved=[True, False, True, None, False]),
        "event": control("event", seq=None, expected=event_expected, **event),
        "heartbeat": control("heartbeat", seq=41, state="reconnecting", dropped=DROPPED, expected={
            "state": "reconnecting", "dropped": DROPPED, "reason": None, "detail": ""}),
        "event_health": control("event", seq=41, version=(1, 1), health=HEALTH[:1], **event,
                                expected={**event_expected, "health": HEALTH[:1]}),
        "heartbeat_health": control("heartbeat", seq=41, version=(1, 1), state="live", dropped=DROPPED,
                                    **VITALS, health=HEALTH, expected={
            "state": "live", "dropped": DROPPED, "reason": None, "detail": "", **VITALS, "health": HEALTH}),
        "heartbeat_well": control("heartbeat", seq=None, version=(1, 1), state="waiting", dropped=DROPPED,
                                  **NO_VITALS, health=[], expected={
            "state": "waiting", "dropped": DROPPED, "reason": None, "detail": "", **NO_VITALS, "health": []}),
        "heartbeat_ended": control("heartbeat", seq=41, state="ended", dropped=DROPPED, **gone, expected={
            "state": "ended", "dropped": DROPPED, **gone}),
        "end": control("end", seq=41, reason="end_of_file", detail="", dropped=DROPPED, expected={
            "reason": "end_of_file", "detail": "", "dropped": DROPPED}),
    }  # fmt: skip


def main() -> None:
    """Write the files next to this one."""
    for name, golden in goldens().items():
        golden["parts"] = [base64.b64encode(part).decode() for part in golden["parts"]]
        text = json.dumps(golden, indent=1, ensure_ascii=False)
        (Path(__file__).parent / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
