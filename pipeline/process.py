"""Settings of the whole process that a stream on a CPU wants; applications call it (docs/performance).

Library code leaves them alone: they belong to the program. Ours.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from typing import NoReturn

from ops.cores import usable_cores

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""What the command lines log: when, how bad, by whom."""
STREAM_THREADS = ("decode-", "inference", "prepare", "ffmpeg-")
"""How the names of a stream's threads begin that may be within the model or FFmpeg."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES = 1 << 30
_LARGEST_BLOCK = 1 << 25  # the most that glibc takes


def tune_process() -> None:
    """Let waiting threads sleep soon, and keep freed memory; call it before numpy and torch are imported.

    torch's threads (libgomp) and numpy's (OpenBLAS) spin for long while they wait, on cores that others
    need: GOMP_SPINCOUNT, OPENBLAS_NUM_THREADS, and OMP_NUM_THREADS (half the cores: a stream prepares frames
    and decodes windows in two threads, each with torch threads of its own), unless
    they are set. glibc hands each window's tensors back to the system and takes them again page by page,
    which in a thread costs as much as the arithmetic: larger thresholds, on Linux with glibc, unless MALLOC_
    variables say otherwise.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // 2)))
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)


def leave_process(code: int, *, at_once: bool = False) -> NoReturn:
    """End the process, at once where a thread of a stream was left behind.

    Such a thread may be within the model or FFmpeg. The interpreter's own end would tear it away there:
    that aborts, or waits for ever.
    """
    if at_once or any(thread.name.startswith(STREAM_THREADS) for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
