"""Files of a user's: where made things are kept, and how one is written whole. Ours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Where made things are kept to be used again: `$XDG_CACHE_HOME/mssts-stream` or
    `~/.cache/mssts-stream`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mssts-stream"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give out an empty file next to `path`, of the same suffix, that takes its place when the block ends.

    Other processes see the old file or the whole new one; it is on the disk before it takes the place. Where
    the block raises, `path` stays as it was. Raises OSError where the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    unfinished = Path(name)
    try:
        os.close(handle)
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
