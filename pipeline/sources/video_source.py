"""Everything that FFmpeg reads, from the first opening over reconnects to an orderly end or a fault.

Orderly ends: the file is over (`end_of_file`), stop was set (`stopped`), enough frames were read
(`max_frames`). A live source has no end: when its server closes, that is a loss, and it is opened again for
`reconnect_seconds`. With `reconnect: false` a server that closes in good order is an `end_of_file` (a
recording served over RTSP), and a connection that breaks or falls silent is a SourceLost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceConfig
from pipeline.errors import SourceError, SourceLost, SourceUnreachable, SourceUnreadable
from pipeline.health import Health
from pipeline.sources.addresses import Address
from pipeline.sources.damage import Damage
from pipeline.sources.demo import demo_clip_path
from pipeline.sources.ffmpeg import VideoInput, open_video
from pipeline.sources.picture import clockwise_rotation, to_planes, to_rgb
from pipeline.sources.sampling import Sampler
from pipeline.stats import Ledger
from pipeline.types import End, EndReason, Frame, Gap, SourceState, YuvPicture

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
LAST_RETRY_SECONDS = 5.0
# A connection that lasted so long was a good one: the next loss starts with the short pause again.
GOOD_CONNECTION_SECONDS = 5.0
# A live source without a frame for so long, and for so many of its frames, is shown as stalled.
STALL_SECONDS = 1.0
STALL_FRAMES = 3
_POLL_SECONDS = 0.1
_NO_TIME_BASE = Fraction(1, 90_000)


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
        self._pause_seconds = FIRST_RETRY_SECONDS

    @property
    def state(self) -> SourceState:
        """Where the source is in its life; may be read by any thread."""
        if self._state == "live" and self.live:
            patience = max(STALL_SECONDS, STALL_FRAMES / (self.fps or STALL_FRAMES))
            if time.monotonic() - self._last_picture > patience:
                return "stalled"
        return self._state

    def close(self) -> None:
        """End the iteration at the next frame; may be called twice and from any thread.

        The container is closed by the iterating thread: FFmpeg cannot be interrupted from another one.
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
            video, first = connected
            opened = time.monotonic()
            fault: SourceError | None = None
            try:
                yield from self._read(video, first)
            except SourceError as error:
                fault = error
            finally:
                video.close()
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
            connected = self._connect_again(fault, good=time.monotonic() - opened > GOOD_CONNECTION_SECONDS)
            if connected is not None:
                yield sampler.restart()
        yield self._end("stopped", "on request")

    def _read(self, video: VideoInput, first: list[av.VideoFrame]) -> Iterator[Frame | Gap]:
        """What follows from a connection's pictures, `first` before all others, until it or the source
        ends."""
        for pictures in chain([first], self._until_silent(video)):
            for picture in pictures:
                if self._stopping():
                    return
                yield from self._sample(picture)
                if self._sampler.complete:
                    return

    def _until_silent(self, video: VideoInput) -> Iterator[list[av.VideoFrame]]:
        """Pass on the pictures of each packet; SourceUnreachable once a live source was silent for too long.

        FFmpeg answers its first timeout with the last packet from its parser and would wait a second time.
        """
        limit = self._config.read_timeout_seconds
        packets = iter(video)
        while True:
            asked = time.monotonic()
            pictures = next(packets, None)
            if pictures is None:
                return
            now = time.monotonic()
            if pictures:
                self._last_picture = now
            yield pictures
            if video.live and now - asked >= limit:
                raise SourceUnreachable(
                    f"source {self._sampler.source!r}: {self._address.shown}: silent for "
                    f"source.read_timeout_seconds = {limit:g}",
                    source=self._sampler.source,
                )

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

    def _connect_first(self) -> tuple[VideoInput, list[av.VideoFrame]] | None:
        """Open and wait for the first picture; None when stopped. Only silence is tried again."""
        limit = self._config.connect_timeout_seconds
        deadline = time.monotonic() + limit
        pause = FIRST_RETRY_SECONDS
        told = False
        while not self._stopping():
            if self._config.wait:
                deadline = time.monotonic() + limit
            try:
                return self._connect(deadline)
            except SourceUnreachable as error:
                if not self._address.remote:
                    raise
                if not self._config.wait and time.monotonic() + pause >= deadline:
                    raise SourceUnreachable(
                        f"{error}; gave up after source.connect_timeout_seconds = {limit:g} "
                        "(source.wait: true waits without end)",
                        source=error.source,
                    ) from error
                logger.log(logging.DEBUG if told else logging.WARNING, "%s; trying again", error)
                told = True
            self._pause(pause)
            pause = min(2 * pause, LAST_RETRY_SECONDS)
        return None

    def _connect_again(
        self,
        fault: SourceError | None,
        *,
        good: bool,
    ) -> tuple[VideoInput, list[av.VideoFrame]] | None:
        """Open a lost live source again within `reconnect_seconds`; None when stopped. SourceLost otherwise.

        Any fault is tried again, a wrong path or password too: a camera that boots answers so for a while.
        """
        limit = self._config.reconnect_seconds
        deadline = time.monotonic() + limit
        self._state = "reconnecting"
        logger.warning(
            "source %s lost: %s; opening it again for up to %g s",
            self._sampler.source,
            fault or "the server closed the stream",
            limit,
        )
        self._pause_seconds = FIRST_RETRY_SECONDS if good else self._pause_seconds
        while not self._stopping():
            self._pause(min(self._pause_seconds, max(0.0, deadline - time.monotonic())))
            self._pause_seconds = min(2 * self._pause_seconds, LAST_RETRY_SECONDS)
            if self._stopping():
                break
            attempt = min(deadline, time.monotonic() + self._config.connect_timeout_seconds)
            try:
                connected = self._connect(attempt)
            except SourceError as error:
                fault = error
                if time.monotonic() >= deadline:
                    raise self._lost(f"not back within source.reconnect_seconds = {limit:g}") from fault
                logger.debug("source %s: %s", self._sampler.source, error)
                continue
            if connected is not None:
                self._ledger.count_reconnect()
                logger.info("source %s is back", self._sampler.source)
            return connected
        return None

    def _connect(self, deadline: float) -> tuple[VideoInput, list[av.VideoFrame]] | None:
        """Open once and wait for the first picture until `deadline` (monotonic; not for local files)."""
        address = self._address
        if address.kind == "demo":
            address = replace(address, kind="file", target=str(self._demo_clip()))
        timeout_seconds = max(deadline - time.monotonic(), _POLL_SECONDS)
        video = open_video(
            address,
            source=self._sampler.source,
            config=self._config,
            timeout_seconds=timeout_seconds,
            ledger=self._ledger,
            planes=self._planes,
        )
        try:
            for pictures in video:
                if self._stopping():
                    video.close()
                    return None
                if pictures:
                    self._opened(video)
                    return video, pictures
                if video.live and time.monotonic() > deadline:
                    break
        except BaseException:
            video.close()
            raise
        video.close()
        name = f"source {self._sampler.source!r}: {address.shown}"
        if video.live:
            raise SourceUnreachable(
                f"{name}: answers, but sends no picture that can be decoded", source=self._sampler.source
            )
        raise SourceUnreadable(
            f"{name}: not one picture can be decoded; is the file complete?", source=self._sampler.source
        )

    def _demo_clip(self) -> Path:
        try:
            return demo_clip_path()
        except SourceError as error:
            error.source = self._sampler.source
            raise

    def _opened(self, video: VideoInput) -> None:
        self.live = video.live
        self.fps = self._sampler.clock.fps = video.fps
        self._sampler.clock.live = video.live
        self.num_frames = video.num_frames
        self._last_picture = time.monotonic()
        self._damage.restart()
        self._state = "live"

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
