"""One mp4 file of a recording while it grows: H.264, variable frame rate, a fragment a second.

While it grows the file is a fragmented mp4 next to its final name (`x.partial.mp4` for `x.mp4`): a killed
process leaves a file that plays. Finishing turns it into a plain mp4 (FFmpeg's `hybrid_fragmented`) and
renames it.

H, W picture; colours are RGB in, BT.709 limited-range yuv420p in the file.
"""

from __future__ import annotations

import errno
import logging
import os
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.file_lock import FileLock
from pipeline.sinks.fragments import count_frames

logger = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)
FAULTS = (av.error.FFmpegError, OSError)
"""What the encoder, the muxer and the system raise."""
_BT709 = 1  # the number for matrix, primaries and transfer alike (ITU-T H.273)


class Mp4:
    """A file that is being written; the one who made it calls `finish` or `abandon`.

    `lock` is the right to write to `partial_of(path)`; it is released at the end. The file begins at
    `begins_at`, in seconds of the recording, with a key frame. All methods raise what is in FAULTS.
    """

    def __init__(
        self, path: Path, lock: FileLock, config: RecordConfig, *, height: int, width: int, begins_at: float
    ) -> None:
        self.path = path
        self.partial = partial_of(path)
        self.begins_at = begins_at
        self.num_frames = 0
        """Frames that were given to it."""
        self.seconds = 0.0
        """Time of its last frame, from its first one."""
        self.finished = False
        """Whether it is whole and has its name."""
        self._lock = lock
        self._last_pts = -1
        self._num_muxed = 0
        self._bytes_muxed = 0
        self._closing = self._closed = False
        # A fragment a second, written out at once: that much is lost at most when the process is killed.
        self._container = av.open(
            str(self.partial),
            "w",
            format="mp4",
            options={"movflags": "hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
        )
        try:
            self._stream = self._container.add_stream("libx264", options=_encoder_options(config))
            self._stream.height, self._stream.width = height + height % 2, width + width % 2
            _set_up(self._stream.codec_context)
            self._stream.time_base = TIME_BASE
            self._container.start_encoding()  # writes the head: a full disk is found out now
        except BaseException:
            self.abandon()
            raise

    @property
    def expected_bytes(self) -> float:
        """About the size that the file would have if it were finished now."""
        waiting = self.num_frames - self._num_muxed
        return self._bytes_muxed * (1 + waiting / max(1, self._num_muxed))

    @property
    def is_there(self) -> bool:
        """Whether the file still stands under its name; nobody has removed or moved it, or its folder."""
        return self._lock.is_there

    def write(self, picture: NDArray[np.uint8], at: float) -> None:
        """Encode a picture (H, W, 3) RGB that stands `at` so many seconds of the recording."""
        fitted = _fit(picture, self._stream.height, self._stream.width)
        frame = av.VideoFrame.from_ndarray(fitted, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._last_pts = max(self._last_pts + 1, round((at - self.begins_at) / TIME_BASE))
        frame.pts, frame.time_base = self._last_pts, TIME_BASE
        self._mux(frame)
        self.num_frames += 1
        self.seconds = float(self._last_pts * TIME_BASE)

    def finish(self) -> None:
        """Write what the encoder holds, close the file and give it its name."""
        self._mux(None)
        self._close()
        os.replace(self.partial, self.path)
        self.finished = True
        self._lock.release()

    def abandon(self) -> int:
        """Close the file after a fault, never raises; return how many of its frames stand in a file now.

        Where the disk lets it, the file is finished all the same. Else it stays as the partial file, if
        there is a whole fragment in it.
        """
        for step in (partial(self._mux, None), self._close):
            try:
                step()
            except FAULTS as error:
                logger.debug("%s: closing after a fault: %s", self.partial, reason_of(error))
        kept = 0
        try:
            if not self.is_there:
                kept = self._num_muxed if self._closed and self._lock.is_named else 0
            elif not self._closed:
                kept = self._keep_fragments()
            elif self._num_muxed == 0:
                self.partial.unlink()
            else:
                kept = self._num_muxed
                os.replace(self.partial, self.path)
                self.finished = True
        except OSError as error:
            logger.warning("%s: what is left of it stays there: %s", self.partial, reason_of(error))
        self._lock.release()
        return kept

    def _keep_fragments(self) -> int:
        """Return the frames of the whole fragments in the partial file; without any it goes."""
        kept = count_frames(self.partial)
        if kept == 0:
            self.partial.unlink()
        return kept

    def _close(self) -> None:
        """Close the container; a second call after a fault would say that all is well."""
        if self._closing and not self._closed:
            raise OSError(errno.EIO, "it could not be closed")
        self._closing = True
        self._container.close()
        self._closed = True

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
            self._num_muxed += 1
            self._bytes_muxed += packet.size


def partial_of(path: Path) -> Path:
    """Return the name under which a file grows."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def reason_of(error: Exception) -> str:
    """Return what the system says about a fault."""
    return getattr(error, "strerror", None) or str(error)


def remedy_of(error: Exception) -> str:
    """Return what to do about a fault of a disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or record to another disk"
    return "check the disk, or record elsewhere"


def _fit(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the picture as (height, width, 3): edges repeated by one pixel, or scaled between black bars."""
    have_height, have_width = picture.shape[:2]
    missing = (height - have_height, width - have_width)
    if missing == (0, 0):
        return picture
    if missing in {(0, 1), (1, 0), (1, 1)}:
        return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    scale = min(height / have_height, width / have_width)
    new_height, new_width = max(1, round(have_height * scale)), max(1, round(have_width * scale))
    scaled = cv2.resize(
        picture, (new_width, new_height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    fitted = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    fitted[top : top + new_height, left : left + new_width] = scaled
    return fitted


def _encoder_options(config: RecordConfig) -> dict[str, str]:
    # No B-frames: the first pts is 0 in every kind of mp4, and fragments are written without waiting for
    # later frames.
    return {"crf": str(config.crf), "preset": config.preset, "bf": "0", "g": "60"}


def _set_up(context: VideoCodecContext) -> None:
    context.pix_fmt = "yuv420p"
    context.time_base = TIME_BASE
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = ColorRange.MPEG.value


def check_encoder(config: RecordConfig) -> None:
    """Open the encoder once with the config's options; OutputError names what to change."""
    if "libx264" not in av.codecs_available:
        raise OutputError(
            "recording needs an FFmpeg with libx264, this PyAV has none: "
            "install PyAV's own wheel (pip install --force-reinstall av)"
        )
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.width = context.height = 64
    _set_up(context)
    context.options = _encoder_options(config)
    try:
        context.open()
    except (av.error.FFmpegError, OSError) as error:
        raise OutputError(
            f"the H.264 encoder refuses record.preset {config.preset!r} with record.crf {config.crf}: "
            "use one of ultrafast … veryslow"
        ) from error
