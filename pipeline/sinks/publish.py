"""The mask stream as a sink: results, states and ends handed to a `Publisher`."""

from __future__ import annotations

import logging

from pipeline.redact import redact_url
from pipeline.sinks.protocol import SinkContext
from pipeline.sources.addresses import parse_address
from pipeline.types import End, FrameResult, Gap, SourceState
from pipeline.wire.publisher import Publisher, SourceFacts, StreamFacts

logger = logging.getLogger(__name__)


class PublishSink:
    """The mask stream over ZeroMQ; binds when made (AddressError)."""

    def __init__(self, context: SinkContext) -> None:
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
            vitals=context.vitals,
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
