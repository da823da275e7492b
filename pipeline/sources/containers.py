"""What containers say of their video, and how far they can be believed. Ours.

A file may hold several pictures of a film (a cover, a small preview, other sizes), tell decoding times where
presentation times belong, or count frames that are not there; a camera over HTTP may have no clock at all.
"""

from __future__ import annotations

import contextlib
from collections import deque
from fractions import Fraction

import av
import av.container
from av.stream import Discard, Disposition

_DECODING_TIMES = ("avi",)
"""Formats whose packets tell when they are decoded, as times of presentation."""
_CLOCKLESS = ("mjpeg", "mpjpeg", "image2", "image2pipe", "jpeg_pipe", "h264", "hevc")
"""Formats without times: FFmpeg counts pictures, at 25 a second where nothing else is said."""
_SHORT_SECONDS, _SHORT_SHARE = 0.5, 0.02
"""What a film may be shorter than its container says."""


def best_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """The film among the video streams: none that is a cover; the one that is flagged as default, and of
    those (HLS has many) the largest. All others are left out of what is read."""
    films = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not films:
        return None
    flagged = [stream for stream in films if stream.disposition & Disposition.default] or films
    best = max(flagged, key=lambda stream: (stream.height * stream.width, -stream.index))
    for stream in container.streams:
        if stream is not best and stream.index != best.index:
            # Of an adaptive stream nothing is fetched, then.
            with contextlib.suppress(AttributeError, NotImplementedError):
                stream.discard = Discard.all
    return best


def is_clockless(container: av.container.InputContainer) -> bool:
    """Whether its times are FFmpeg's invention."""
    return container.format.name in _CLOCKLESS


class PresentationTimes:
    """Times of pictures where packets tell those of decoding: the n-th picture has the n-th packet's."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self._wanted = container.format.name in _DECODING_TIMES
        self._waiting: deque[int] = deque()

    def packet(self, pts: int | None) -> None:
        """Take the next packet with a picture."""
        if self._wanted and pts is not None:
            self._waiting.append(pts)

    def lost(self) -> None:
        """A packet gave no picture."""
        if self._waiting:
            self._waiting.popleft()

    def correct(self, pictures: list[av.VideoFrame]) -> list[av.VideoFrame]:
        """Put the pictures' times right."""
        if self._wanted:
            for picture in pictures:
                if self._waiting:
                    picture.pts = self._waiting.popleft()
        return pictures


class Extent:
    """Whether a file was read to its end: as many packets as it declares, or as long as it says."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        # Asked now: a closed container's memory is another's.
        self.num_declared = stream.frames
        self._seconds = _declared_seconds(container, stream)
        self._time_base = stream.time_base or Fraction(1, av.time_base)
        self._begin: Fraction | None = None
        self._end = Fraction(0)
        self._num_packets = 0

    def packet(self, pts: int | None, duration: int | None) -> None:
        """Take the next packet with a picture."""
        self._num_packets += 1
        if pts is not None:
            begin = pts * self._time_base
            self._begin = begin if self._begin is None else min(self._begin, begin)
            self._end = max(self._end, begin + (duration or 0) * self._time_base)

    @property
    def complete(self) -> bool:
        """True where the container says nothing."""
        if self.num_declared and self._num_packets >= self.num_declared:
            return True
        if self._seconds is None or self._begin is None:
            return not self.num_declared
        short = self._seconds - float(self._end - min(self._begin, Fraction(0)))
        return short <= max(_SHORT_SECONDS, _SHORT_SHARE * self._seconds)


def _declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the video is by its container; None where that is not said of the video itself."""
    if stream.frames:
        # An AVI counts places, some of them empty. Of one that is cut FFmpeg guesses the duration.
        rate = stream.average_rate if container.format.name in _DECODING_TIMES else None
        return float(stream.frames / rate) if rate else None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    told = stream.metadata.get("DURATION", "").split(":")  # Matroska's, of each track
    if len(told) == 3:
        with contextlib.suppress(ValueError):
            return 3600 * float(told[0]) + 60 * float(told[1]) + float(told[2])
    # Of a transport stream FFmpeg finds the duration in the file itself, so it always fits.
    alone = len(container.streams) == 1 and "mpegts" not in container.format.name
    return container.duration / av.time_base if alone and container.duration else None
