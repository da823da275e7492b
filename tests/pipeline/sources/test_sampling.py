"""The sampler: stream time from PTS good, missing and jittered; every picture counted once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import SourceUnreadable
from pipeline.sources.cadence import Cadence
from pipeline.sources.sampling import PictureError, Sampler
from pipeline.stats import Ledger
from pipeline.types import Frame, Gap

MILLISECONDS = Fraction(1, 1000)


def picture() -> NDArray[np.uint8]:
    return np.zeros((4, 6, 3), np.uint8)


def broken() -> NDArray[np.uint8]:
    raise PictureError("picture 7 is broken")


def make(fps: float | None = None, **options: bool) -> tuple[Sampler, Ledger]:
    ledger = Ledger()
    sampler = Sampler("camera", cadence=Cadence("source" if fps is None else fps), ledger=ledger, **options)
    sampler.clock.fps = 25.0
    return sampler, ledger


def feed(sampler: Sampler, times: Sequence[int | None]) -> list[Frame | Gap]:
    items: list[Frame | Gap] = []
    for pts in times:
        items += sampler.add(picture, pts=pts, time_base=MILLISECONDS, size=(4, 6))
    return items


def test_first_frame_without_pts_is_no_jump_wherever_the_clock_stands() -> None:
    for start in (40, 5_000_000, -90_000):
        sampler, _ = make()
        items = feed(sampler, [None, *range(start, start + 400, 40)])
        assert not any(isinstance(item, Gap) for item in items)
        assert len(items) == 11
        assert items[0].seconds == 0.0
        assert items[1].seconds == pytest.approx(start / 1000)


def test_cadence_goes_on_from_the_first_true_time() -> None:
    sampler, _ = make(fps=10.0)
    items = feed(sampler, [None, *range(5_000_000, 5_010_000, 40)])
    assert len(items) == 101
    sampler, _ = make(fps=10.0)
    assert len(feed(sampler, [None, *range(40, 10_000, 40)])) == 100


def test_missing_pts_is_estimated_from_the_rate() -> None:
    sampler, _ = make()
    items = feed(sampler, [0, 40, None, None, 160])
    assert [item.seconds for item in items] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert [item.pts for item in items] == [0, 40, None, None, 160]


def test_time_does_not_run_backwards_on_jitter() -> None:
    sampler, _ = make()
    items = feed(sampler, [0, 40, 35, 100, 60, 160])
    assert [item.seconds for item in items] == pytest.approx([0, 0.04, 0.04, 0.1, 0.1, 0.16])


def test_clock_that_stands_still_is_no_gap() -> None:
    sampler, _ = make()
    assert all(isinstance(item, Frame) for item in feed(sampler, [7] * 50))


@pytest.mark.parametrize("jump", [-10_000, 90_000])
def test_jump_is_one_gap_and_the_next_frame_is_taken(jump: int) -> None:
    sampler, _ = make(fps=1.0)
    items = feed(sampler, [20_000, 20_040, 20_080, 20_080 + jump, 20_120 + jump])
    assert [item.reason if isinstance(item, Gap) else item.index for item in items] == [0, "discontinuity", 3]
    assert items[2].seconds == pytest.approx((20_080 + jump) / 1000)


def test_restart_begins_an_epoch_and_goes_on_counting() -> None:
    sampler, ledger = make()
    feed(sampler, [90_000, 90_040])
    gap = sampler.restart()
    assert gap == Gap("camera", 1, "reconnect")
    items = feed(sampler, [0, 40])
    assert [(item.epoch, item.index) for item in items] == [(1, 2), (1, 3)]
    assert ledger.read == 4


def test_resolution_after_a_reconnect_needs_no_second_gap() -> None:
    sampler, _ = make()
    feed(sampler, [0])
    sampler.restart()
    assert len(sampler.add(picture, pts=0, time_base=MILLISECONDS, size=(40, 60))) == 1


def test_picture_that_cannot_be_converted_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    sampler, ledger = make()
    with caplog.at_level(logging.WARNING):
        for pts in (0, 40, 80):
            assert sampler.add(broken, pts=pts, time_base=MILLISECONDS) == []
    assert ledger.dropped["decode"] == 3
    assert ledger.open_frames() == 0
    assert caplog.text.count("picture 7 is broken") == 1


def test_ledger_identity_holds_over_a_mixture() -> None:
    sampler, ledger = make(fps=10.0)
    kept = 0
    for number in range(100):
        items = sampler.add(broken if number % 5 == 0 else picture, pts=number * 40, time_base=MILLISECONDS)
        kept += sum(isinstance(item, Frame) for item in items)
    assert ledger.read == 100 == kept + ledger.dropped["cadence"] + ledger.dropped["decode"]
    assert ledger.open_frames() == kept
    assert ledger.dropped["decode"] > 0


def test_a_source_that_begins_with_a_picture_that_is_too_large_is_refused() -> None:
    sampler, ledger = make()
    with pytest.raises(SourceUnreadable, match=r"'camera': .*32768x8 .*at most 32767"):
        sampler.add(lambda: np.zeros((8, 32768, 3), np.uint8), pts=0, time_base=MILLISECONDS)
    assert ledger.open_frames() == 0


def test_a_later_picture_that_is_too_large_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    sampler, ledger = make()
    feed(sampler, [0])
    assert sampler.add(lambda: np.zeros((32768, 8, 3), np.uint8), pts=40, time_base=MILLISECONDS) == []
    assert "8x32768" in caplog.text
    assert ledger.dropped["decode"] == 1
    assert len(feed(sampler, [80])) == 1


def test_another_shot_comes_behind_a_gap_of_its_own_and_only_where_asked() -> None:
    def gaps(**options: bool) -> list[str]:
        sampler, ledger = make(**options)
        found = []
        for number in range(8):
            shot = np.zeros((64, 96, 3), np.uint8)
            shot[:, : 48 if number < 4 else 20] = 250 if number < 4 else 90
            shot[40 if number < 4 else 8 :, 60:] = 40 if number < 4 else 200
            items = sampler.add(
                lambda shot=shot: shot, pts=40 * number, time_base=MILLISECONDS, size=(64, 96)
            )
            found += [item.reason if isinstance(item, Gap) else "frame" for item in items]
        assert ledger.read == 8
        return found

    assert gaps() == ["frame"] * 4 + ["cut"] + ["frame"] * 4
    assert gaps(cuts=False) == ["frame"] * 8
