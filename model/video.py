"""Frames of a file, a folder of images or a camera, read with OpenCV alone, for tools that learn from them.

`model` knows nothing of streams: this is the plain reader for a look at a camera, without reconnects, threads
or counters; the live path has `pipeline.sources`. Ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import VideoError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
CONNECT_SECONDS = 10.0
READ_SECONDS = 5.0
_ASSUMED_FPS = 25.0
_EARLY_SLOTS = 0.25

Image = NDArray[np.uint8]


def read_frames(
    source: str, *, fps: float = 10.0, seconds: float | None = None, images_fps: float = 10.0
) -> Iterator[tuple[Image, float]]:
    """Yield frames (H, W, 3) uint8 RGB with their stream time in seconds, `fps` of them a second at most.

    source: a file, a folder of images (`images_fps` a second, in natural order of their names), an rtsp:// or
    http(s):// URL, or a camera device. seconds: stop so much stream time after the first frame.
    Raises VideoError where nothing can be read, naming the source (of a URL the host alone); ValueError for a
    rate or time that is not above 0.
    """
    for name, value in (("fps", fps), ("seconds", seconds), ("images_fps", images_fps)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    folder = Path(source)
    frames = _images(folder, images_fps) if _is_folder(folder) else _pictures(source)
    start: float | None = None
    last_slot = -1
    for now, decode in frames:
        start = now if start is None else start
        if seconds is not None and now - start >= seconds:
            return
        slot = int((now - start) * fps + _EARLY_SLOTS)
        if slot > last_slot:
            image = decode()
            if image is not None:
                last_slot = slot
                yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8), now
    if last_slot < 0:
        raise VideoError(f"{shown(source)}: not one picture can be decoded; is it complete?")


def shown(source: str) -> str:
    """How a source is named in texts and files: of a URL only scheme and host, as all else may be secret."""
    scheme, found, rest = source.partition("://")
    if not found:
        return source
    return f"{scheme}://{re.split(r'[/?#]', rest.rpartition('@')[2])[0]}/…"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a URL longer than a file's name may be
        return False


def _images(folder: Path, fps: float) -> Iterator[tuple[float, Any]]:
    """Time and decoder of each image."""
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES),
        key=lambda path: [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part.casefold())
            for part in re.split(r"(\d+)", path.name)
            if part
        ],
    )
    if not paths:
        raise VideoError(f"{folder}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    for index, path in enumerate(paths):

        def decode(path: Path = path) -> Any:
            data = np.fromfile(path, dtype=np.uint8)
            return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None

        yield index / fps, decode


def _pictures(source: str) -> Iterator[tuple[float, Any]]:
    """Time and decoder of each picture of a video; a decoder holds until the next picture."""
    capture = _open(source)
    try:
        period = 1 / (capture.get(cv2.CAP_PROP_FPS) or _ASSUMED_FPS)
        now: float | None = None
        while capture.grab():
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Streams without times, or whose times go back: estimated.
            now = told if now is None or told > now else now + period

            def decode() -> Any:
                read, image = capture.retrieve()
                return image if read else None

            yield now, decode
    finally:
        capture.release()


def _open(source: str) -> cv2.VideoCapture:
    if "://" in source:
        limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            int(1000 * CONNECT_SECONDS),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            int(1000 * READ_SECONDS),
        ]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        fault = f"cannot be opened; check address, login and network (it has {CONNECT_SECONDS:g} s to answer)"
    elif source.isdigit() or source.startswith("/dev/"):
        capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        fault = "this camera cannot be opened; is it there, and free?"
    else:
        if not Path(source).is_file():
            raise VideoError(f"{source}: no such file or folder; give a file, a folder of images or a URL")
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        fault = "cannot be read as a video; is it complete?"
    if not capture.isOpened():
        capture.release()
        raise VideoError(f"{shown(source)}: {fault}")
    return capture
