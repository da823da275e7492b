"""Figures of a finished stream (docs/report.md)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence

from pipeline.stats import Histogram


def latency_report(runs: Sequence[Mapping[str, Histogram]]) -> dict[str, dict[str, float | None]]:
    """Return {stage: {p50, p95, p99}} in milliseconds over all `runs`, one map of stage → Histogram a
    source."""
    report = {}
    for stage in runs[0]:
        merged = Histogram()
        for run in runs:
            merged.merge(run[stage])
        report[stage] = merged.summary()
    return report


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)
