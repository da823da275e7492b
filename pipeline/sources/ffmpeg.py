"""Reading video through PyAV (FFmpeg): opening and decoding.

`open_video` turns an `Address` into a `VideoInput`, which gives out decoded pictures, one list a packet.
Facts this stands on, all tried: `container.close()` from another thread does not free a blocked reader,
only timeouts do; of those only PyAV's own tuple bounds a server that drips a byte at a time, and FFmpeg
ignores an option that it does not know; a killed RTSP server looks like an orderly end of file; over UDP
FFmpeg reads a server's goodbye before data that still waits, so that a late reader never sees the last few
frames of a recording (over TCP it does); `str()` of an FFmpeg error holds the URL with the password.

Camera devices are opened through FFmpeg's v4l2 or avfoundation. That path was not run on hardware, nor
was decoding on a GPU (`source.decoder`); that it falls back, or says why it cannot, was.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from fractions import Fraction
from functools import cache

import av
import av.container
import numpy as np
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel

from pipeline.config import SourceConfig
from pipeline.errors import SourceError, SourceUnreachable, SourceUnreadable
from pipeline.sources.addresses import Address
from pipeline.sources.containers import Extent, PresentationTimes, best_video, is_clockless
from pipeline.sources.ffmpeg_errors import mapped_faults
from pipeline.sources.picture import GPU_FORMAT, copied_planes, nv12_picture
from pipeline.sources.sampling import size_fault
from pipeline.sources.turns import TURNS
from pipeline.stats import Ledger

logger = logging.getLogger(__name__)

# FFmpeg looks at the stream for so long (µs) before it opens; its default of 5 s costs a second on RTSP.
_ANALYZE_MICROSECONDS = 100_000
# UDP packets of a key frame come in one burst; the kernel's default buffer is smaller than many of them.
_UDP_BUFFER_BYTES = 1 << 20
_MAX_FPS = 1000
_CLIP_SIDE = 256


class Pictures(list[av.VideoFrame]):
    """The decoded pictures of a packet."""

    after_error = False
    """Whether a packet between the pictures before and these could not be decoded."""


class VideoInput:
    """An open container and the decoder of its film; used by one thread (`reader`).

    Iterating gives one list of decoded pictures per packet (often empty), so that the caller can look at
    clocks and stop signals between packets. Packets that cannot be decoded are counted and passed over.
    Faults of reading are raised as SourceError.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        address: Address,
        *,
        source: str,
        ledger: Ledger,
        silent_seconds: float,
    ) -> None:
        film = best_video(container)
        if film is None:
            raise SourceUnreadable(f"source {source!r}: {address.shown} holds no video stream", source=source)
        if fault := size_fault(film.height, film.width):
            raise SourceUnreadable(f"source {source!r}: {address.shown}: {fault}", source=source)
        self._container = container
        self._address = address
        self._source = source
        self._ledger = ledger
        self._silent_seconds = silent_seconds
        self._stream = film
        self.live = _is_live(container, address)
        self.paced = self.live and container.format.name != "hls"
        """Whether pictures come one by one as they are taken; HLS brings them in segments."""
        self.clockless = is_clockless(container)
        """Whether the container has no times: of a live source those of arrival count."""
        self.on_gpu = self._stream.codec_context.is_hwaccel
        if not self.on_gpu:
            # Frame threads give each frame out later; on a live source that is latency.
            self._stream.thread_type = ThreadType.SLICE if self.live else ThreadType.AUTO
        self.fps = None if self.live and self.clockless else _nominal_fps(self._stream)
        self.num_frames = None if self.live else self._stream.frames or None
        self._extent = Extent(container, film)
        self._times = PresentationTimes(container)
        self._pictures = self._decode()

    def __iter__(self) -> Iterator[Pictures]:
        return self._pictures

    @property
    def complete(self) -> bool:
        """Whether the container held all that it declares (true where it does not say)."""
        return self._extent.complete

    def close(self) -> None:
        """Close decoder and container; by the thread that reads, only."""
        self._pictures.close()
        self._container.close()

    def _decode(self) -> Generator[Pictures]:
        packets = self._container.demux(self._stream)
        broken = False
        while True:
            asked = time.monotonic()
            try:
                with mapped_faults(self._address, source=self._source):
                    packet = next(packets, None)
            except SourceError:
                yield Pictures(self._flush())
                raise
            if packet is None:
                return
            # The last one is empty: it only asks the decoder for what it still holds.
            if packet.size > 0:
                self._extent.packet(packet.pts, packet.duration)
                self._times.packet(packet.pts)
            try:
                # A GPU decodes next to us: waiting for it is no turn.
                with nullcontext() if self.on_gpu else TURNS:
                    pictures = self._times.correct(packet.decode())
            except av.error.FFmpegError as error:
                self._ledger.count_packet_error()
                self._times.lost()
                logger.debug(
                    "source %s: a packet cannot be decoded: %s",
                    self._source,
                    self._address.redact(str(error)),
                )
                # Control goes back after each packet: of some streams none can be decoded.
                pictures = []
                broken = True
            late = self.live and time.monotonic() - asked >= self._silent_seconds
            given = Pictures(pictures)
            given.after_error, broken = broken and bool(given), broken and not given
            yield given
            # FFmpeg answers its first timeout with the last packet from its parser and would wait once more.
            if late:
                raise SourceUnreachable(
                    f"source {self._source!r}: {self._address.shown}: silent for "
                    f"source.read_timeout_seconds = {self._silent_seconds:g}",
                    source=self._source,
                )

    def _flush(self) -> list[av.VideoFrame]:
        """Return the pictures that the decoder still holds; at an orderly end the last packet does this."""
        try:
            return self._times.correct(self._stream.decode(None))
        except av.error.FFmpegError:
            self._ledger.count_packet_error()
            return []


