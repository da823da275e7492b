"""Stream time: what a clock may do, and when it is not believed any more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from support import acts
from support.acts import Act
from support.fault_server import FaultServer
from support.video import Reading, make_reading

from pipeline.health import Health
from pipeline.sources import picture_watch
from pipeline.sources.clock import StreamClock
from pipeline.stats import Ledger

BASE = Fraction(1, 90_000)


def run(
    clock: Callable[[float], float],
    *,
    fps: float = 25.0,
    seconds: float = 20.0,
    arrival: Callable[[float], float] = lambda seconds: seconds,
    live: bool = True,
) -> tuple[StreamClock, list[tuple[float, bool]]]:
    """Give a clock the pictures of a camera; return it, and each picture's stream time and jump."""
    stream = StreamClock()
    stream.live, stream.fps = live, fps
    times = [number / fps for number in range(int(seconds * fps))]
    told = [stream.time(round(clock(each) / BASE), BASE, arrived=1000.0 + arrival(each)) for each in times]
    return stream, told


GOOD: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "its own origin": (lambda s: 5000 + s, lambda s: s),
    "a little fast": (lambda s: 1.02 * s, lambda s: s),
    "reset once": (lambda s: s if s < 7 else s - 7, lambda s: s),
    "a loop of four seconds": (lambda s: s % 4, lambda s: s),
    "an hour ahead once": (lambda s: s if s < 7 else s + 3600, lambda s: s),
    "held back for four seconds": (lambda s: s, lambda s: s if not 6 < s < 10 else 10.0),
    "held back, then at one and a half": (lambda s: s, lambda s: s if s < 6 else max(s, 10 + (s - 6) / 1.5)),
    "silent while its clock stands": (lambda s: s, lambda s: s if s < 6 else s + 4),
    "silent for long, clock and all": (lambda s: s if s < 6 else s + 8, lambda s: s if s < 6 else s + 8),
    "two seconds at once at the start": (lambda s: s, lambda s: max(s - 2, 0.001 * s)),
    "jitter": (lambda s: s + 0.01 * ((s * 25) % 3), lambda s: s),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("fps", [1.0, 5.0, 25.0, 120.0])
def test_clocks_of_honest_cameras_are_believed(name: str, fps: float) -> None:
    own, arrival = GOOD[name]
    stream, told = run(own, fps=fps, seconds=60, arrival=arrival)
    assert stream.fault == ""
    num_jumps = {"reset once": 1, "a loop of four seconds": 14, "an hour ahead once": 1}
    num_jumps["silent for long, clock and all"] = int(fps > 1)  # eight seconds, or eight pictures
    assert sum(jumped for _, jumped in told) == num_jumps.get(name, 0)


