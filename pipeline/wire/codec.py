"""The mask stream's wire format, version 1: messages ↔ multipart bytes (schema of every key: docs/wire.md).

`[topic][header][instances][masks]`: the topic `vis1/<kind>/<source>/` is for ZeroMQ's prefix filter, the
header a msgpack map, the instances little-endian columns in a msgpack map, the masks COCO run-length counts
of each box crop, one after the other. `event`, `heartbeat` and `end` have topic and header only.
Everything that is decoded is checked: bytes that break a rule raise MessageError, whatever they are.
Neither torch nor av nor cv2 is needed. Design: ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgpack

from pipeline.errors import MessageError, WireVersionError
from pipeline.types import MAX_SIDE, SOURCE_ID, EndReason, FrameResult, MaskMessage, SourceState
from pipeline.wire.checked_map import MAX_INT64, CheckedMap, unpack_map
from pipeline.wire.columns import pack_instances, unpack_instances
from pipeline.wire.messages import (
    END_REASONS,
    KINDS,
    MASK_ENCODING,
    SOURCE_STATES,
    WIRE_VERSION,
    EndMessage,
    EventMessage,
    HeartbeatMessage,
    SourceFacts,
    StreamFacts,
    WireMessage,
    topic,
)

__all__ = ["SourceFacts", "StreamFacts", "decode", "encode", "mask_message", "parse_topic"]

ROTATIONS = (0, 90, 180, 270)
MAX_CLASSES = 65536

_TOPIC = re.compile(rb"vis([0-9]{1,4})/([a-z]{1,16})/(" + SOURCE_ID.pattern.encode() + rb")/")
_FOREIGN_TOPIC = re.compile(rb"vis([0-9]{1,4})/")


def mask_message(
    result: FrameResult,
    *,
    facts: StreamFacts,
    producer: str,
    boot: str,
    seq: int,
    published_ns: int,
    dropped: Mapping[str, int],
) -> MaskMessage:
    """Return the message of one FrameResult."""
    frame = result.frame
    return MaskMessage(
        source=result.source,
        producer=producer,
        boot=boot,
        seq=seq,
        epoch=frame.epoch,
        frame_index=frame.index,
        pts=frame.pts,
        time_base=frame.time_base,
        captured_ns=frame.captured_ns,
        published_ns=published_ns,
        width=frame.width,
        height=frame.height,
        rotation=frame.rotation,
        revision=result.revision,
        final=result.final,
        held=result.held,
        window=result.window,
        model_name=facts.model_name,
        class_list=facts.class_list,
        trained=facts.trained,
        dropped=dict(dropped),
        instances=result.instances,
    )


def encode(message: WireMessage) -> list[bytes]:
    """Return the parts of a message. ValueError where an instance breaks the format's rules."""
    header = {
        **message.extra,
        "v": list(message.wire_version),
        "producer": message.producer,
        "boot": message.boot,
        "seq": message.seq,
        "published_ns": message.published_ns,
    }
    if isinstance(message, MaskMessage):
        header |= _mask_header(message)
        return [topic("masks", message.source), msgpack.packb(header), *pack_instances(message)]
    if isinstance(message, EventMessage):
        facts = message.facts
        header |= {
            "state": message.state,
            "model": message.model_name,
            "classes": message.class_list,
            "class_names": [[number, name] for number, name in message.class_names.items()],
            "trained": message.trained,
            "kind": facts.kind,
            "url": facts.url,
            "fps": facts.fps,
            "width": facts.width,
            "height": facts.height,
            **_why(message),
        }
        return [topic("event", message.source), msgpack.packb(header)]
    if isinstance(message, HeartbeatMessage):
        header |= {"state": message.state, "dropped": message.dropped, **_why(message)}
        return [topic("heartbeat", message.source), msgpack.packb(header)]
    header |= {"reason": message.reason, "detail": message.detail, "dropped": message.dropped}
    return [topic("end", message.source), msgpack.packb(header)]


def decode(
    parts: Sequence[bytes], *, class_names: Mapping[str, Mapping[int, str]] | None = None
) -> WireMessage:
    """Return the message that the parts hold; keys of a later minor version end up in `extra`.

    `class_names`: class-list id → category id → name, as the events told it; fills `Instance.class_name`
    ("" where not known). WireVersionError for another major version, MessageError for all else that is wrong.
    """
    if not parts:
        raise MessageError("a message without parts")
    kind, source = parse_topic(parts[0])
    if len(parts) < (4 if kind == "masks" else 2):
        raise MessageError(f"a {kind} message of {source!r} has only {len(parts)} parts")
    header = CheckedMap(unpack_map(parts[1], "header"), f"{kind} header of {source!r}")
    version = header.integers("v", 2, 0, 65535)
    if version[0] != WIRE_VERSION[0]:
        raise WireVersionError(_version_text(str(version[0])))
    read_seq = header.integer if kind == "masks" else header.optional_integer
    seq = read_seq("seq", 0, MAX_INT64)
    common: dict[str, Any] = {
        "source": source,
        "producer": header.text("producer"),
        "boot": header.text("boot"),
        "seq": seq,
        "published_ns": header.integer("published_ns", 0, MAX_INT64),
        "wire_version": (version[0], version[1]),
    }
    if kind == "masks":
        return _decode_masks(header, parts[2], parts[3], class_names or {}, common)
    if kind == "event":
        return _decode_event(header, common)
    if kind == "heartbeat":
        state = header.choice("state", SOURCE_STATES)
        reason, detail = _read_why(header, state)
        return HeartbeatMessage(
            **common,
            state=state,
            reason=reason,
            detail=detail,
            dropped=header.counters("dropped"),
            extra=header.rest(),
        )
    return EndMessage(
        **common,
        reason=header.choice("reason", END_REASONS),
        detail=header.text("detail", 4096),
        dropped=header.counters("dropped"),
        extra=header.rest(),
    )


