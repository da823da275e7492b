"""Decoded pictures → Frame and Gap, in order: stream time, cadence, counting; shared by all kinds of source.

Conversion to RGB is the expensive part, so a picture comes here as a function that converts it, called only
for frames that are kept; or that gives out its planes, which are converted where RGB is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cues.cut import ShotDetector
from pipeline.errors import SourceUnreadable
from pipeline.health import Health
from pipeline.sources.cadence import Cadence
from pipeline.sources.clock import StreamClock
from pipeline.sources.picture_watch import PictureWatch
from pipeline.stats import Ledger
from pipeline.types import MAX_PIXELS, MAX_SIDE, Frame, Gap, YuvPicture

logger = logging.getLogger(__name__)


class PictureError(ValueError):
    """A picture that the decoder gave out, but that cannot be converted to RGB; names the picture."""


def size_fault(height: int, width: int) -> str:
    """Say what is wrong with a picture's size, "" where nothing is."""
    if max(height, width) <= MAX_SIDE and height * width <= MAX_PIXELS:
        return ""
    return (
        f"pictures of {width}x{height} are too large: at most {MAX_SIDE} pixels a side and {MAX_PIXELS} "
        "in all, scale them first"
    )


def _looked_at(picture: NDArray[np.uint8] | YuvPicture) -> Any:
    """What the detector of shots looks at: RGB, or the luma of planes, perhaps on a GPU."""
    return picture.planes[0] if isinstance(picture, YuvPicture) else picture


class Sampler:
    """Turns the pictures of one source into frames and gaps.

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
        health: Health | None = None,
        frozen_seconds: float | None = None,
    ) -> None:
        self.source = source
        self.epoch = 0
        self.num_read = 0
        self.num_kept = 0
        self.clock = StreamClock()
        self._cadence = cadence
        self._ledger = ledger
        self._max_frames = max_frames
        self._hold = hold
        self._size: tuple[int, int] | None = None
        self._num_unreadable = 0
        self._health = health or Health(source)
        self._watch = PictureWatch(self._health, patience_seconds=frozen_seconds) if frozen_seconds else None
        self._shots = ShotDetector() if cuts else None

    @property
    def complete(self) -> bool:
        """Whether `max_frames` frames were read."""
        return self._max_frames is not None and self.num_read >= self._max_frames

    def restart(self) -> Gap:
        """Begin the next epoch: the source was opened again, its clock may begin anywhere."""
        self.epoch += 1
        self.clock.restart()
        self._health.end("clock")
        if self._watch is not None:
            self._watch.restart()
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
        damaged: bool = False,
    ) -> list[Frame | Gap]:
        """Count one decoded picture and return what follows from it: a Gap, a Frame, both or nothing.

        `convert` returns (H, W, 3) uint8 RGB, rotation applied, or planes, or raises PictureError; `size` is
        its (H, W) where known before, so that a change is seen on frames that are not kept too. Pictures that
        are too large for the mask stream are left out; SourceUnreadable where the source begins with one.
        `damaged` is passed on.
        """
        captured_ns, captured_monotonic_ns = time.time_ns(), time.monotonic_ns()
        index = self.num_read
        self.num_read += 1
        self._ledger.count_read()
        believed = not self.clock.fault
        seconds, jumped = self.clock.time(pts, time_base, arrived=captured_monotonic_ns / 1e9)
        if self.clock.fault and believed:
            text = f"the camera's clock is wrong, {self.clock.fault}: times are those of arrival from now on"
            self._health.begin("clock", text)
            self._cadence.reset()
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
        if self._watch is not None and self.clock.live:
            self._watch.look(_looked_at(picture))
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
                damaged=damaged,
            )
        )
        return items

    def skip(self) -> None:
        """Count a decoded picture that is left out because it is damaged."""
        self.num_read += 1
        self._ledger.count_read()
        self._ledger.count_dropped("decode")

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

    def _resized(self, size: tuple[int, ...]) -> bool:
        before, self._size = self._size, (size[0], size[1])
        return before is not None and before != self._size
