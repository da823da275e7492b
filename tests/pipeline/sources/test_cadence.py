"""Cadence: a steady rate of stream time, without drift."""

from __future__ import annotations

import random

import pytest

from pipeline.sources.cadence import Cadence


def count(cadence: Cadence, times: list[float]) -> int:
    return sum(cadence.take(each) for each in times)


@pytest.mark.parametrize(
    ("source_fps", "fps", "num_frames", "expected"),
    [
        (25, 10, 250, 100),
        (30, 10, 300, 100),
        (30, 6, 300, 60),
        (25, 6, 250, 60),
        (15, 10, 150, 100),
        (24, 10, 240, 100),
        (60, 1, 600, 10),
        (12, 10, 120, 100),
        (25, 25, 250, 250),
        (10, 25, 100, 100),
        (30000 / 1001, 10, 30000, 10010),
    ],
)
def test_gives_exactly_its_rate_of_a_source(
    source_fps: float, fps: float, num_frames: int, expected: int
) -> None:
    assert count(Cadence(fps), [index / source_fps for index in range(num_frames)]) == expected


def test_first_frame_is_taken_wherever_its_clock_begins() -> None:
    for start in (-3.7, 0.0, 0.0123, 1.4, 95443.7177):
        cadence = Cadence(10)
        times = [start + index / 25 for index in range(250)]
        assert cadence.take(times[0])
        assert count(cadence, times[1:]) == 99


def test_does_not_drift_over_hours_of_millisecond_stamps() -> None:
    cadence = Cadence(10)
    num_frames = 2 * 3600 * 30
    assert count(cadence, [round(index * 1000 / 30) / 1000 for index in range(num_frames)]) == num_frames // 3


def test_spacing_stays_within_one_source_frame() -> None:
    cadence = Cadence(10)
    taken = [index / 25 for index in range(1000) if cadence.take(index / 25)]
    assert all(abs(time - slot / 10) <= 1 / 25 for slot, time in enumerate(taken))


def test_jitter_at_the_same_rate_loses_no_frame() -> None:
    noise = random.Random(3)
    times = [index / 10 + noise.uniform(-0.02, 0.02) for index in range(500)]
    times[0] = 0.0
    assert count(Cadence(10), times) == 500


def test_slower_source_than_cadence_gives_every_frame() -> None:
    assert count(Cadence(10), [index * 0.7 for index in range(50)]) == 50


def test_hole_in_time_is_not_made_up_for() -> None:
    cadence = Cadence(10)
    assert count(cadence, [index / 25 for index in range(25)]) == 10
    assert count(cadence, [100 + index / 25 for index in range(25)]) == 10


def test_equal_and_earlier_times_are_not_taken() -> None:
    cadence = Cadence(10)
    assert [cadence.take(time) for time in (1.0, 1.0, 0.5, 0.99, 1.04)] == [True, False, False, False, False]


def test_source_takes_all_even_without_a_moving_clock() -> None:
    assert count(Cadence("source"), [0.0] * 7) == 7


def test_reset_starts_over() -> None:
    cadence = Cadence(10)
    assert cadence.take(50.0)
    assert not cadence.take(0.0)
    cadence.reset()
    assert cadence.take(0.0)
    assert [cadence.take(time) for time in (0.04, 0.08, 0.12)] == [False, True, False]


@pytest.mark.parametrize("fps", [0, -1.0, "all", float("nan")])
def test_refuses_a_rate_that_is_none(fps: float) -> None:
    with pytest.raises(ValueError, match="above 0 or 'source'"):
        Cadence(fps)
