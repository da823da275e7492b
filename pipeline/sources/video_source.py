"""Everything that FFmpeg reads, from the first opening over reconnects to an orderly end or a fault.

Orderly ends: the file is over (`end_of_file`), stop was set (`stopped`), enough frames were read
(`max_frames`). A live source has no end: when its server closes, that is a loss, and it is opened again, for
ever or for `reconnect_seconds`. So it is when no picture has come for `read_timeout_seconds`, whether it is
silent or sends packets that hold none. With `reconnect: false` a server that closes in good order is an
`end_of_file` (a recording served over RTSP), and a connection that breaks or falls silent is a SourceLost.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceConfig
from pipeline.errors import SourceError, SourceLost, SourceUnreachable, SourceUnreadable
from pipeline.health import Health
from pipeline.sources.addresses import Address
from pipeline.sources.backoff import Backoff
from pipeline.sources.damage import Damage
from pipeline.sources.demo import demo_clip_path
from pipeline.sources.ffmpeg import VideoInput, open_video, require_decoder
from pipeline.sources.picture import clockwise_rotation, to_planes, to_rgb
from pipeline.sources.reader import Reader
from pipeline.sources.sampling import Sampler
from pipeline.stats import Ledger
from pipeline.types import End, EndReason, Frame, Gap, SourceState, YuvPicture

logger = logging.getLogger(__name__)

# After so long with pictures the next loss starts with short pauses again.
STEADY_SECONDS = 10.0
# A live source without a frame for so long, and for so many of its frames, is shown as stalled.
STALL_SECONDS = 1.0
STALL_FRAMES = 3
_INTERVAL_GAIN = 0.5
_POLL_SECONDS = 0.1
# FFmpeg's own timeouts say more about a fault, so they come first.
_GRACE_SECONDS = 0.5
# A connection that is closed may take so long before it is left to itself; a stop waits for that.
_CLOSE_SECONDS = 1.0
# Connections that were left to themselves and still wait for FFmpeg, at most, before another is opened.
_MAX_LINGERING = 3
_NO_TIME_BASE = Fraction(1, 90_000)


class Connection(NamedTuple):
    """What was opened, and its first pictures."""

    reader: Reader
    video: VideoInput
    pictures: list[av.VideoFrame]


class VideoSource:
    """Everything that FFmpeg reads: one container after another until an orderly end or a final fault."""

    def __init__(
        self,
        address: Address,
        config: SourceConfig,
        *,
        sampler: Sampler,
        ledger: Ledger,
        stop: threading.Event,
        planes: bool = False,
        health: Health | None = None,
    ) -> None:
        self.live = address.kind in ("rtsp", "device")
        self.fps: float | None = None
        self.num_frames: int | None = None
        self._address = address
        self._config = config
        self._sampler = sampler
        self._ledger = ledger
        self._stop = stop
        self._planes = planes
        self._damage = Damage(ledger, health or Health(sampler.source))
        self._closing = threading.Event()
        self._state: SourceState = "waiting"
        self._last_picture = 0.0
        self._interval = 0.0
        """Between pictures as they came lately, in seconds."""
        self._backoff = Backoff()
        self._told = ""
        self._was_silent = False
        """Whether no picture came for `read_timeout_seconds`."""
        self._lingering: list[Reader] = []

    @property
    def state(self) -> SourceState:
        """Where the source is in its life; may be read by any thread."""
        if self._state == "live" and self.live:
            # Not every camera is as fast as it says.
            interval = max(1 / self.fps if self.fps else 0.0, self._interval)
            patience = max(STALL_SECONDS, STALL_FRAMES * interval)
            if time.monotonic() - self._last_picture > patience:
                return "stalled"
        return self._state

    def close(self) -> None:
        """End the iteration at the next frame; may be called twice and from any thread.

        FFmpeg cannot be interrupted: a connection that waits for the network is left to itself (`reader`).
        """
        self._closing.set()

    def __iter__(self) -> Iterator[Frame | Gap | End]:
        try:
            yield from self._items()
        finally:
            self._state = "ended"

    def _items(self) -> Iterator[Frame | Gap | End]:
        sampler = self._sampler
        connected = self._connect_first()
        while connected is not None:
            reader, video, _ = connected
            opened = time.monotonic()
            fault: SourceError | None = None
            try:
                yield from self._read(connected)
            except SourceError as error:
                fault = error
            finally:
                self._close(reader)
            if sampler.complete:
                yield self._end("max_frames", f"{sampler.num_read} frames were read")
                return
            if self._stopping():
                break
            if not video.live:
                yield self._file_end(video, fault)
                return
            if not self._config.reconnect:
                if fault is None:
                    yield self._end("end_of_file", "the server closed the stream; source.reconnect is false")
                    return
                raise self._lost("the connection broke and source.reconnect is false") from fault
            if self._last_picture - opened >= STEADY_SECONDS:
                self._backoff.reset()
            connected = self._connect_again(fault)
            if connected is not None:
                yield sampler.restart()
        yield self._end("stopped", "on request")

    def _read(self, connection: Connection) -> Iterator[Frame | Gap]:
        """What follows from a connection's pictures, until it or the source ends."""
        reader, video, first = connection
        pictures: list[av.VideoFrame] | None = first
        while pictures is not None:
            for picture in pictures:
                if self._stopping():
                    return
                yield from self._sample(picture)
                if self._sampler.complete:
                    return
            pictures = self._next(reader, live=video.live)

    def _next(self, reader: Reader, *, live: bool) -> list[av.VideoFrame] | None:
        """The next pictures; None at the end and when stopped; SourceUnreachable once a live source has
        brought none for too long."""
        limit = self._config.read_timeout_seconds
        while not self._stopping():
            # FFmpeg answers its first timeout with the last packet from its parser, and would wait once more.
            pictures = [] if self._was_silent else reader.get(_POLL_SECONDS)
            now = time.monotonic()
            self._was_silent = self._was_silent or (live and now - self._last_picture >= limit)
            if pictures:
                self._interval += _INTERVAL_GAIN * (now - self._last_picture - self._interval)
                self._last_picture = now
            if pictures or pictures is None:
                return pictures
            if self._was_silent:
                raise self._no_picture(
                    f"for source.read_timeout_seconds = {limit:g}",
                    silent=self._is_silent(reader, self._last_picture),
                )
        return None

    def _sample(self, picture: av.VideoFrame) -> list[Frame | Gap]:
        if self._damage.look(picture) and self._config.skip_damaged:
            self._sampler.skip()
            return []
        rotation = clockwise_rotation(picture)
        height, width = picture.height, picture.width

        def convert() -> NDArray[np.uint8] | YuvPicture:
            planes = to_planes(picture) if self._planes and not rotation else None
            return to_rgb(picture, rotation=rotation) if planes is None else planes

        return self._sampler.add(
            convert,
            pts=picture.pts,
            time_base=picture.time_base or _NO_TIME_BASE,
            size=(height, width) if rotation in (0, 180) else (width, height),
            rotation=rotation,
            damaged=self._damage.holds,
        )

    def _connect_first(self) -> Connection | None:
        """Open and wait for the first picture; None when stopped. Silence of a remote source is tried again
        for a while, with `wait` every fault of it, and for ever: a camera that boots answers anything."""
        require_decoder(self._address, self._config, source=self._sampler.source)
        limit = self._config.connect_timeout_seconds
        deadline = time.monotonic() + limit
        while not self._stopping():
            if self._config.wait:
                deadline = time.monotonic() + limit
            pause = self._backoff.pause_seconds()
            try:
                connected = self._connect(deadline)
            except SourceError as error:
                wait = self._config.wait and self._address.remote
                if not wait and not (isinstance(error, SourceUnreachable) and self._address.remote):
                    raise
                if not wait and time.monotonic() + pause >= deadline:
                    raise SourceUnreachable(
                        f"{error}; gave up after source.connect_timeout_seconds = {limit:g} "
                        "(source.wait: true waits without end)",
                        source=error.source,
                    ) from error
                self._tell(error)
                self._pause(pause)
            else:
                self._backoff.reset()
                return connected
        return None

    def _connect_again(self, fault: SourceError | None) -> Connection | None:
        """Open a lost live source again, for ever or within `reconnect_seconds` (SourceLost after it); None
        when stopped.

        Any fault is tried again, a wrong path or password too: a camera that boots answers so for a while.
        """
        limit = self._config.reconnect_seconds
        deadline = math.inf if limit is None else time.monotonic() + limit
        self._state = "reconnecting"
        logger.warning(
            "source %s lost: %s; opening it again %s",
            self._sampler.source,
            fault or "the server closed the stream",
            "until it is back" if limit is None else f"for up to {limit:g} s",
        )
        self._told = str(fault)
        while not self._stopping():
            self._pause(min(self._backoff.pause_seconds(), max(0.0, deadline - time.monotonic())))
            if self._stopping():
                break
            attempt = min(deadline, time.monotonic() + self._config.connect_timeout_seconds)
            try:
                connected = self._connect(attempt)
            except SourceError as error:
                if time.monotonic() >= deadline:
                    raise self._lost(f"not back within source.reconnect_seconds = {limit:g}") from error
                self._tell(error)
                continue
            if connected is not None:
                self._ledger.count_reconnect()
                logger.info("source %s is back", self._sampler.source)
            return connected
        return None

    def _tell(self, fault: SourceError) -> None:
        """Log why an attempt failed: aloud when it is something new."""
        new, self._told = str(fault) != self._told, str(fault)
        logger.log(logging.WARNING if new else logging.DEBUG, "%s; trying again", fault)

    def _connect(self, deadline: float) -> Connection | None:
        """Open once and wait for the first picture until `deadline` (monotonic; not for local files); None
        when stopped."""
        self._wait_for_lingering()
        timeout_seconds = max(deadline - time.monotonic(), _POLL_SECONDS)
        reader = Reader(partial(self._open, timeout_seconds), source=self._sampler.source)
        try:
            pictures = self._first(reader, timeout_seconds)
        except BaseException:
            self._close(reader)
            raise
        video = reader.video
        if not pictures or video is None:
            self._close(reader)
            return None
        self.live = video.live
        self.fps = self._sampler.clock.fps = video.fps
        self._sampler.clock.live = video.live
        self.num_frames = video.num_frames
        self._damage.restart()
        self._last_picture = time.monotonic()
        self._interval = 0.0
        self._was_silent = False
        self._state = "live"
        return Connection(reader, video, pictures)

    def _first(self, reader: Reader, timeout_seconds: float) -> list[av.VideoFrame]:
        """A connection's first pictures; none when stopped."""
        begun = time.monotonic()
        while not self._stopping():
            pictures = reader.get(_POLL_SECONDS)
            if pictures:
                return pictures
            video = reader.video
            live = self.live or self._address.remote if video is None else video.live
            if pictures is None and not live:
                raise SourceUnreadable(
                    f"source {self._sampler.source!r}: {self._address.shown}: not one picture can be "
                    "decoded; is the file complete?",
                    source=self._sampler.source,
                )
            grace = _GRACE_SECONDS if video is None else 0.0
            if live and (pictures is None or time.monotonic() - begun > timeout_seconds + grace):
                silent = pictures is not None and self._is_silent(reader, begun)
                raise self._no_picture(f"for {timeout_seconds:.3g} s", silent=silent)
        return []

    def _open(self, timeout_seconds: float) -> VideoInput:
        """Open it; in the reader's thread."""
        address = self._address
        if address.kind == "demo":
            address = replace(address, kind="file", target=str(self._demo_clip()))
        return open_video(
            address,
            source=self._sampler.source,
            config=self._config,
            timeout_seconds=timeout_seconds,
            ledger=self._ledger,
            planes=self._planes,
        )

    def _is_silent(self, reader: Reader, since: float) -> bool:
        """Whether not even packets have come lately, looked at from a moment without a picture since."""
        return reader.last_packet < (since + time.monotonic()) / 2

    def _no_picture(self, how_long: str, *, silent: bool) -> SourceUnreachable:
        what = f"silent {how_long}"
        if not silent:
            what = (
                f"answers, but sends no picture that can be decoded {how_long}; check what it encodes "
                "(H.264, H.265) and how often it sends key frames"
            )
        return SourceUnreachable(
            f"source {self._sampler.source!r}: {self._address.shown}: {what}", source=self._sampler.source
        )

    def _close(self, reader: Reader) -> None:
        """Close a connection; where FFmpeg does not return, it closes itself when it does."""
        reader.close(_CLOSE_SECONDS)
        if not reader.ended:
            logger.debug("source %s: FFmpeg does not return yet; it closes on its own", self._sampler.source)
            self._lingering.append(reader)

    def _wait_for_lingering(self) -> None:
        """Let no more than a few connections wait for FFmpeg at once."""
        while not self._stopping():
            self._lingering = [each for each in self._lingering if not each.ended]
            if len(self._lingering) < _MAX_LINGERING:
                return
            self._pause(_POLL_SECONDS)

    def _demo_clip(self) -> Path:
        try:
            return demo_clip_path()
        except SourceError as error:
            error.source = self._sampler.source
            raise

    def _file_end(self, video: VideoInput, fault: SourceError | None) -> End:
        """End a source that is finite; what is missing is said, and raised where the network took it."""
        num_read = self._sampler.num_read
        if fault is not None and self._address.remote:
            raise self._lost("the connection broke before the end of the file") from fault
        detail = f"all {num_read} frames were read"
        if fault is not None or not video.complete:
            detail = f"the file breaks off after {num_read} frames; is it complete?"
            logger.warning("source %s: %s", self._sampler.source, detail)
        return self._end("end_of_file", detail)

    def _lost(self, what: str) -> SourceLost:
        source = self._sampler.source
        return SourceLost(
            f"source {source!r}: {self._address.shown}: lost after {self._sampler.num_read} "
            f"frames: {what}; check camera and network",
            source=source,
        )

    def _end(self, reason: EndReason, detail: str) -> End:
        return End(self._sampler.source, self._sampler.epoch, reason, detail)

    def _stopping(self) -> bool:
        return self._stop.is_set() or self._closing.is_set()

    def _pause(self, seconds: float) -> None:
        """Wait, but not beyond a stop."""
        end = time.monotonic() + seconds
        while not self._stopping() and (left := end - time.monotonic()) > 0:
            self._stop.wait(min(left, _POLL_SECONDS))
