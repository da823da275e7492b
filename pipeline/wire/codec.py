"""The mask stream's wire format, version 1: messages ↔ multipart bytes (schema of every key: docs/wire.md).

`[topic][header][instances][masks]`: the topic `vis1/<kind>/<source>/` is for ZeroMQ's prefix filter, the
header a msgpack map, the instances little-endian columns in a msgpack map, the masks COCO run-length counts
of each box crop, one after the other. `event`, `heartbeat` and `end` have topic and header only.
Everything that is decoded is checked: bytes that break a rule raise MessageError, whatever they are.
Neither torch nor av nor cv2 is needed. Design: ours.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgpack

from pipeline.errors import MessageError, WireVersionError
from pipeline.health import Trouble
from pipeline.types import MAX_SIDE, SOURCE_ID, EndReason, FrameResult, MaskMessage, SourceState
from pipeline.wire import limits
from pipeline.wire.checked_map import MAX_INT64, CheckedMap, unpack_map
from pipeline.wire.columns import pack_instances, picture_fault, unpack_instances
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
    shorten,
    topic,
)

__all__ = ["SourceFacts", "StreamFacts", "decode", "encode", "mask_message", "parse_topic"]

ROTATIONS = (0, 90, 180, 270)
VITALS = ("last_result_age_ms", "read", "published", "reconnects", "packet_errors", "damaged")
"""Counters of a heartbeat that came with version 1.1."""
HEALTH_SINCE = (1, 1)

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
        damaged=frame.damaged,
        window=result.window,
        model_name=facts.model_name,
        class_list=facts.class_list,
        trained=facts.trained,
        dropped=dict(dropped),
        instances=result.instances,
    )


def encode(message: WireMessage) -> list[bytes]:
    """Return the parts of a message. ValueError where it breaks the format's rules or limits."""
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
        return [topic("masks", message.source), _pack("masks", header), *pack_instances(message)]
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
            **_health(message),
        }
        return [topic("event", message.source), _pack("event", header)]
    if isinstance(message, HeartbeatMessage):
        header |= {"state": message.state, "dropped": message.dropped, **_why(message), **_health(message)}
        if message.read is not None and message.wire_version >= HEALTH_SINCE:
            header |= {key: getattr(message, key) for key in VITALS}
        return [topic("heartbeat", message.source), _pack("heartbeat", header)]
    header |= {"reason": message.reason, "detail": _detail(message.detail), "dropped": message.dropped}
    return [topic("end", message.source), _pack("end", header)]


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
    if len(parts) > limits.PARTS:
        raise MessageError(
            f"a {kind} message of {source!r} has {len(parts)} parts, at most {limits.PARTS} are allowed"
        )
    header = _unpack_header(parts[1], kind, source)
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
        return _decode_heartbeat(header, common)
    return EndMessage(
        **common,
        reason=header.choice("reason", END_REASONS),
        detail=header.text("detail", limits.LONG_TEXT),
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


def _unpack_header(data: bytes, kind: str, source: str) -> CheckedMap:
    has_classes = kind == "event"
    values = unpack_map(
        data,
        "header",
        limit=limits.EVENT_BYTES if has_classes else limits.HEADER_BYTES,
        list_values=limits.CLASSES if has_classes else limits.LIST_VALUES,
    )
    return CheckedMap(values, f"{kind} header of {source!r}")


def _pack(kind: str, header: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb(header)
    limit = limits.EVENT_BYTES if kind == "event" else limits.HEADER_BYTES
    if len(data) > limit:
        raise ValueError(f"the header of a {kind} message has {len(data)} bytes, at most {limit} are allowed")
    return data


def _detail(text: str) -> str:
    return shorten(text, limits.LONG_TEXT)


def _why(message: EventMessage | HeartbeatMessage) -> dict[str, str]:
    return {} if message.reason is None else {"reason": message.reason, "detail": _detail(message.detail)}


def _health(message: EventMessage | HeartbeatMessage) -> dict[str, Any]:
    if message.health is None or message.wire_version < HEALTH_SINCE:
        return {}
    troubles = message.health[: limits.TROUBLES]
    return {
        "health": [
            {
                "condition": shorten(each.condition, limits.TEXT),
                "detail": shorten(each.detail, limits.DETAIL_SENT),
                "since_ns": each.since_ns,
            }
            for each in troubles
        ]
    }


def _read_health(header: CheckedMap) -> tuple[Trouble, ...] | None:
    maps = header.later_maps("health", limits.TROUBLES)
    if maps is None:
        return None
    return tuple(
        Trouble(
            condition=each.text("condition"),
            detail=each.text("detail", limits.LONG_TEXT),
            since_ns=each.integer("since_ns", 0, MAX_INT64),
        )
        for each in maps
    )


def _read_why(header: CheckedMap, state: SourceState) -> tuple[EndReason | None, str]:
    if state != "ended":
        return None, ""
    return header.choice("reason", END_REASONS), header.text("detail", limits.LONG_TEXT)


def _mask_header(message: MaskMessage) -> dict[str, Any]:
    damaged = message.damaged and message.wire_version >= HEALTH_SINCE
    return {
        **({"damaged": True} if damaged else {}),
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
    if fault := picture_fault(width, height):
        raise MessageError(f"{header.where}: {fault}")
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
        damaged=header.optional_flag("damaged") or False,
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
    names = dict(_class_name(pair, header.where) for pair in header.listing("class_names", limits.CLASSES))
    state = header.choice("state", SOURCE_STATES)
    reason, detail = _read_why(header, state)
    facts = SourceFacts(
        kind=header.text("kind"),
        url=header.text("url", limits.LONG_TEXT),
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
        health=_read_health(header),
        extra=header.rest(),
    )


def _decode_heartbeat(header: CheckedMap, common: dict[str, Any]) -> HeartbeatMessage:
    state = header.choice("state", SOURCE_STATES)
    reason, detail = _read_why(header, state)
    counters: dict[str, Any] = {key: header.later_integer(key, 0, MAX_INT64) for key in VITALS}
    return HeartbeatMessage(
        **common,
        **counters,
        state=state,
        reason=reason,
        detail=detail,
        dropped=header.counters("dropped"),
        health=_read_health(header),
        extra=header.rest(),
    )


def _class_name(pair: Any, where: str) -> tuple[int, str]:
    if not (
        isinstance(pair, list)
        and len(pair) == 2
        and type(pair[0]) is int
        and 0 <= pair[0] < limits.CLASSES
        and isinstance(pair[1], str)
        and len(pair[1]) <= limits.TEXT
    ):
        raise MessageError(
            f"{where}: class_names must be pairs of an id in 0..{limits.CLASSES - 1} and a name of at most "
            f"{limits.TEXT} characters, got {reprlib.repr(pair)}"
        )
    return pair[0], pair[1]
