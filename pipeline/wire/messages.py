"""The values on the wire other than MaskMessage, and the names that version 1 fixes (docs/wire.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.health import Trouble
from pipeline.types import EndReason, MaskMessage, SourceState

WIRE_VERSION = (1, 1)
TOPIC_ROOT = f"vis{WIRE_VERSION[0]}/"
KINDS = ("masks", "event", "heartbeat", "end")
MASK_ENCODING = "crop-rle"

SOURCE_STATES: tuple[SourceState, ...] = get_args(SourceState)
END_REASONS: tuple[EndReason, ...] = get_args(EndReason)


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a source besides its frames."""

    kind: str
    """file, images, rtsp, http, device or demo."""
    url: str
    """What was opened, without user name and password."""
    fps: float | None = None
    """Nominal frames a second; None where unknown."""
    width: int | None = None
    """Pixels after rotation; None until known."""
    height: int | None = None
    """Pixels after rotation; None until known."""


@dataclass(frozen=True)
class StreamFacts:
    """What all messages of one stream share."""

    model_name: str
    class_list: str
    """Id of the class list, e.g. ytvis2021."""
    class_names: Mapping[int, str]
    """Category id → name."""
    trained: bool
    """False: the weights are random, the masks mean nothing."""
    sources: Mapping[str, SourceFacts] = field(default_factory=dict)
    """Source id → facts."""


@dataclass(frozen=True)
class EventMessage:
    """Class list, facts and state of a source: sent on each new subscription and with each heartbeat."""

    source: str
    producer: str
    boot: str
    seq: int | None
    """The last `masks` message's; None before the first."""
    published_ns: int
    state: SourceState
    model_name: str
    class_list: str
    class_names: dict[int, str]
    trained: bool
    facts: SourceFacts
    reason: EndReason | None = None
    """Why the source ended; only with state `ended`."""
    detail: str = ""
    wire_version: tuple[int, int] = WIRE_VERSION
    extra: dict[str, Any] = field(default_factory=dict)
    health: tuple[Trouble, ...] | None = None
    """Conditions that hold; None where the publisher does not know them (version 1.0)."""


@dataclass(frozen=True)
class HeartbeatMessage:
    """Sign of life of a source, once a second, also with no frames.

    `last_result_age_ms` to `health` are None where the publisher does not know them (version 1.0).
    """

    source: str
    producer: str
    boot: str
    seq: int | None
    """The last `masks` message's; None before the first."""
    published_ns: int
    state: SourceState
    dropped: dict[str, int]
    reason: EndReason | None = None
    """Why the source ended; only with state `ended`."""
    detail: str = ""
    wire_version: tuple[int, int] = WIRE_VERSION
    extra: dict[str, Any] = field(default_factory=dict)
    last_result_age_ms: int | None = None
    """Milliseconds since the newest result; None before the first, too."""
    read: int | None = None
    """Frames that the decoder gave out."""
    published: int | None = None
    """Frames handed to the sinks."""
    reconnects: int | None = None
    packet_errors: int | None = None
    """Packets that could not be decoded."""
    damaged: int | None = None
    """Pictures that the decoder called corrupt."""
    health: tuple[Trouble, ...] | None = None
    """Conditions that hold, in the order in which they began."""


@dataclass(frozen=True)
class EndMessage:
    """No further `masks` message of this source within this boot."""

    source: str
    producer: str
    boot: str
    seq: int | None
    """The last `masks` message's; None if there was none."""
    published_ns: int
    reason: EndReason
    detail: str
    """One sentence for people."""
    dropped: dict[str, int]
    wire_version: tuple[int, int] = WIRE_VERSION
    extra: dict[str, Any] = field(default_factory=dict)


WireMessage = MaskMessage | EventMessage | HeartbeatMessage | EndMessage


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters, with … where something was cut off."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    """Return the text for a log or a terminal: what came from outside may hold control characters."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )


def topic(kind: str, source: str = "") -> bytes:
    """Return the topic of a kind, for one source or (as a prefix) for all."""
    return f"{TOPIC_ROOT}{kind}/{source}/".encode() if source else f"{TOPIC_ROOT}{kind}/".encode()