def open_video(
    address: Address,
    *,
    source: str,
    config: SourceConfig,
    timeout_seconds: float,
    ledger: Ledger,
    planes: bool = False,
) -> VideoInput:
    """Open a file, URL or device; `timeout_seconds` bounds the opening of URLs and devices. With `planes`
    pictures that a GPU decodes stay there, where this was seen to work (`gpu_pictures_fault`).

    Raises SourceError (each kind) with the remedy.
    """
    if address.format is not None and not _has_format(address.format):
        raise SourceUnreadable(
            f"source {source!r}: {address.shown}: this build of PyAV has no "
            f"{address.format} input; serve the camera over RTSP instead",
            source=source,
        )
    options: dict[str, str] = {}
    timeouts: tuple[float, float] | None = None
    if address.kind in ("rtsp", "http", "device"):
        timeouts = (timeout_seconds, config.read_timeout_seconds)
        options = _options(address, config)

    def opened(hardware: HWAccel | None) -> VideoInput:
        with mapped_faults(address, source=source):
            container = av.open(
                address.target,
                mode="r",
                format=address.format,
                options=options,
                timeout=timeouts,
                metadata_errors="replace",
                hwaccel=hardware,
            )
        try:
            return VideoInput(
                container,
                address,
                source=source,
                ledger=ledger,
                silent_seconds=config.read_timeout_seconds,
            )
        except BaseException:
            container.close()
            raise

    hardware = _hardware(config, address, source=source, planes=planes)
    if hardware is None:
        return opened(None)
    try:
        video = opened(hardware)
    except RuntimeError as error:  # PyAV's, where software is not allowed to take over
        raise _gpu_fault(address, f"the GPU does not decode it ({error})", source=source) from error
    except SourceError as error:
        if config.decoder == "cuda":
            raise
        # A device that fails looks like a file that may not be read.
        logger.info("source %s: decoded on the CPU: with the GPU it cannot be opened: %s", source, error)
        return opened(None)
    if not video.on_gpu:
        logger.info("source %s: decoded on the CPU: the GPU does not decode it", source)
    return video


@cache
def gpu_decoding_fault() -> str | None:
    """Why FFmpeg cannot decode on a GPU here, or None if it can; asked once by opening a decoder."""
    try:
        decoder = av.CodecContext.create("h264", "r", hwaccel=HWAccel("cuda"))
    except (av.error.FFmpegError, RuntimeError, ValueError) as error:
        return f"no NVIDIA GPU that FFmpeg can decode on ({error})"
    return None if decoder.is_hwaccel else "this build of PyAV does not decode on NVIDIA GPUs"


