"""What receives results: the protocol, and the sinks that a config asks for.

A new sink is one file, one builder in `_BUILDERS` and one config entry; contract tests run over the table.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.config import StreamConfig
from pipeline.errors import OutputError
from pipeline.inference.predictor import ModelFacts
from pipeline.redact import redact_url
from pipeline.sinks.overlay import Painter
from pipeline.sources.ffmpeg import parse_address
from pipeline.sources.video_source import Source
from pipeline.stats import Ledger
from pipeline.types import End, FrameResult, Gap, SourceState
from pipeline.wire.codec import SourceFacts, StreamFacts

logger = logging.getLogger("pipeline.sinks")


class Sink(Protocol):
    """Receives everything of all sources, in order, from one thread (the one that runs the stream)."""

    def start(self) -> None:
        """Called once before the sources open; may wait."""

    def write(self, result: FrameResult) -> None:
        """Take one result; revisions after the first may follow for the same frame."""

    def gap(self, gap: Gap) -> None:
        """What follows does not continue what was."""

    def state(self, source: str, state: SourceState) -> None:
        """A source changed its state; `ended` is told by `end`."""

    def end(self, end: End) -> None:
        """Nothing more comes from this source."""

    def poll(self) -> None:
        """Called about every 50 ms while nothing comes."""

    def close(self) -> None:
        """Release everything; also called after a fault."""


@dataclass(frozen=True)
class SinkContext:
    """What sinks may know of their stream."""

    config: StreamConfig
    model: ModelFacts
    sources: Mapping[str, Source]
    ledgers: Mapping[str, Ledger]
    stop: threading.Event

    @property
    def note(self) -> str | None:
        """Remark for pictures."""
        return None if self.model.trained else "untrained"


class PublishSink:
    """The mask stream over ZeroMQ; binds when made (AddressError)."""

    def __init__(self, context: SinkContext) -> None:
        from pipeline.wire.publisher import Publisher

        self._context = context
        model, config = context.model, context.config
        inputs = config.source.inputs
        self._facts = {
            name: SourceFacts(kind=parse_address(url, source=name).kind, url=redact_url(url))
            for name, url in inputs.items()
        }
        self._num_unsent = 0
        self._sizes: dict[str, tuple[int, int]] = {}
        self._publisher = Publisher(
            config.publish,
            facts=StreamFacts(
                model_name=model.name,
                class_list=model.class_list,
                class_names=dict(model.classes.values()),
                trained=model.trained,
                sources=self._facts,
            ),
            stop=context.stop,
        )

    @property
    def address(self) -> str:
        """The endpoint that was really bound."""
        return self._publisher.address

    def start(self) -> None:
        """Wait for the subscribers that the config asks for."""
        self._publisher.wait_for_subscribers(
            self._context.config.publish.wait_for_subscribers, self._context.stop
        )

    def write(self, result: FrameResult) -> None:
        """Publish the result; a source's size goes out as soon as it is known."""
        name, size = result.source, (result.frame.width, result.frame.height)
        if self._sizes.get(name) != size:
            self._sizes[name] = size
            facts = self._facts[name]
            fps = self._context.sources[name].fps
            self._publisher.set_facts(name, SourceFacts(facts.kind, facts.url, fps, *size))
        if not self._publisher.publish(result, self._context.ledgers[name].dropped):
            self._num_unsent += 1

    def gap(self, gap: Gap) -> None:
        """The epoch in the next header, and the ended tracks, say it."""

    def state(self, source: str, state: SourceState) -> None:
        """Tell the subscribers."""
        self._publisher.set_state(source, state, self._context.ledgers[source].dropped)

    def end(self, end: End) -> None:
        """Send the `end` message."""
        self._publisher.end(end.source, end.reason, end.detail, self._context.ledgers[end.source].dropped)

    def poll(self) -> None:
        """The publisher has a thread of its own."""

    def close(self) -> None:
        """Send what waits and free the address."""
        if self._num_unsent:
            logger.warning("%d results were not sent: a subscriber had no room at the stop", self._num_unsent)
        self._publisher.close()


def _publish(context: SinkContext, painter: Painter) -> Sink | None:
    return PublishSink(context) if context.config.publish.address not in (None, "none") else None


def _record(context: SinkContext, painter: Painter) -> Sink | None:
    from pipeline.sinks.recorder import Recorder

    record = context.config.record
    if record.path is None:
        return None
    for name in context.sources:
        check_not_input(record.path.replace("{source}", name), "record.path", context.config)
    return Recorder(record.path, record, sources=list(context.sources), painter=painter)


def _display(context: SinkContext, painter: Painter) -> Sink | None:
    from pipeline.sinks.display import Display

    if not context.config.display.enabled:
        return None
    return Display(on_quit=context.stop.set, painter=painter)


_BUILDERS: dict[str, Callable[[SinkContext, Painter], Sink | None]] = {
    "publish": _publish,
    "record": _record,
    "display": _display,
}


def check_not_input(path: str, what: str, config: StreamConfig) -> None:
    """Raise OutputError where an output would overwrite one of the stream's inputs."""
    for name, source in config.source.inputs.items():
        try:
            same = Path(path).expanduser().samefile(Path(source).expanduser())
        except (OSError, RuntimeError, ValueError):  # one of them is no file (yet)
            continue
        if same:
            raise OutputError(f"{what} {path} is source {name!r} itself: choose another name")


def build_sinks(context: SinkContext) -> list[Sink]:
    """Make the sinks that the config asks for; a fault closes those already made. Raises OutputError,
    AddressError."""
    painter = Painter(note=context.note)
    sinks: list[Sink] = []
    try:
        for build in _BUILDERS.values():
            sink = build(context, painter)
            if sink is not None:
                sinks.append(sink)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks
