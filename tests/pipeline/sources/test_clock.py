"""A camera's clock against arrival: what is wrong with it, and what only looks so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from pipeline.sources.clock import ClockWatch

HOLE = 5.0
FPS = 25


def verdicts(times: Iterable[tuple[float, float]]) -> list[str]:
    """What is said of (clock, arrival), of each that is told as wrong."""
    watch = ClockWatch()
    said = [watch.update(clock, arrival, hole=HOLE) for clock, arrival in times]
    return [each for each in said if each]


def pictures(
    clock: Callable[[float], float], *, seconds: float = 30.0, fps: float = FPS
) -> list[tuple[float, float]]:
    return [(clock(n / fps), n / fps) for n in range(int(seconds * fps))]


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (lambda t: 7.0, "stands still"),
        (lambda t: 10 * t, "10 times too fast"),
        (lambda t: t / 10, "10 times too slow"),
        (lambda t: t - 0.3 * (t // 1), "stepped"),
        (lambda t: t % 2, "stepped"),
        (lambda t: t + 60 * (t // 2), "stepped"),
    ],
)
@pytest.mark.parametrize("fps", [5, 25, 120])
def test_a_wrong_clock_is_found_within_ten_seconds(
    clock: Callable[[float], float], said: str, fps: float
) -> None:
    found = verdicts(pictures(clock, fps=fps, seconds=10))
    assert found
    assert said in found[0]


@pytest.mark.parametrize(
    "clock",
    [
        lambda t: t,
        lambda t: 1e6 + t,
        lambda t: 2 * t,
        lambda t: t / 2,
        lambda t: t - 0.3 * (t > 10),
        lambda t: t + 600 * (t > 10),
        lambda t: t % 12,
    ],
    ids=["right", "anywhere", "double", "half", "one step", "one jump", "a recording played again and again"],
)
@pytest.mark.parametrize("fps", [0.2, 1, 25, 120])
def test_a_clock_that_can_be_used_is_believed(clock: Callable[[float], float], fps: float) -> None:
    if fps >= 1:
        assert verdicts(pictures(clock, fps=fps)) == []
    else:  # steps cannot be told from the time between pictures
        assert verdicts(pictures(lambda t: t, fps=fps, seconds=300)) == []


def test_a_network_that_stops_and_catches_up_is_no_wrong_clock() -> None:
    chance, arrival, times = random.Random(3), 0.0, []
    waits_until = 0.0
    for n in range(60 * FPS):
        taken = n / FPS
        if chance.random() < 0.02:
            waits_until = taken + chance.uniform(0.5, 4.0)
        arrival = max(arrival + 0.001, taken, waits_until)
        times.append((taken, arrival))
    assert max(arrival - taken for taken, arrival in times) > 2, "the network did stop"
    assert verdicts(times) == []


def test_a_camera_that_is_slow_to_send_steps_with_arrival() -> None:
    assert verdicts((2.0 * HOLE * n, 2.0 * HOLE * n) for n in range(30)) == []


def test_a_burst_at_the_beginning_is_no_wrong_clock() -> None:
    burst = [(n / FPS, n * 0.001) for n in range(10 * FPS)]
    after = [(10 + n / FPS, 0.25 + n / FPS) for n in range(20 * FPS)]
    assert verdicts(burst + after) == []


def test_a_clock_that_is_wrong_for_a_moment_is_believed() -> None:
    watch = ClockWatch()
    for n in range(2 * FPS):
        assert watch.update(0.0, n / FPS, hole=HOLE) == ""
    for n in range(30 * FPS):
        assert watch.update(n / FPS, 2 + n / FPS, hole=HOLE) == ""