def parse_topic(data: bytes) -> tuple[str, str]:
    """Return (kind, source id).

    WireVersionError for another major version, MessageError for what is no topic of ours.
    """
    match = _TOPIC.fullmatch(data)
    foreign = _FOREIGN_TOPIC.match(data)
    if foreign and int(foreign[1]) != WIRE_VERSION[0]:
        raise WireVersionError(_version_text(foreign[1].decode()))
    if match is None or match[2].decode() not in KINDS:
        raise MessageError(f"topic {data[:80]!r} is none of vis1/{{{','.join(KINDS)}}}/<source>/")
    return match[2].decode(), match[3].decode()


def _version_text(other: str) -> str:
    return (
        f"the publisher speaks wire version {other}, this subscriber version {WIRE_VERSION[0]}: "
        "use the same mssts-stream release on both sides"
    )


def _why(message: EventMessage | HeartbeatMessage) -> dict[str, str]:
    return {} if message.reason is None else {"reason": message.reason, "detail": message.detail}


def _read_why(header: CheckedMap, state: SourceState) -> tuple[EndReason | None, str]:
    if state != "ended":
        return None, ""
    return header.choice("reason", END_REASONS), header.text("detail", 4096)


def _mask_header(message: MaskMessage) -> dict[str, Any]:
    return {
        "epoch": message.epoch,
        "frame": message.frame_index,
        "pts": message.pts,
        "time_base": [message.time_base.numerator, message.time_base.denominator],
        "captured_ns": message.captured_ns,
        "clock_ns": message.source_clock_ns,
        "clock_quality": message.source_clock_quality,
        "width": message.width,
        "height": message.height,
        "rotation": message.rotation,
        "model": message.model_name,
        "classes": message.class_list,
        "trained": message.trained,
        "window": list(message.window),
        "revision": message.revision,
        "final": message.final,
        "held": message.held,
        "dropped": message.dropped,
        "encoding": MASK_ENCODING,
    }


def _decode_masks(
    header: CheckedMap,
    instances: bytes,
    masks: bytes,
    class_names: Mapping[str, Mapping[int, str]],
    common: dict[str, Any],
) -> MaskMessage:
    numerator, denominator = header.integers("time_base", 2, 1, MAX_INT64)
    window = header.integers("window", 2, 0, MAX_INT64)
    if window[0] > window[1]:
        raise MessageError(f"{header.where}: window {list(window)} ends before it begins")
    if header.text("encoding") != MASK_ENCODING:
        raise MessageError(
            f"{header.where}: the encoding of the masks is {header.text('encoding')!r}, "
            f"this reads {MASK_ENCODING}: use a newer mssts-stream"
        )
    rotation = header.integer("rotation", 0, 270)
    if rotation not in ROTATIONS:
        raise MessageError(f"{header.where}: rotation {rotation} is none of {ROTATIONS}")
    width, height = header.integer("width", 1, MAX_SIDE), header.integer("height", 1, MAX_SIDE)
    class_list = header.text("classes")
    rows = unpack_instances(instances, masks, width, height, class_names.get(class_list, {}), header.where)
    return MaskMessage(
        **common,
        epoch=header.integer("epoch", 0, MAX_INT64),
        frame_index=header.integer("frame", 0, MAX_INT64),
        pts=header.optional_integer("pts", -MAX_INT64 - 1, MAX_INT64),
        time_base=Fraction(numerator, denominator),
        captured_ns=header.integer("captured_ns", 0, MAX_INT64),
        width=width,
        height=height,
        rotation=rotation,
        revision=header.integer("revision", 0, MAX_INT64),
        final=header.flag("final"),
        held=header.flag("held"),
        window=(window[0], window[1]),
        model_name=header.text("model"),
        class_list=class_list,
        trained=header.flag("trained"),
        dropped=header.counters("dropped"),
        instances=rows,
        source_clock_ns=header.optional_integer("clock_ns", 0, MAX_INT64),
        source_clock_quality=header.optional_text("clock_quality"),
        extra=header.rest(),
    )


def _decode_event(header: CheckedMap, common: dict[str, Any]) -> EventMessage:
    pairs = header.listing("class_names", MAX_CLASSES)
    names: dict[int, str] = {}
    for pair in pairs:
        if not (
            isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], str)
        ):
            raise MessageError(f"{header.where}: class_names must be pairs of id and name")
        names[pair[0]] = pair[1]
    state = header.choice("state", SOURCE_STATES)
    reason, detail = _read_why(header, state)
    facts = SourceFacts(
        kind=header.text("kind"),
        url=header.text("url", 4096),
        fps=header.optional_number("fps", 0.0, 1e6),
        width=header.optional_integer("width", 1, MAX_SIDE),
        height=header.optional_integer("height", 1, MAX_SIDE),
    )
    return EventMessage(
        **common,
        state=state,
        reason=reason,
        detail=detail,
        model_name=header.text("model"),
        class_list=header.text("classes"),
        class_names=names,
        trained=header.flag("trained"),
        facts=facts,
        extra=header.rest(),
    )
