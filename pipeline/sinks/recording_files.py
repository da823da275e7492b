"""The files of one recording: their names, what killed runs left, and how many are kept.

Without rotation a recording is the file that its path names. Every other file of it is called
`{stem}-YYYYmmdd-HHMMSS[-n].mp4`, after the local time of its first frame. Ours.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import av

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.file_lock import FileLock
from pipeline.sinks.fragments import count_frames
from pipeline.sinks.mp4 import FAULTS, partial_of, reason_of

logger = logging.getLogger(__name__)


def stamped(path: Path, seconds: float) -> Path:
    """Return the free name of a file of the recording `path` that begins at this time since 1970."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(seconds))
    number = 1
    while True:
        ending = "" if number == 1 else f"-{number}"
        name = path.with_name(f"{path.stem}-{stamp}{ending}{path.suffix}")
        if not os.path.lexists(name) and not os.path.lexists(partial_of(name)):
            return name
        number += 1


def claim(path: Path) -> FileLock:
    """Claim the partial file of `path`, empty; what a killed run left in it gets a name of its own.

    OutputError where another run writes it, OSError where it cannot be written.
    """
    while True:
        lock = FileLock(partial_of(path), what=f"record path {path}")
        if lock.is_empty:
            return lock
        try:
            _rescue(partial_of(path), stamped(path, partial_of(path).stat().st_mtime))
        finally:
            lock.release()


def rescue_leftovers(path: Path) -> list[Path]:
    """Give what killed runs left under stamped names its final names; return these. OSError as `claim`."""
    rescued = []
    for partial in sorted(each for each in path.parent.iterdir() if _is_ours(each.name, path, r"\.partial")):
        try:
            lock = FileLock(partial, what=f"record path {path}")
        except OutputError:
            continue  # another run writes it
        try:
            if not lock.is_empty:
                name = partial.with_name(partial.name.replace(".partial", ""))
                if os.path.lexists(name):
                    name = stamped(path, partial.stat().st_mtime)
                _rescue(partial, name)
                rescued.append(name)
        finally:
            lock.release()
    return rescued


def _rescue(partial: Path, name: Path) -> None:
    num_frames = count_frames(partial)
    partial.rename(name)
    logger.warning(
        "%s: a run that was killed left this with %d frames; it is kept as %s", partial, num_frames, name
    )


def _is_ours(name: str, path: Path, ending: str = "") -> bool:
    pattern = rf"{re.escape(path.stem)}-\d{{8}}-\d{{6}}(-\d+)?{ending}{re.escape(path.suffix)}"
    return re.fullmatch(pattern, name) is not None


@dataclass(frozen=True)
class Entry:
    """A finished file in the index."""

    file: str
    bytes: int
    seconds: float
    frames: int


class Shelf:
    """The finished files of a recording that rotates, oldest first; deletes what is too much.

    They stand in `{stem}.index.jsonl` next to them, one JSON object a line (`Entry`). A file is deleted only
    if its name is one of this recording's, the index names it, and it has the size that the index says. The
    index is locked as long as the recording runs: one run at a time. Raises OutputError where another one has
    it, OSError where the folder cannot be written.
    """

    def __init__(self, path: Path, config: RecordConfig) -> None:
        self._path = path
        self._config = config
        self._index = path.with_name(f"{path.stem}.index.jsonl")
        self._lock = FileLock(self._index, what=f"record path {path}")
        self._entries = self._load()
        self._unwritten: list[Entry] = []
        self._torn = False
        for name in rescue_leftovers(path):
            self.add(name, seconds=_duration(name), frames=count_frames(name))

    def add(self, path: Path, *, seconds: float, frames: int) -> None:
        """Put a finished file into the index and delete what is too much now; faults are logged."""
        try:
            entry = Entry(path.name, path.stat().st_size, round(seconds, 3), frames)
            self._entries.append(entry)
            self._unwritten.append(entry)
            self._write()
        except (OSError, OutputError) as error:
            logger.warning(
                "%s: the index cannot be written (%s): %s is not deleted by a later run",
                self._index,
                reason_of(error),
                path.name,
            )
        while self._is_too_much() and self._delete_oldest():
            continue

    def release(self) -> None:
        """Let other runs record here."""
        self._lock.release()

    def _is_too_much(self) -> bool:
        config, entries = self._config, self._entries
        if len(entries) < 2:
            return False
        if config.keep_files is not None and len(entries) > config.keep_files:
            return True
        if config.keep_bytes is not None and sum(each.bytes for each in entries) > config.keep_bytes:
            return True
        newer = sum(each.seconds for each in entries[1:])
        return config.keep_seconds is not None and newer >= config.keep_seconds

    def _delete_oldest(self) -> bool:
        """Delete the oldest file, or forget it where it is not ours any more; False where that fails."""
        entry = self._entries[0]
        file = self._path.with_name(entry.file)
        try:
            if self._has(entry):
                file.unlink()
                logger.info("%s: deleted, newer recordings fill what is kept", file)
        except OSError as error:
            logger.warning("%s: cannot be deleted (%s): more is kept than asked", file, reason_of(error))
            return False
        del self._entries[0]
        return True

    def _has(self, entry: Entry) -> bool:
        file = self._path.with_name(entry.file)
        return file.is_file() and not file.is_symlink() and file.stat().st_size == entry.bytes

    def _load(self) -> list[Entry]:
        """Read the index; entries whose file is gone or was changed are no longer ours to delete."""
        entries = {}
        for line in self._index.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = Entry(**json.loads(line))
                if _is_ours(entry.file, self._path) and self._has(entry):
                    entries[entry.file] = entry
            except (ValueError, TypeError):
                continue  # torn when a run was killed, or not of our making
        return list(entries.values())

    def _write(self) -> None:
        if not self._lock.is_there:  # removed, perhaps with its folder
            self._lock.release()
            self._lock = FileLock(self._index, what=f"record path {self._path}")
            self._unwritten = [each for each in self._entries if self._has(each)]
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in self._unwritten)
        torn, self._torn = self._torn, True
        with self._index.open("a", encoding="utf-8") as file:
            file.write("\n" + lines if torn else lines)
        self._torn = False
        self._unwritten = []


def _duration(path: Path) -> float:
    try:
        with av.open(str(path)) as container:
            return (container.duration or 0) / 1e6
    except FAULTS:
        return 0.0
