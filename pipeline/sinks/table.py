"""The sinks that a config asks for.

A new sink is one file, one builder in `_BUILDERS` and one config entry; contract tests run over the table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config import StreamConfig
from pipeline.errors import OutputError
from pipeline.health import Condition
from pipeline.sinks.overlay import Painter
from pipeline.sinks.protocol import Sink, SinkContext


def _publish(context: SinkContext, painter: Painter) -> Sink | None:
    if context.config.publish.address in (None, "none"):
        return None
    from pipeline.sinks.publish import PublishSink

    return PublishSink(context)


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


_BUILDERS: dict[Condition, Callable[[SinkContext, Painter], Sink | None]] = {
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


def build_sinks(context: SinkContext) -> dict[Condition, Sink]:
    """Make the sinks that the config asks for, each under its name, which is also its condition in health; a
    fault closes those already made. Raises OutputError, AddressError."""
    painter = Painter(note=context.note)
    sinks: dict[Condition, Sink] = {}
    try:
        for name, build in _BUILDERS.items():
            sink = build(context, painter)
            if sink is not None:
                sinks[name] = sink
    except BaseException:
        for sink in sinks.values():
            sink.close()
        raise
    return sinks
