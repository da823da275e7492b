"""A folder of images as a source, in natural order of their names (frame2 before frame10)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted, ns
from numpy.typing import NDArray

from pipeline.errors import SourceUnreadable
from pipeline.sources.sampling import PictureError, Sampler
from pipeline.types import End, Frame, Gap, SourceState

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        ".bmp",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read one image, (H, W, 3) uint8 RGB, turned as its EXIF says; PictureError names the file otherwise."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise PictureError(f"{path.name}: {error.strerror}") from error
    try:
        # Not cv2.imread: it does not say why a file cannot be opened.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise PictureError(f"{path.name}: {error.err}") from error
    if image is None:
        raise PictureError(f"{path.name} cannot be read as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


class ImageSource:
    """The images of one folder as frames at `fps` frames a second; never live.

    An image that cannot be read is counted as a decode drop; one that the cadence does not pick is not even
    opened. EXIF orientation is applied by OpenCV and not reported as `Frame.rotation`.
    """

    live = False

    def __init__(self, folder: str, *, fps: float, sampler: Sampler, stop: threading.Event) -> None:
        self.fps: float | None = fps
        self.num_frames: int | None = None
        self._state: SourceState = "waiting"
        self._folder = Path(folder)
        self._sampler = sampler
        self._stop = stop
        self._closing = threading.Event()
        sampler.clock.fps = fps

    @property
    def state(self) -> SourceState:
        """Where the source is in its life; may be read by any thread."""
        return self._state

    def close(self) -> None:
        """Stop the iteration at the next image; may be called twice and from any thread."""
        self._closing.set()

    def __iter__(self) -> Iterator[Frame | Gap | End]:
        try:
            yield from self._items()
        finally:
            self._state = "ended"

    def _items(self) -> Iterator[Frame | Gap | End]:
        sampler = self._sampler
        paths = self._list()
        time_base = 1 / Fraction(self.fps or 1).limit_denominator(1001)
        self.num_frames = len(paths)
        self._state = "live"
        for number, path in enumerate(paths):
            if self._stop.is_set() or self._closing.is_set():
                yield End(sampler.source, sampler.epoch, "stopped")
                return
            yield from sampler.add(partial(read_image, path), pts=number, time_base=time_base)
            if sampler.complete:
                yield End(sampler.source, sampler.epoch, "max_frames", f"{sampler.num_read} frames were read")
                return
        if not sampler.num_kept:
            raise SourceUnreadable(
                f"source {sampler.source!r}: no image of the {len(paths)} in {self._folder} could be read; "
                "are they complete?",
                source=sampler.source,
            )
        yield End(sampler.source, sampler.epoch, "end_of_file", f"all {len(paths)} images were read")

    def _list(self) -> list[Path]:
        source = self._sampler.source
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except OSError as error:
            raise SourceUnreadable(
                f"source {source!r}: folder {self._folder}: {error.strerror}", source=source
            ) from error
        if not paths:
            raise SourceUnreadable(
                f"source {source!r}: folder {self._folder} holds no images "
                f"({', '.join(sorted(IMAGE_SUFFIXES))})",
                source=source,
            )
        # By name first: names that differ in case alone come in one order on every file system.
        return natsorted(sorted(paths), key=lambda path: path.name, alg=ns.IGNORECASE)
