"""Decoded pictures → Frame and Gap, in order: stream time, cadence, counting; shared by all kinds of source.

Conversion to RGB is the expensive part, so a picture comes here as a function that converts it, called only
for frames that are kept; or that gives out its planes, which are converted where RGB is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from model.cues.cut import ShotDetector
from pipeline.errors import SourceUnreadable
from pipeline.sources.cadence import Cadence
from pipeline.sources.clock import ClockWatch
from pipeline.stats import Ledger
from pipeline.types import MAX_SIDE, Frame, Gap, YuvPicture

logger = logging.getLogger(__name__)

# Steps back up to here are jitter of the clock (RTCP corrections); beyond, another recording begins.
MAX_BACKWARDS_SECONDS = 0.5
# Steps forward from here on are a hole in the recording: at least so many seconds and so many frames.
MIN_FORWARD_SECONDS = 5.0
MIN_FORWARD_FRAMES = 10
ASSUMED_FPS = 25.0


class PictureError(ValueError):
    """A picture that the decoder gave out, but that cannot be converted to RGB; names the picture."""


def size_fault(height: int, width: int) -> str:
    """Say what is wrong with a picture's size, "" where nothing is."""
    if max(height, width) <= MAX_SIDE:
        return ""
    return f"pictures of {width}x{height} are too large: at most {MAX_SIDE} pixels a side, scale them first"


def _looked_at(picture: NDArray[np.uint8] | YuvPicture) -> NDArray[np.uint8]:
    """What the detector of shots looks at: RGB, or the luma of planes."""
    return picture.planes[0] if isinstance(picture, YuvPicture) else picture


