"""One writer per file: a lock on the file that a recording grows in, held by the run that writes it.

The lock is the system's (flock), so a killed run leaves none behind. On a file system without
locks (some network ones) nothing is locked.
"""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path

from pipeline.errors import OutputError


class FileLock:
    """The right to write to `path`, which is made where it is not there, from now to `release`.

    What the file holds stays. OutputError where another run, or this one, has claimed it; OSError where it
    cannot be opened for writing.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self._path = path
        while True:
            self._file = FileIO(path, "ab")
            try:
                self._lock(what)
                # Its former writer may have renamed it between our opening and locking it.
                if _same_file(self._file, path):
                    return
            except BaseException:
                self._file.close()
                raise
            self._file.close()

    @property
    def is_there(self) -> bool:
        """Whether the file still stands under its name."""
        return not self._file.closed and _same_file(self._file, self._path)

    @property
    def is_named(self) -> bool:
        """Whether the file still has a name, if another one."""
        return not self._file.closed and os.fstat(self._file.fileno()).st_nlink > 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in the file."""
        return os.fstat(self._file.fileno()).st_size == 0

    def release(self) -> None:
        """Let others write; an empty file goes. May be called again."""
        if self._file.closed:
            return
        with self._file:
            if _same_file(self._file, self._path) and os.fstat(self._file.fileno()).st_size == 0:
                self._path.unlink()

    def _lock(self, what: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{what} is being recorded by another run{_holder(self._file)}: "
                "stop that one or choose another name"
            ) from None
        except OSError:
            return  # a file system without locks


def _same_file(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _holder(file: FileIO) -> str:
    """Return which process holds the lock; Linux tells: `n: FLOCK ADVISORY WRITE pid major:minor:inode …`."""
    inode = os.fstat(file.fileno()).st_ino
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except OSError:
        return ""
    holders = [
        row[4] for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}") and int(row[4]) > 0
    ]
    return f" (process {holders[0]})" if holders else ""
