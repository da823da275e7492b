"""How many cores this process may use: of the host's, what affinity and control group leave. Ours."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]

_GROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: what affinity and control group leave of the host's."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas()]))


def _quotas() -> list[int]:
    """Whole cores of the control group's quota (version 2, then version 1), as a container has one."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((_GROUP / name).read_text() for name in names).split()
            return [math.ceil(int(quota) / int(period))] if int(quota) > 0 else []
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
    return []
