"""One source's recording: its files one after another, by rotation or after a fault.

A fault of a file ends that file. It is finished, or stays as `.partial` where it cannot be; what follows goes
into a new file, at once where the file at hand had worked, else as soon as one can be opened (tried every
`retry_seconds`). Ours.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.file_lock import FileLock
from pipeline.sinks.mp4 import FAULTS, Mp4, partial_of, reason_of, remedy_of
from pipeline.sinks.recording_files import Shelf, claim, stamped
from pipeline.sinks.timeline import Timeline
from pipeline.types import Frame

logger = logging.getLogger(__name__)

_SPACE_TO_GO_ON = 8 * 2**20
"""Bytes that must be free before a recording goes on after a fault: less holds a few seconds."""


class Recording:
    """The files of one source. `timeline` is told of gaps; one thread calls all methods.

    The path is tried and claimed when it is made: OutputError names path and remedy.
    """

    def __init__(self, name: str, config: RecordConfig, *, retry_seconds: float) -> None:
        self.path = check_path(name)
        self.timeline = Timeline()
        self.num_lost = 0
        """Frames that are in no file."""
        self._config = config
        self._retry_seconds = retry_seconds
        self._next_try = 0.0
        self._fault: OutputError | None = None
        """Why there is no file now."""
        self._file: Mp4 | None = None
        self._num_recorded = 0
        self._named = False
        """Whether `path` itself was written."""
        self._claim: FileLock | None = None
        self._shelf: Shelf | None = None
        self._closed = False
        try:
            if config.rotates:
                self._shelf = Shelf(self.path, config)
            else:
                self._claim = claim(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    @property
    def waits(self) -> bool:
        """Whether a frame that comes now would not be recorded: the next try comes later."""
        return self._file is None and time.monotonic() < self._next_try

    def write(self, picture: NDArray[np.uint8], frame: Frame) -> None:
        """Record a picture (H, W, 3) RGB at the frame's time.

        Raises OutputError for a fault, also where it is over: the frame is then in a new file.
        """
        at = self.timeline.place(frame)
        told: OutputError | None = None
        while True:
            try:
                self._write(picture, frame, at)
                break
            except (*FAULTS, OutputError) as error:
                fault, again = self._give_up(error)
                told = told or fault
                if not again:
                    self._fault = told
                    self.num_lost += 1
                    raise told from error
        if told is not None:
            raise told

    def skip(self, frame: Frame) -> OutputError:
        """Count a frame that is not recorded because of a fault; return that fault."""
        self.timeline.place(frame)
        self.num_lost += 1
        return OutputError(str(self._fault))

    def close(self) -> None:
        """Finish the file and let others write; may be called again. OutputError where it cannot finish."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._file is not None:
                self._finish()
            elif self._fault is None:
                logger.info("%s: no frame came, nothing was recorded", self.path)
        except FAULTS as error:
            raise self._give_up(error)[0] from error
        finally:
            for held in (self._claim, self._shelf):
                if held is not None:
                    held.release()

    def _write(self, picture: NDArray[np.uint8], frame: Frame, at: float) -> None:
        if self._file is not None and not self._file.is_there:
            raise FileNotFoundError(errno.ENOENT, "it was removed or moved away while it grew")
        if self._file is not None and self._is_full(self._file, at):
            self._finish()
        if self._file is None:
            self._file = self._open(frame, *picture.shape[:2], at=at)
        self._file.write(picture, at)

    def _is_full(self, file: Mp4, at: float) -> bool:
        config = self._config
        return (config.max_seconds is not None and at - file.begins_at >= config.max_seconds) or (
            config.max_bytes is not None and file.expected_bytes >= config.max_bytes
        )

    def _open(self, frame: Frame, height: int, width: int, *, at: float) -> Mp4:
        self.path.parent.mkdir(exist_ok=True)  # it may have been removed since
        if self._fault is not None and shutil.disk_usage(self.path.parent).free < _SPACE_TO_GO_ON:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path = stamped(self.path, frame.captured_ns / 1e9)
        if self._shelf is None and not self._named and (self._claimed or not partial_of(self.path).exists()):
            path = self.path
        claimed, self._claim = self._claim, None
        if claimed is not None and not (path == self.path and claimed.is_there):
            claimed.release()
            claimed = None
        lock = claimed or claim(path)
        try:
            file = Mp4(path, lock, self._config, height=height, width=width, begins_at=at)
        except BaseException:
            lock.release()
            raise
        if self._fault is not None:
            logger.info("%s: recording goes on in this file", path)
            self._fault = None
        return file

    @property
    def _claimed(self) -> bool:
        return self._claim is not None and self._claim.is_there

    def _finish(self) -> None:
        assert self._file is not None
        file = self._file
        file.finish()
        self._file = None
        self._note(file, file.num_frames)

    def _note(self, file: Mp4, num_frames: int) -> None:
        """A file got its name."""
        logger.info("%s: %d frames recorded", file.path, num_frames)
        self._named |= file.path == self.path
        if self._shelf is not None:
            self._shelf.add(file.path, seconds=file.seconds, frames=num_frames)

    def _give_up(self, error: Exception) -> tuple[OutputError, bool]:
        """Let go of the file at hand, if any; return what to tell, and whether to try again at once."""
        file, self._file = self._file, None
        self._next_try = time.monotonic() + self._retry_seconds
        goes_on = (
            f"recording goes on in a new file as soon as that works, tried every {self._retry_seconds:g} s"
        )
        if file is None:
            self._fault = OutputError(
                f"recording {self.path} cannot go on: {reason_of(error)}; {remedy_of(error)}; {goes_on}"
            )
            return self._fault, False
        removed = not file.is_there
        kept = file.abandon()
        self.num_lost += file.num_frames - kept
        if file.finished:
            self._note(file, kept)
        where = "in it" if file.finished else "where it was moved to" if removed else f"in {file.partial}"
        where = (
            f"{kept} of its {file.num_frames} frames are {where}" if kept else "none of its frames are kept"
        )
        self._fault = OutputError(
            f"recording {file.path} failed after {file.num_frames} frames: {reason_of(error)}; "
            f"{remedy_of(error)}. {where}; {goes_on}"
        )
        logger.info("%s", self._fault)
        return self._fault, removed or kept > 0


def check_path(name: str) -> Path:
    """Return the path, its folder made; OutputError names path and remedy."""
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
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to tell where a path cannot be recorded to."""
    return OutputError(
        f"record path {path} cannot be written ({reason_of(error)}): choose a folder that you may write to"
    )
