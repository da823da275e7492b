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
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceConfig
from pipeline.errors import SourceError, SourceLost, SourceUnreachable
from pipeline.health import Condition, Health
from pipeline.sources.addresses import Address
from pipeline.sources.backoff import Backoff
from pipeline.sources.connection import POLL_SECONDS, UNDECODABLE, Connection, Connector
from pipeline.sources.damage import Damage
from pipeline.sources.ffmpeg import Pictures, VideoInput, require_decoder
from pipeline.sources.picture import clockwise_rotation, to_planes, to_rgb
from pipeline.sources.sampling import Sampler
from pipeline.sources.turns import TURNS
from pipeline.stats import Ledger
from pipeline.types import End, EndReason, Frame, Gap, SourceState, YuvPicture

logger = logging.getLogger(__name__)

# After so long with pictures the next loss starts with short pauses again.
STEADY_SECONDS = 10.0
# A live source without a frame for so long, and for so many of its frames, is shown as stalled.
STALL_SECONDS = 1.0
STALL_FRAMES = 3
_INTERVAL_GAIN = 0.5
_NO_TIME_BASE = Fraction(1, 90_000)
_OF_PICTURES: tuple[Condition, ...] = ("undecodable", "damaged", "frozen", "black", "clock", "behind")


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
        self._health = health or Health(sampler.source)
        self._damage = Damage(ledger, self._health)
        self._closing = threading.Event()
        self._state: SourceState = "waiting"
        self._last_picture = 0.0
        self._interval = 0.0
        """Between pictures as they came lately, in seconds."""
        self._backoff = Backoff()
        self._told = ""
        self._was_live = False
        """Whether any connection so far was that of a live source."""
        self._connector = Connector(
            address, config, source=sampler.source, ledger=ledger, stopping=self._stopping, planes=planes
        )

    @property
    def state(self) -> SourceState:
        """Where the source is in its life; may be read by any thread."""
        stalled = self._state == "live" and self.live and self._without_picture() > self._patience()
        return "stalled" if stalled else self._state

    def _without_picture(self) -> float:
        """Seconds since the last picture."""
        return time.monotonic() - self._last_picture

    def _patience(self) -> float:
        """So long without a picture, in seconds, and a live source is stalled."""
        # Not every camera is as fast as it says.
        interval = max(1 / self.fps if self.fps else 0.0, self._interval)
        return max(STALL_SECONDS, STALL_FRAMES * interval)

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
            self._forget_health()

    def _forget_health(self) -> None:
        """What the pictures of a connection told is over with it."""
        for condition in _OF_PICTURES:
            self._health.end(condition)

    def _items(self) -> Iterator[Frame | Gap | End]:
        sampler = self._sampler
        connected = self._connect_first()
        while connected is not None:
            video = connected.video
            opened = time.monotonic()
            fault: SourceError | None = None
            try:
                yield from self._read(connected)
            except SourceError as error:
                fault = error
                if video.live and self._config.reconnect:
                    self._state = "reconnecting"  # before the connection is closed, which may take a second
            finally:
                self._forget_health()
                self._connector.close(connected.reader)
            if sampler.complete:
                yield self._end("max_frames", f"{sampler.num_read} frames were read")
                return
            if self._stopping():
                break
            if not (video.live or self._was_live):
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
        pictures: Pictures | None = connection.pictures
        while pictures is not None:
            after_error = pictures.after_error
            for picture in pictures:
                if self._stopping():
                    return
                yield from self._sample(picture, after_error=after_error)
                after_error = False
                if self._sampler.complete:
                    return
            pictures = self._next(connection)

    def _next(self, connection: Connection) -> Pictures | None:
        """The next pictures; None at the end and when stopped. SourceUnreachable once a live source has
        brought none for too long, whether packets come or not."""
        limit = self._config.read_timeout_seconds
        while not self._stopping():
            pictures = connection.reader.get(POLL_SECONDS)
            without = self._without_picture()
            if pictures:
                self._interval += _INTERVAL_GAIN * (without - self._interval)
                self._last_picture += without
                self._health.end("undecodable")
            if pictures or pictures is None:
                return pictures
            if not connection.video.live or without < min(limit, self._patience()):
                continue
            silent = connection.silent_since(self._last_picture)
            if not silent:
                self._health.begin("undecodable", UNDECODABLE)
            if without >= limit:
                raise self._connector.no_picture(
                    f"for source.read_timeout_seconds = {limit:g}", silent=silent
                )
        return None

    def _sample(self, picture: av.VideoFrame, *, after_error: bool) -> list[Frame | Gap]:
        if self._damage.look(picture, after_error=after_error) and self._config.skip_damaged:
            self._sampler.skip()
            return []
        rotation = clockwise_rotation(picture)
        height, width = picture.height, picture.width

        def convert() -> NDArray[np.uint8] | YuvPicture:
            planes = to_planes(picture) if self._planes and not rotation else None
            return to_rgb(picture, rotation=rotation) if planes is None else planes

        with TURNS:
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
        wait = self._config.wait
        while not self._stopping():
            if wait:
                deadline = time.monotonic() + limit
            try:
                connected = self._connect(deadline)
            except SourceError as error:
                if not self._address.remote or not (wait or isinstance(error, SourceUnreachable)):
                    raise
                if not wait and time.monotonic() >= deadline:
                    raise SourceUnreachable(
                        f"{error}; gave up after source.connect_timeout_seconds = {limit:g} "
                        "(source.wait: true waits without end)",
                        source=error.source,
                    ) from error
                self._tell(error)
                pause = self._backoff.pause_seconds()
                self._pause(pause if wait else min(pause, deadline - time.monotonic()))
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
        if UNDECODABLE in str(fault):
            self._health.begin("undecodable", UNDECODABLE)
        else:
            self._health.end("undecodable")
        new, self._told = str(fault) != self._told, str(fault)
        logger.log(logging.WARNING if new else logging.DEBUG, "%s; trying again", fault)

    def _connect(self, deadline: float) -> Connection | None:
        """Open once and wait for the first picture until `deadline` (monotonic; not for local files); None
        when stopped."""
        connected = self._connector.connect(max(deadline - time.monotonic(), POLL_SECONDS))
        if connected is not None:
            video = connected.video
            # A camera that boots may serve a still picture, which looks like a file.
            self._was_live = self._was_live or video.live
            self.live = self._was_live
            self.fps = self._sampler.clock.fps = video.fps
            self._sampler.clock.live = video.paced
            self._sampler.clock.by_arrival = video.live and video.clockless
            self.num_frames = video.num_frames
            self._damage.restart()
            self._last_picture = time.monotonic()
            self._interval = 0.0
            self._health.end("undecodable")
            self._state = "live"
        return connected

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
            self._stop.wait(min(left, POLL_SECONDS))
