"""Makes real encoded videos, and reads sources to their end, for the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from pipeline.config import SourceConfig
from pipeline.health import Health
from pipeline.sources.cadence import Cadence
from pipeline.sources.source import Source, open_source
from pipeline.stats import Ledger
from pipeline.types import End, Frame, Gap


def numbered_picture(number: int, *, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Draw a picture that carries its number as a bar code of 8 grey blocks; `read_number` reads it back.

    The rest is a corner mark (top left white, top right black), so that turned pictures are told apart.
    """
    image = np.full((height, width, 3), 128, np.uint8)
    image[: height // 2, : width // 2] = 255
    image[: height // 2, width // 2 :] = 0
    block = width // 8
    for bit in range(8):
        image[height // 2 :, bit * block : (bit + 1) * block] = 220 if number >> bit & 1 else 30
    return image


def read_number(image: NDArray[np.uint8]) -> int:
    """Read the number of a `numbered_picture` that went through a codec."""
    height, width = image.shape[:2]
    block = width // 8
    middle = image[height * 3 // 4, :, :].mean(axis=1)
    return sum(1 << bit for bit in range(8) if middle[bit * block + block // 2] > 125)


def write_video(
    path: Path,
    *,
    num_frames: int = 50,
    fps: int = 25,
    height: int = 96,
    width: int = 128,
    rotation: float = 0,
    pts: Iterable[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    first: int = 0,
    pixel_format: str = "yuv420p",
    colours: tuple[Colorspace, ColorRange] | None = None,
    draw: Callable[..., NDArray[np.uint8]] = numbered_picture,
) -> Path:
    """Encode numbered pictures; `pts` (units of 1 / fps) makes other times than 0, 1, 2, …

    `rotation` is the container's display rotation in degrees, counterclockwise; `colours` the matrix and
    range that the pictures are converted to and tagged with, None leaves out the tags.
    """
    times = list(range(num_frames)) if pts is None else list(pts)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {"g": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if colours is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times, start=first):
            image = draw(number % 256, height=height, width=width)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            if colours is not None:
                picture = picture.reformat(
                    format=pixel_format, dst_colorspace=colours[0], dst_color_range=colours[1]
                )
            picture.pts = time
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_resized_video(path: Path, sizes: Iterable[tuple[int, int]], *, num_frames: int = 10) -> Path:
    """Write MPEG-TS whose resolution changes: one part of `num_frames` frames for each (height, width)."""
    parts = []
    for position, (height, width) in enumerate(sizes):
        start = position * num_frames
        part = write_video(
            path.with_suffix(f".{position}.ts"),
            height=height,
            width=width,
            first=start,
            pts=range(start, start + num_frames),
            options={"g": "10", "bf": "0"},
        )
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))
    return path


@dataclass
class Reading:
    """A source that is read by a thread of its own; what it gave so far."""

    source: Source
    ledger: Ledger
    stop: threading.Event
    health: Health
    items: list[Frame | Gap | End] = field(default_factory=list)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    @property
    def frames(self) -> list[Frame]:
        """The frames read so far."""
        return [item for item in self.items if isinstance(item, Frame)]

    @property
    def gaps(self) -> list[Gap]:
        """The gaps so far."""
        return [item for item in self.items if isinstance(item, Gap)]

    @property
    def end(self) -> End | None:
        """The end, when it came."""
        return self.items[-1] if self.items and isinstance(self.items[-1], End) else None

    def run(self) -> None:
        """Read to the end; an error is kept."""
        try:
            self.items.extend(self.source)
        except BaseException as error:
            self.error = error

    def __iter__(self) -> Iterator[Frame | Gap | End]:
        return iter(self.items)


def make_reading(
    url: str | Path,
    *,
    fps: float | Literal["source"] = "source",
    max_frames: int | None = None,
    hold: bool = False,
    planes: bool = False,
    stop: threading.Event | None = None,
    **config: Any,
) -> Reading:
    """Make a source that is not read yet; `config` are fields of SourceConfig."""
    ledger, stop, health = Ledger(), stop or threading.Event(), Health("camera")
    source = open_source(
        "camera",
        str(url),
        SourceConfig(**config),
        cadence=Cadence(fps),
        ledger=ledger,
        stop=stop,
        max_frames=max_frames,
        hold=hold,
        planes=planes,
        health=health,
    )
    return Reading(source, ledger, stop, health)


def read(url: str | Path, **options: Any) -> Reading:
    """Read a source to its end, in this thread; raises what it raises."""
    reading = make_reading(url, **options)
    reading.run()
    if reading.error is not None:
        raise reading.error
    return reading


@contextmanager
def reading(url: str | Path, **options: Any) -> Iterator[Reading]:
    """Read a source in a thread; stops it and joins at the end of the block."""
    running = make_reading(url, **options)
    running.thread = threading.Thread(target=running.run, daemon=True)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(timeout=30)
        assert not running.thread.is_alive(), "the decode thread does not stop"