WRONG: dict[str, tuple[Callable[[float], float], str]] = {
    "constant": (lambda s: 7.0, "stands still"),
    "ten times slow": (lambda s: s / 10, "0.1 times as fast"),
    "ten times fast": (lambda s: 10 * s, "10 times as fast"),
    "set back each second": (lambda s: 1000 + s - 0.3 * (s // 1), "set back again and again"),
    "set back far each second": (lambda s: 1000 + s - 2.0 * (s // 1), "set back again and again"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("fps", [5.0, 25.0, 120.0])
def test_clocks_that_cannot_be_true_are_not_believed(name: str, fps: float) -> None:
    own, fault = WRONG[name]
    stream, told = run(own, fps=fps, seconds=40)
    assert fault in stream.fault
    late = [seconds for seconds, _ in told[-int(10 * fps) :]]
    steps = [after - before for before, after in itertools.pairwise(late)]
    assert all(step == pytest.approx(1 / fps, abs=1e-6) for step in steps), "arrival counts"
    assert not any(jumped for _, jumped in told[-int(10 * fps) :])
    stream.restart()
    assert stream.fault == ""


def test_a_file_s_clock_is_never_compared_with_arrival() -> None:
    stream, _ = run(lambda seconds: 10 * seconds, live=False)
    assert stream.fault == ""


def test_a_picture_without_a_time_goes_on_from_the_one_before() -> None:
    stream = StreamClock()
    stream.live, stream.fps = True, 10.0
    told = [stream.time(None, BASE, arrived=number / 10)[0] for number in range(5)]
    assert told == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert stream.time(90_000 * 50, BASE, arrived=0.5) == (50.0, False), "the first true time is no jump"


def watched(act: Act, *, frames: int, **options: object) -> tuple[Reading, Health]:
    """Read so many frames of a scripted camera."""
    with FaultServer(act) as camera:
        reading = make_reading(camera.rtsp, max_frames=frames, **options)
        reading.run()
    assert reading.error is None
    return reading, reading.health


CLOCKS = {
    "constant": acts.clock(acts.stands),
    "slow": acts.clock(acts.runs(0.1)),
    "fast": acts.clock(acts.runs(10.0)),
    "back": acts.clock(acts.steps_back(0.3)),
    "true": acts.steady(),
    "none": acts.clock(acts.without_times),
}


@pytest.fixture(scope="module")
def cameras() -> Iterator[dict[str, Reading]]:
    """Seven seconds of each camera, all at once, at ten frames a second for the model."""
    with ThreadPoolExecutor(len(CLOCKS)) as pool:
        runs = {name: pool.submit(watched, act, frames=175, fps=10.0) for name, act in CLOCKS.items()}
        yield {name: run.result()[0] for name, run in runs.items()}


@pytest.mark.parametrize("name", CLOCKS)
def test_a_camera_whose_clock_is_wrong_keeps_its_cadence(cameras: dict[str, Reading], name: str) -> None:
    camera = cameras[name]
    wrong = name not in ("true", "none")
    assert camera.health.counts == ({"clock": 1} if wrong else {})
    ledger = camera.ledger
    assert ledger.read == len(camera.frames) + sum(ledger.dropped.values()) == 175
    last = [frame for frame in camera.frames if frame.index >= 125]
    assert len(last) == pytest.approx(20, abs=2)
    assert all(after.seconds > before.seconds for before, after in itertools.pairwise(last))


@pytest.mark.parametrize("drawing", ["frozen", "black", "numbered"])
def test_a_picture_that_says_nothing_is_told(drawing: str) -> None:
    act = acts.steady(drawing=drawing)  # type: ignore[arg-type]
    camera, health = watched(act, frames=60, frozen_seconds=1.0)
    wanted = {"frozen": {"frozen"}, "black": {"frozen", "black"}, "numbered": set()}[drawing]
    assert set(health.counts) == wanted
    assert len(camera.frames) == 60


def test_a_picture_that_moves_again_is_healthy_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_watch, "_EVERY_SECONDS", 0.0)
    health = Health("door")
    watch = picture_watch.PictureWatch(health, patience_seconds=0.0)
    dark = np.zeros((96, 160), np.uint8)
    watch.look(dark)
    watch.look(dark)
    assert {each.condition for each in health.troubles} == {"frozen", "black"}
    watch.look(np.arange(96 * 160, dtype=np.uint8).reshape(96, 160))
    assert health.troubles == ()


def test_a_frozen_picture_is_told_in_time_although_not_each_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(picture_watch.time, "monotonic", lambda: now)
    health = Health("door")
    watch = picture_watch.PictureWatch(health, patience_seconds=10.0)
    still, moved = np.full((96, 160), 128, np.uint8), np.full((96, 160), 130, np.uint8)
    told = None
    for number in range(25 * 12):
        now = 1000.0 + number / 25
        watch.look(still)
        if told is None and health.troubles:
            told = now - 1000.0
    assert told == pytest.approx(10.0, abs=0.3)
    for _ in range(8):
        now += 1 / 25
        watch.look(moved)
    assert health.troubles == ()


@pytest.mark.parametrize("skip", [False, True])
def test_damage_is_counted_told_and_by_config_left_out(skip: bool) -> None:
    camera, health = watched(acts.drops(40), frames=150, skip_damaged=skip)
    ledger: Ledger = camera.ledger
    assert ledger.damaged > 0
    assert health.counts.get("damaged") == 1
    damaged = [frame.index for frame in camera.frames if frame.damaged]
    if skip:
        assert damaged == []
        assert ledger.dropped["decode"] == ledger.damaged
    else:
        assert len(damaged) == ledger.damaged
    assert ledger.read == len(camera.frames) + sum(ledger.dropped.values()) == 150
    whole = [frame for frame in camera.frames if not frame.damaged]
    assert whole
