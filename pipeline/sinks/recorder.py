"""Records the overlay of each source as an H.264 mp4 with the source's own timing.

Variable frame rate: a frame stands at the stream time it was taken, from 0 at the first one. Each frame is
written once, in order, in its last revision: a result that is not final waits (bounded) for the one that
is.

While it grows the file is a fragmented mp4 next to its final name (`x.partial.mp4` for `x.mp4`): a killed
process leaves a file that plays, and an older recording stays whole until the new one is. Closing turns it
into a plain mp4 (FFmpeg's `hybrid_fragmented`) and renames it.

H, W picture; colours are RGB in, BT.709 limited-range yuv420p in the file.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.file_lock import FileLock
from pipeline.sinks.overlay import Painter
from pipeline.types import End, Frame, FrameResult, Gap, SourceState

logger = logging.getLogger(__name__)

_TIME_BASE = Fraction(1, 90_000)
_BT709 = 1  # the number for matrix, primaries and transfer alike (ITU-T H.273)
# Twice the longest window: a result that waits longer for its final revision than that will not get one.
_MAX_WAITING = 72
_JITTER_SECONDS = 1.0
_FIRST_STEP_SECONDS = 0.04


class Recorder:
    """Sink that writes one mp4 per source.

    `path_template` holds `{source}` where there are several sources; missing folders are made. All paths
    and the encoder's options are tried when it is made, before any frame is read: OutputError names path
    and remedy. ValueError where several sources would share a file. The picture keeps the size of the
    source's first frame (odd sizes are padded to even ones); later frames of another size are fitted into
    it with black bars. `painter` is shared with other sinks, or made here with `note` as its remark.
    """

    def __init__(
        self,
        path_template: str | Path,
        config: RecordConfig,
        *,
        sources: Sequence[str],
        note: str | None = None,
        painter: Painter | None = None,
    ) -> None:
        template = str(path_template)
        if len(sources) > 1 and "{source}" not in template:
            raise ValueError(
                f"record path {template!r} needs {{source}} in its name with {len(sources)} sources"
            )
        self._painter = painter or Painter(note=note)
        _check_encoder(config)
        self._waiting: dict[str, dict[int, FrameResult]] = {source: {} for source in sources}
        self._last_index = dict.fromkeys(sources, -1)
        self._files: dict[str, _Mp4] = {}
        try:
            for source in sources:
                self._files[source] = _Mp4(template.replace("{source}", source), config)
        except BaseException:
            self.close()
            raise

    @property
    def paths(self) -> dict[str, Path]:
        """Source id → the file it is recorded to."""
        return {source: file.path for source, file in self._files.items()}

    def start(self) -> None:
        """Nothing to do: files are opened with the first frame, when its size is known."""

    def write(self, result: FrameResult) -> None:
        """Take a result; the frame is written as soon as it and all frames before it are final.

        Raises OutputError when the file cannot be written any more (disk full).
        """
        waiting = self._waiting[result.source]
        index = result.frame.index
        if index <= self._last_index[result.source]:
            logger.debug(
                "%s: frame %d is already recorded, revision %d comes too late",
                result.source,
                index,
                result.revision,
            )
            return
        waiting[index] = result
        while waiting:
            first = min(waiting)
            if not waiting[first].final and len(waiting) <= _MAX_WAITING:
                return
            self._encode(waiting.pop(first))

    def gap(self, gap: Gap) -> None:
        """Write what still waits; the frames after the gap continue the same file."""
        self._flush(gap.source)
        self._files[gap.source].timeline.gap(gap)

    def state(self, source: str, state: SourceState) -> None:
        """A recording holds frames only."""

    def poll(self) -> None:
        """Nothing to do between frames."""

    def end(self, end: End) -> None:
        """Write what still waits and finish the source's file."""
        self._flush(end.source)
        self._files[end.source].close()

    def close(self) -> None:
        """Finish all files, also after a failure; may be called again. Raises the first OutputError last."""
        failures: list[OutputError] = []
        for source, file in self._files.items():
            try:
                self._flush(source)
            except OutputError as error:
                failures.append(error)
            try:
                file.close()
            except OutputError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self, source: str) -> None:
        waiting = self._waiting[source]
        for index in sorted(waiting):
            self._encode(waiting.pop(index))

    def _encode(self, result: FrameResult) -> None:
        self._last_index[result.source] = result.frame.index
        file = self._files[result.source]
        if not file.failed:
            file.write(self._painter(result), result.frame)


