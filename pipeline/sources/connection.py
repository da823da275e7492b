"""One connection after another: opened, waited for, closed, without ever waiting beyond a stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pipeline.config import SourceConfig
from pipeline.errors import SourceError, SourceUnreachable, SourceUnreadable
from pipeline.sources.addresses import Address
from pipeline.sources.demo import demo_clip_path
from pipeline.sources.ffmpeg import Pictures, VideoInput, open_video
from pipeline.sources.reader import Reader
from pipeline.stats import Ledger

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""A stop is looked for so often."""
# FFmpeg's own timeouts say more about a fault, so they come first.
_GRACE_SECONDS = 0.5
# A connection that is closed may take so long before it is left to itself; a stop waits for that.
_CLOSE_SECONDS = 1.0
# Connections that were left to themselves and still wait for FFmpeg, at most, before another is opened.
_MAX_LINGERING = 3
UNDECODABLE = (
    "answers, but sends no picture that can be decoded; check what it encodes (H.264, H.265) and how often "
    "it sends key frames"
)


@dataclass(frozen=True)
class Connection:
    """What was opened, and its first pictures."""

    reader: Reader
    video: VideoInput
    pictures: Pictures

    def silent_since(self, moment: float) -> bool:
        """Whether not even packets have come in the later half of the time since `moment` (monotonic)."""
        return _silent_since(self.reader, moment)


class Connector:
    """Opens and closes the connections of one source, in its decode thread."""

    def __init__(
        self,
        address: Address,
        config: SourceConfig,
        *,
        source: str,
        ledger: Ledger,
        stopping: Callable[[], bool],
        planes: bool = False,
    ) -> None:
        self._address = address
        self._config = config
        self._source = source
        self._ledger = ledger
        self._stopping = stopping
        self._planes = planes
        self._lingering: list[Reader] = []

    def connect(self, timeout_seconds: float) -> Connection | None:
        """Open once and wait for the first picture; None when stopped. Raises SourceError.

        `timeout_seconds` bounds all of it for sources behind a network and devices.
        """
        begun = time.monotonic()
        self._wait_for_lingering(timeout_seconds)
        reader = Reader(partial(self._open, timeout_seconds), source=self._source)
        try:
            pictures = self._first(reader, begun, timeout_seconds)
        except BaseException:
            self.close(reader)
            raise
        video = reader.video
        if not pictures or video is None:
            self.close(reader)
            return None
        return Connection(reader, video, pictures)

    def close(self, reader: Reader) -> None:
        """Close a connection; where FFmpeg does not return, it closes itself when it does."""
        reader.close(_CLOSE_SECONDS)
        if not reader.ended:
            logger.debug("source %s: FFmpeg does not return yet and is left to its timeouts", self._source)
            self._lingering.append(reader)

    def no_picture(self, how_long: str, *, silent: bool) -> SourceUnreachable:
        """The fault of a live source that has brought no picture."""
        what = f"silent {how_long}" if silent else f"{UNDECODABLE} ({how_long})"
        return SourceUnreachable(self._said(what), source=self._source)

    def _first(self, reader: Reader, begun: float, timeout_seconds: float) -> Pictures:
        """A connection's first pictures; none when stopped."""
        while not self._stopping():
            pictures = reader.get(POLL_SECONDS)
            if pictures:
                return pictures
            video = reader.video
            live = self._address.kind not in ("file", "demo") if video is None else video.live
            if pictures is None and not live:
                what = "not one picture can be decoded; is the file complete?"
                raise SourceUnreadable(self._said(what), source=self._source)
            late = time.monotonic() - begun > timeout_seconds + (_GRACE_SECONDS if video is None else 0.0)
            if live and (pictures is None or late):
                silent = pictures is not None and _silent_since(reader, begun)
                raise self.no_picture(f"for {timeout_seconds:.3g} s", silent=silent)
        return Pictures()

    def _open(self, timeout_seconds: float) -> VideoInput:
        """Open it; in the reader's thread."""
        address = self._address
        try:
            if address.kind == "demo":
                address = replace(address, kind="file", target=str(demo_clip_path()))
        except SourceError as error:
            error.source = self._source
            raise
        return open_video(
            address,
            source=self._source,
            config=self._config,
            timeout_seconds=timeout_seconds,
            ledger=self._ledger,
            planes=self._planes,
        )

    def _wait_for_lingering(self, timeout_seconds: float) -> None:
        """Let no more than a few connections wait for FFmpeg at once."""
        deadline = time.monotonic() + timeout_seconds
        while not self._stopping():
            self._lingering = [each for each in self._lingering if not each.ended]
            if len(self._lingering) < _MAX_LINGERING:
                return
            if time.monotonic() > deadline:
                what = "connections from before still wait for the network"
                raise SourceUnreachable(self._said(what), source=self._source)
            self._lingering[0].close(POLL_SECONDS)

    def _said(self, what: str) -> str:
        return f"source {self._source!r}: {self._address.shown}: {what}"


def _silent_since(reader: Reader, moment: float) -> bool:
    return reader.last_packet < (moment + time.monotonic()) / 2
