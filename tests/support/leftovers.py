"""What a source gives and leaves behind: frames, each counted; threads, descriptors and memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from support.video import Reading


def assert_accounted(running: Reading) -> None:
    """Every picture is there once, in order, and counted."""
    assert running.error is None
    indices = [frame.index for frame in running.frames]
    assert indices == sorted(set(indices))
    epochs = [item.epoch for item in running.items]
    assert epochs == sorted(epochs)
    assert running.ledger.read == len(running.frames) + sum(running.ledger.dropped.values())
    assert running.end is not None
    assert running.end.reason == "stopped"


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def readers() -> list[str]:
    """Threads that run FFmpeg for a source."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ffmpeg-")]


def resident_mb() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
