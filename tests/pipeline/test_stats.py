from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from pipeline.stats import DROP_CAUSES, Histogram, Ledger


def test_the_ledger_counts_each_frame_once_from_several_threads() -> None:
    ledger = Ledger()

    def count() -> None:
        for _ in range(2000):
            ledger.count_read()
            ledger.count_dropped("cadence")
            ledger.count_read()
            ledger.count_published()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ledger.read, ledger.published, ledger.dropped["cadence"]) == (16000, 8000, 8000)
    assert ledger.open_frames() == 0
    assert tuple(ledger.dropped) == DROP_CAUSES, "every cause is reported, also the ones that are 0"


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_percentiles_are_within_three_percent_of_the_exact_ones(scale: float) -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 20000) * scale
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    for share in (0.5, 0.95, 0.99):
        assert histogram.percentile(share) == pytest.approx(np.quantile(values, share), rel=0.03)


def test_an_empty_histogram_has_no_percentile_and_extremes_do_not_break_it() -> None:
    histogram = Histogram()
    assert histogram.summary() == {"p50": None, "p95": None, "p99": None}
    histogram.add(0.0)
    histogram.add(1e12)
    assert histogram.count == 2
    assert (histogram.percentile(1.0) or 0) >= 9e5


def test_a_histogram_is_read_while_another_thread_writes_it() -> None:
    written, over = Histogram(), threading.Event()

    def write() -> None:
        while not over.is_set():
            written.add(1.0)

    thread = threading.Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(2000):
            copy = Histogram()
            copy.merge(written)
            assert copy.percentile(1.0) == (pytest.approx(1.0, rel=0.03) if copy.count else None)
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()


def test_merged_histograms_hold_the_values_of_both() -> None:
    fast, slow = Histogram(), Histogram()
    for _ in range(99):
        fast.add(1.0)
    slow.add(100.0)
    fast.merge(slow)
    assert fast.count == 100
    assert fast.percentile(0.5) == pytest.approx(1.0, rel=0.03)
    assert fast.percentile(1.0) == pytest.approx(100.0, rel=0.03)