@cache
def gpu_pictures_fault() -> str | None:
    """Why decoded pictures cannot stay on a GPU here, or None if they can: a small clip is decoded both ways
    and compared, once."""
    if fault := gpu_decoding_fault():
        return fault
    try:
        clip = _small_clip()
        kept, back = (_first_picture(clip, owned=owned) for owned in (True, False))
        if kept.format.name != GPU_FORMAT:
            return "PyAV gives them out on the host"
        return planes_fault(kept, back)
    except Exception as error:  # whatever a driver, FFmpeg or torch says: the way over the host is there
        return f"{type(error).__name__}: {error}"


def planes_fault(kept: av.VideoFrame, back: av.VideoFrame) -> str | None:
    """Compare an NV12 picture as `copied_planes` takes it with the same one on the host."""
    planes = copied_planes(kept)
    ours = nv12_picture(planes, colours=(back.colorspace, back.color_range)).to_ndarray()
    theirs = back.reformat(format="nv12").to_ndarray()
    return None if np.array_equal(ours, theirs) else "what stays there is not what comes back"


def _small_clip() -> bytes:
    """One H.264 picture with something in it, of a size that every decoder takes."""
    buffer = io.BytesIO()
    y, x = np.mgrid[:_CLIP_SIDE, :_CLIP_SIDE].astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(np.stack([x, y, x ^ y], axis=-1), format="rgb24")
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = _CLIP_SIDE
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _first_picture(clip: bytes, *, owned: bool) -> av.VideoFrame:
    hardware = HWAccel("cuda", allow_software_fallback=False, is_hw_owned=owned)
    with av.open(io.BytesIO(clip), "r", format="h264", hwaccel=hardware) as container:
        return next(container.decode(video=0))


def require_decoder(address: Address, config: SourceConfig, *, source: str) -> None:
    """Raise SourceUnreadable where a GPU is asked for and there is none, which no waiting mends."""
    fault = gpu_decoding_fault() if config.decoder == "cuda" else None
    if fault is not None:
        raise _gpu_fault(address, fault, source=source)


def _hardware(config: SourceConfig, address: Address, *, source: str, planes: bool = False) -> HWAccel | None:
    """What a container is opened with; None for the CPU. Raises what `require_decoder` does."""
    if config.decoder == "cpu":
        return None
    require_decoder(address, config, source=source)
    fault = gpu_decoding_fault()
    if fault is None:
        owned = False
        if planes:
            stays = gpu_pictures_fault()
            owned = stays is None
            if stays is not None:
                logger.info("source %s: decoded pictures come back to the host: %s", source, stays)
        return HWAccel("cuda", allow_software_fallback=config.decoder == "auto", is_hw_owned=owned)
    logger.info("source %s: decoded on the CPU: %s", source, fault)
    return None


def _gpu_fault(address: Address, fault: str, *, source: str) -> SourceUnreadable:
    return SourceUnreadable(
        f"source {source!r}: {address.shown}: source.decoder=cuda: {fault}; use auto or cpu there",
        source=source,
    )


def _has_format(name: str) -> bool:
    # One format may go by several names, which FFmpeg lists as "video4linux2,v4l2".
    return any(name in names.split(",") for names in av.formats_available)


def _options(address: Address, config: SourceConfig) -> dict[str, str]:
    silent = str(round(config.read_timeout_seconds * 1e6))
    if address.kind == "rtsp":
        return {
            "rtsp_transport": config.rtsp_transport,
            "timeout": silent,
            "allowed_media_types": "video",
            "analyzeduration": str(_ANALYZE_MICROSECONDS),
            "buffer_size": str(_UDP_BUFFER_BYTES),
        }
    if address.kind == "http":
        return {"timeout": silent}
    return {}


def _is_live(container: av.container.InputContainer, address: Address) -> bool:
    """Tell whether a stream goes on for ever: it cannot be asked to wait, and its end is a fault.

    RTSP and devices are. Over HTTP a file has a duration or at least a size; a camera's MJPEG and a running
    HLS playlist have neither (of HLS only the duration counts: the size is the playlist's).
    """
    if address.kind != "http":
        return address.kind in ("rtsp", "device")
    if container.duration is not None:
        return False
    return container.format.name == "hls" or container.size <= 0


def _nominal_fps(stream: av.VideoStream) -> float | None:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate <= _MAX_FPS else None
