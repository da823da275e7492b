"""A whole stream told to one sink, in this process or in one of its own (windows want one thread for ever).

Arguments: the sink's name, a folder, how many items to tell before `close` (-1: all).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from support.results import make_instance, make_result

if TYPE_CHECKING:
    from pipeline.sinks.protocol import Sink

from pipeline.config import RecordConfig
from pipeline.sinks.display import Display
from pipeline.sinks.overlay import Painter
from pipeline.sinks.progress import Progress
from pipeline.sinks.recorder import Recorder
from pipeline.types import End, FrameResult, Gap

SOURCES = ["left", "right"]


def make_recorder(folder: Path) -> Sink:
    """Return a recorder of two files."""
    return Recorder(folder / "{source}.mp4", RecordConfig(), sources=SOURCES, painter=Painter())


def make_display(folder: Path) -> Sink:
    """Return a window sink."""
    return Display(on_quit=lambda: None, painter=Painter())


def make_progress(folder: Path) -> Sink:
    """Return a progress bar for one of the two sources."""
    return Progress({"left": lambda: 10}, force=True)


MAKERS: dict[str, Callable[[Path], Sink]] = {
    "record": make_recorder,
    "display": make_display,
    "progress": make_progress,
}


def story() -> list[FrameResult | Gap | End]:
    """Return what two sources can bring, in an order that can happen."""
    mask = np.zeros((64, 96), dtype=np.bool_)
    mask[10:50, 20:80] = True
    seen, lost = make_instance(mask), make_instance(None, track_id=2, state="lost")
    return [
        make_result(0, source="left", instances=[seen], final=False),
        make_result(0, source="right", instances=[seen, lost]),
        make_result(0, source="left", instances=[seen], revision=1),
        make_result(1, source="right", instances=[seen], held=True),
        Gap("right", 1, "reconnect"),
        make_result(4, source="right", epoch=1, seconds=0.0, captured_seconds=9.0),
        Gap("left", 0, "resolution"),
        make_result(3, source="left", image=np.full((33, 51, 3), 9, dtype=np.uint8)),
        End("left", 0, "end_of_file"),
        make_result(5, source="right", epoch=1, seconds=0.1, captured_seconds=9.1, instances=[lost]),
        End("right", 1, "lost"),
    ]


def tell(sink: Sink, item: FrameResult | Gap | End) -> None:
    """Give the sink one item."""
    if isinstance(item, FrameResult):
        sink.write(item)
    elif isinstance(item, Gap):
        sink.gap(item)
    else:
        sink.end(item)


def run(name: str, folder: Path, number: int) -> None:
    """Make the sink, tell it the first `number` items (-1: all) with read-only frames, close it twice."""
    sink = MAKERS[name](folder)
    if number:
        sink.start()
        for source in SOURCES:
            sink.state(source, "live")
    items = story()
    for item in items if number < 0 else items[:number]:
        if isinstance(item, FrameResult):
            item.frame.image.flags.writeable = False
        tell(sink, item)
        sink.poll()
    sink.close()
    sink.close()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
