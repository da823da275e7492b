"""Where frames come from: one `open_source` for files, image folders, network streams, cameras and the demo.

A source is iterated by one thread, its decode thread: opening, reading, reconnecting and closing all happen
inside the iteration, because an FFmpeg container belongs to one thread. It gives Frame and Gap in order and,
last, one End for an orderly end; a fault is raised as SourceError.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from pipeline.config import SourceConfig
from pipeline.health import Health
from pipeline.sources.addresses import parse_address
from pipeline.sources.cadence import Cadence
from pipeline.sources.images import ImageSource
from pipeline.sources.sampling import Sampler
from pipeline.sources.video_source import VideoSource
from pipeline.stats import Ledger
from pipeline.types import End, Frame, Gap, SourceState


class Source(Protocol):
    """A source of frames; iterate it once, in one thread."""

    @property
    def live(self) -> bool:
        """Whether it goes on without waiting for its reader; of an http URL known once it is opened."""

    @property
    def state(self) -> SourceState:
        """Where it is in its life; may be read by any thread."""

    @property
    def fps(self) -> float | None:
        """Nominal frames a second, known once it is opened; None where the container does not say."""

    @property
    def num_frames(self) -> int | None:
        """Frames that a file says it holds, known once it is opened; None where it does not say."""

    def __iter__(self) -> Iterator[Frame | Gap | End]:
        """Open, read and close; raises SourceError."""

    def close(self) -> None:
        """End the iteration at the next frame; may be called twice and from any thread."""


def open_source(
    source: str,
    url: str,
    config: SourceConfig,
    *,
    cadence: Cadence,
    ledger: Ledger,
    stop: threading.Event,
    max_frames: int | None = None,
    hold: bool = False,
    planes: bool = False,
    health: Health | None = None,
) -> Source:
    """Make the source with id `source` for `url` (see `addresses.parse_address`); nothing is opened yet.

    `cadence` picks the frames for the model; the others are counted and not converted, or, with `hold`,
    given out with `sampled=False`. Every frame that the decoder gives out is counted in `ledger`.
    `max_frames` counts frames read. With `planes` frames come as the decoder's planes where these say all
    (8 bits 4:2:0, a known matrix, not turned), else, and always without it, as RGB. Raises SourceNotFound for
    a kind of address that is not supported; all other faults are raised by the iteration. `health` is told of
    conditions of a camera that begin and end.
    """
    address = parse_address(url, source=source)
    sampler = Sampler(
        source,
        cadence=cadence,
        ledger=ledger,
        max_frames=max_frames,
        hold=hold,
        cuts=config.detect_cuts,
    )
    if address.kind == "images":
        return ImageSource(address.target, fps=config.images_fps, sampler=sampler, stop=stop)
    return VideoSource(
        address, config, sampler=sampler, ledger=ledger, stop=stop, planes=planes, health=health
    )