class Timeline:
    """Stream time of one source → time in its recording: from 0, strictly rising over gaps and reconnects.

    Within an epoch recording time advances as stream time does. Over a reconnect it advances by the time
    that really passed, so an outage shows as a frozen picture. After a discontinuity, or where time runs
    backwards by more than a second, the next frame follows after the last step between two frames.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._step = _FIRST_STEP_SECONDS
        self._last: tuple[Frame, float] | None = None
        self._discontinuous = False

    def gap(self, gap: Gap) -> None:
        """Note why the next frame does not continue the last one."""
        self._discontinuous = gap.reason == "discontinuity"

    def place(self, frame: Frame) -> float:
        """Return the frame's time in the recording, seconds."""
        if self._last is None:
            seconds = 0.0
        else:
            last, last_seconds = self._last
            seconds = frame.seconds - self._offset
            if frame.epoch != last.epoch:
                passed = (frame.captured_monotonic_ns - last.captured_monotonic_ns) / 1e9
                seconds = last_seconds + max(self._step, passed)
            elif self._discontinuous or seconds < last_seconds - _JITTER_SECONDS:
                seconds = last_seconds + self._step
            elif seconds <= last_seconds:
                # Jitter: this frame is nudged, the ones after it keep their own time.
                self._last = (frame, last_seconds + float(_TIME_BASE))
                return self._last[1]
            else:
                self._step = min(seconds - last_seconds, _JITTER_SECONDS)
        self._offset = frame.seconds - seconds
        self._discontinuous = False
        self._last = (frame, seconds)
        return seconds


class _Mp4:
    """One file: opened at the first frame, because only then the size is known."""

    def __init__(self, name: str, config: RecordConfig) -> None:
        self.path, self._file_lock = _check_path(name)
        self.timeline = Timeline()
        self.failed = False
        self._partial = _partial(self.path)
        self._config = config
        self._open: tuple[OutputContainer, VideoStream] | None = None
        self._last_pts = -1
        self._num_frames = 0
        self._closed = False

    def write(self, picture: NDArray[np.uint8], frame: Frame) -> None:
        """Encode a picture (H, W, 3) RGB at the frame's time. Raises as the file's faults are mapped."""
        with self._mapped():
            if self._open is None:
                self._open = self._start(picture.shape[0], picture.shape[1])
            container, stream = self._open
            fitted = _fit(picture, stream.height, stream.width)
            video_frame = av.VideoFrame.from_ndarray(fitted, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            self._last_pts = max(self._last_pts + 1, round(self.timeline.place(frame) / _TIME_BASE))
            video_frame.pts, video_frame.time_base = self._last_pts, _TIME_BASE
            container.mux(stream.encode(video_frame))
            self._num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; nothing is left behind where no frame came."""
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
        finally:
            self._file_lock.release()

    def _finish(self) -> None:
        if self._open is None:
            logger.info("%s: no frame came, nothing was recorded", self.path)
            return
        if self.failed:
            return
        with self._mapped():
            container, stream = self._open
            container.mux(stream.encode(None))
            container.close()
            os.replace(self._partial, self.path)
        logger.info("%s: %d frames recorded", self.path, self._num_frames)

    def _start(self, height: int, width: int) -> tuple[OutputContainer, VideoStream]:
        # A fragment a second, written out at once: that much is lost at most when the process is killed.
        container = av.open(
            str(self._partial),
            "w",
            format="mp4",
            options={"movflags": "hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
        )
        stream = container.add_stream("libx264", options=_encoder_options(self._config))
        stream.height, stream.width = height + height % 2, width + width % 2
        _set_up(stream.codec_context)
        stream.time_base = _TIME_BASE
        return container, stream

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn FFmpeg's and the system's errors into OutputError and give the file up."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self.failed = True
            self._abandon()
            remedy = (
                "free some space or record to another disk"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "check the disk, or record elsewhere"
            )
            raise OutputError(
                f"recording {self.path} failed after {self._num_frames} frames: {_reason(error)}; {remedy}. "
                f"What was written so far is in {self._partial}"
            ) from error

    def _abandon(self) -> None:
        if self._open is None:
            return
        try:
            self._open[0].close()
        except (av.error.FFmpegError, OSError) as error:
            logger.debug("%s: closing after a failure: %s", self._partial, _reason(error))


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
    context.time_base = _TIME_BASE
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = ColorRange.MPEG.value


def _check_encoder(config: RecordConfig) -> None:
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


def _check_path(name: str) -> tuple[Path, FileLock]:
    """Return the path, and its partial file claimed; OutputError names path and remedy."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise OutputError(f"record path {name}: {error}; write the path in full") from None
    try:
        if path.is_dir():
            raise OutputError(f"record path {path} is a folder: give a file in it, e.g. {path / 'out.mp4'}")
        if path.suffix.lower() != ".mp4":
            raise OutputError(
                f"record path {path} ends in {path.suffix or 'no suffix'}: recordings are .mp4 files, "
                f"e.g. {path.with_suffix('.mp4')}"
            )
        if path.exists() and not path.is_file():
            raise OutputError(f"record path {path} is no ordinary file: choose another name")
        if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
            # Root and renaming would get past the mode, but it says that this file is to be kept.
            raise OutputError(
                f"record path {path} is write-protected: change its mode or choose another name"
            )
        path.parent.mkdir(exist_ok=True)  # one folder at most: more would hide a wrong path
        return path, FileLock(_partial(path), what=f"record path {path}")
    except OSError as error:
        raise OutputError(
            f"record path {path} cannot be written ({_reason(error)}): choose a folder that you may write to"
        ) from error


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
