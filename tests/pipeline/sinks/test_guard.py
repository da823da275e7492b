"""A guarded sink: its faults are counted and told, and go no further."""

from __future__ import annotations

import pytest
from support.results import make_result

from pipeline.errors import OutputError
from pipeline.health import Health
from pipeline.sinks.guard import GuardedSink
from pipeline.types import End, FrameResult, Gap, SourceState


class Moody:
    """A sink that fails while `mood` holds an exception."""

    def __init__(self) -> None:
        self.mood: BaseException | None = None
        self.taken: list[object] = []

    def start(self) -> None:
        self._do("start")

    def write(self, result: FrameResult) -> None:
        self._do(result.frame.index)

    def gap(self, gap: Gap) -> None:
        self._do(gap)

    def state(self, source: str, state: SourceState) -> None:
        self._do(state)

    def end(self, end: End) -> None:
        self._do(end)

    def poll(self) -> None:
        self._do("poll")

    def close(self) -> None:
        self._do("close")

    def _do(self, item: object) -> None:
        if self.mood is not None:
            raise self.mood
        self.taken.append(item)


def guarded(
    steady_seconds: float = 0.0,
) -> tuple[Moody, GuardedSink, dict[str, Health]]:
    sink, health = Moody(), {name: Health(name) for name in ("source0", "yard")}
    guard = GuardedSink(sink, name="record", condition="record", health=health, steady_seconds=steady_seconds)
    return sink, guard, health


def test_a_fault_stands_in_the_health_of_its_source_until_results_are_taken_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink, guard, health = guarded()
    sink.mood = OutputError("the disk is full; free some space")
    for index in range(5):
        guard.write(make_result(index))
    (trouble,) = health["source0"].troubles
    assert trouble.condition == "record"
    assert "the disk is full; free some space" in trouble.detail
    assert health["yard"].troubles == ()
    assert guard.fault is sink.mood
    assert guard.report()["state"] == "failed"
    assert len(caplog.records) == 1, "once, not at each frame"
    sink.mood = None
    guard.write(make_result(5))
    assert health["source0"].troubles == ()
    assert guard.fault is None
    assert guard.report() == {
        "name": "record",
        "state": "ok",
        "fault": "the disk is full; free some space",
        "faults": 5,
        "not_taken": 5,
        "sources": {"source0": 5, "yard": 0},
    }
    assert sink.taken == [5]


def test_a_sink_that_works_now_and_then_does_not_flap() -> None:
    sink, guard, health = guarded(steady_seconds=60.0)
    for index in range(10):
        sink.mood = None if index % 2 else ValueError("odd")
        guard.write(make_result(index))
    assert health["source0"].counts == {"record": 1}
    assert isinstance(guard.fault, ValueError)
    assert guard.num_not_taken == {"source0": 5, "yard": 0}


def test_every_step_but_start_keeps_its_fault_and_all_are_called() -> None:
    sink, guard, health = guarded()
    sink.mood = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        guard.start()
    for call in (
        lambda: guard.gap(Gap("source0", 1, "reconnect")),
        lambda: guard.state("source0", "live"),
        lambda: guard.end(End("source0", 1, "lost")),
    ):
        call()
    assert health["yard"].counts == {}
    guard.poll()
    guard.close()
    assert health["yard"].counts == {"record": 1}, "these two concern all sources"
    assert guard.report()["faults"] == 5
    assert guard.report()["not_taken"] == 0


def test_what_is_no_fault_of_the_sink_passes() -> None:
    sink, guard, health = guarded()
    sink.mood = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        guard.write(make_result(0))
    assert health["source0"].counts == {}
    assert guard.fault is None


def test_a_fault_of_all_sources_is_over_although_one_of_them_is_silent() -> None:
    sink, guard, health = guarded()
    sink.mood = OutputError("the screen is gone")
    guard.poll()
    assert all(each.troubles for each in health.values())
    assert guard.fault is sink.mood
    sink.mood = None
    guard.write(make_result(0))
    assert not any(each.troubles for each in health.values())
    assert guard.fault is None