class Sampler:
    """Turns the pictures of one source into frames and gaps.

    Times are the source's own (PTS). Where a paced source's clock is found to be wrong (`clock`), a Gap comes
    and arrival counts from there on.

    Invariant: frames added = frames returned + dropped "cadence" + dropped "decode". With `cuts` a frame
    that begins another shot comes behind a Gap, so that nothing is carried over a cut.
    """

    def __init__(
        self,
        source: str,
        *,
        cadence: Cadence,
        ledger: Ledger,
        max_frames: int | None = None,
        hold: bool = False,
        cuts: bool = True,
    ) -> None:
        self.source = source
        self.epoch = 0
        self.num_read = 0
        self.num_kept = 0
        self.fps: float | None = None
        """Nominal frames a second; times are estimated with it where a frame has no PTS."""
        self.paced = False
        """Whether pictures come as the camera takes them, so that its clock can be held against arrival."""
        self.clock_fault = ""
        """What is wrong with the source's clock; from then on arrival counts, until it is opened again."""
        self._cadence = cadence
        self._ledger = ledger
        self._max_frames = max_frames
        self._hold = hold
        self._size: tuple[int, int] | None = None
        self._seconds: float | None = None
        self._pts_known = False
        self._clock = ClockWatch()
        self._arrival = 0.0
        """When the frame before arrived, in monotonic seconds."""
        self._num_unreadable = 0
        self._shots = ShotDetector() if cuts else None

    @property
    def complete(self) -> bool:
        """Whether `max_frames` frames were read."""
        return self._max_frames is not None and self.num_read >= self._max_frames

    def restart(self) -> Gap:
        """Begin the next epoch: the source was opened again, its clock may begin anywhere."""
        self.epoch += 1
        self._seconds = None
        self._pts_known = False
        self._clock = ClockWatch()
        self.clock_fault = ""
        self._size = None
        self._cadence.reset()
        if self._shots is not None:
            self._shots.reset()
        return Gap(self.source, self.epoch, "reconnect")

    def add(
        self,
        convert: Callable[[], NDArray[np.uint8] | YuvPicture],
        *,
        pts: int | None,
        time_base: Fraction,
        size: tuple[int, int] | None = None,
        rotation: int = 0,
    ) -> list[Frame | Gap]:
        """Count one decoded picture and return what follows from it: a Gap, a Frame, both or nothing.

        `convert` returns (H, W, 3) uint8 RGB, rotation applied, or planes, or raises PictureError; `size` is
        its (H, W) where known before, so that a change is seen on frames that are not kept too. Pictures that
        are too large for the mask stream are left out; SourceUnreadable where the source begins with one.
        """
        captured_ns, captured_monotonic_ns = time.time_ns(), time.monotonic_ns()
        index = self.num_read
        self.num_read += 1
        self._ledger.count_read()
        arrival = captured_monotonic_ns / 1e9
        seconds, jumped = self._time(pts, time_base, arrival)
        items: list[Frame | Gap] = []
        if jumped:
            items.append(Gap(self.source, self.epoch, "discontinuity"))
            self._cadence.reset()
        if size is not None and self._resized(size):
            items.append(Gap(self.source, self.epoch, "resolution"))
        sampled = self._cadence.take(seconds)
        picture = None
        if sampled or self._hold:
            picture = self._convert(convert, index)
        else:
            self._ledger.count_dropped("cadence")
        if picture is not None and size is None and self._resized(_looked_at(picture).shape[:2]):
            items.append(Gap(self.source, self.epoch, "resolution"))
        if items and self._shots is not None:
            self._shots.reset()
        if picture is None:
            return items
        if self._shots is not None and self._shots.update(_looked_at(picture)):
            items.append(Gap(self.source, self.epoch, "cut"))
        self.num_kept += 1
        items.append(
            Frame(
                source=self.source,
                epoch=self.epoch,
                index=index,
                pts=pts,
                time_base=time_base,
                seconds=seconds,
                captured_ns=captured_ns,
                captured_monotonic_ns=captured_monotonic_ns,
                picture=picture,
                rotation=rotation,
                sampled=sampled,
            )
        )
        return items

    def _convert(
        self, convert: Callable[[], NDArray[np.uint8] | YuvPicture], index: int
    ) -> NDArray[np.uint8] | YuvPicture | None:
        """The picture of a frame; None, counted and told, where it cannot be made or is too large."""
        fault = ""
        try:
            picture = convert()
            if fault := size_fault(*_looked_at(picture).shape[:2]):
                raise PictureError(fault)
            return picture
        except PictureError as error:
            self._ledger.count_dropped("decode")
            if fault and not self.num_kept:
                raise SourceUnreadable(f"source {self.source!r}: {fault}", source=self.source) from None
            self._num_unreadable += 1
            # The first says what is wrong; a stream of them must not fill the log.
            logger.log(
                logging.WARNING if self._num_unreadable == 1 else logging.DEBUG,
                "source %s: frame %d left out: %s",
                self.source,
                index,
                error,
            )
            return None

    def _stream_time(self, pts: int | None, time_base: Fraction) -> tuple[float, bool]:
        """Return the frame's stream time (seconds, never decreasing without a jump) and whether it jumped."""
        period = 1.0 / (self.fps or ASSUMED_FPS)
        if self._seconds is None:
            seconds, jumped = (0.0 if pts is None else float(pts * time_base)), False
        elif pts is None:
            seconds, jumped = self._seconds + period, False
        else:
            seconds = float(pts * time_base)
            step = seconds - self._seconds
            jumped = step < -MAX_BACKWARDS_SECONDS or step > self._hole()
            if jumped and not self._pts_known:
                # The frames before had no PTS (usual after joining a live stream): their times were guessed
                # from 0, so this is no hole, only the first true time.
                jumped = False
                self._cadence.reset()
            elif not jumped:
                seconds = max(seconds, self._seconds)
        self._pts_known = self._pts_known or pts is not None
        self._seconds = seconds
        return seconds, jumped

    def _time(self, pts: int | None, time_base: Fraction, arrival: float) -> tuple[float, bool]:
        """Return the frame's time (seconds) by the clock that counts, and whether that jumped or is new."""
        before, self._arrival = self._arrival, arrival
        if self.clock_fault:
            self._seconds = (self._seconds or 0.0) + arrival - before
            return self._seconds, False
        seconds, jumped = self._stream_time(pts, time_base)
        if self.paced:
            told = seconds if pts is None else float(pts * time_base)
            self.clock_fault = self._clock.update(told, arrival, hole=self._hole())
        return seconds, jumped or bool(self.clock_fault)

    def _hole(self) -> float:
        """Steps forward from here on (seconds) are a hole in the recording."""
        return max(MIN_FORWARD_SECONDS, MIN_FORWARD_FRAMES / (self.fps or ASSUMED_FPS))

    def _resized(self, size: tuple[int, ...]) -> bool:
        before, self._size = self._size, (size[0], size[1])
        return before is not None and before != self._size
