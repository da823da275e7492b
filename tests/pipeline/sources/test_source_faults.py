"""Cameras that fail by script: real H.264 and H.265 over RTSP, and how a source survives each act.

Acts take seconds, mostly waiting, so a fixture performs all that are wanted in parallel threads, and each
test looks at its own. After them no thread and no descriptor may be left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support import acts
from support.acts import Act, steady
from support.coded import GOP, NUM_PICTURES, OTHER_SIZE, SIZE
from support.fault_server import FaultServer
from support.leftovers import assert_accounted, descriptors, readers
from support.video import Reading, read_number, reading
from support.wait import wait_until

from pipeline.types import Frame

Story = Callable[[], None]

_STOP_SECONDS = 5.0
_TOGETHER = 12
_NEVER = 60.0


def _numbers(running: Reading, *, epoch: int = 0) -> list[int]:
    return [read_number(frame.image) for frame in running.frames if frame.epoch == epoch]


def _frames_flow(running: Reading, *, epoch: int = 0, number: int = 15) -> None:
    wait_until(
        lambda: sum(frame.epoch == epoch for frame in running.frames) >= number,
        what=f"frames flow in epoch {epoch}",
        timeout_seconds=30,
    )


# Stories: what a camera does, and what must come of it.


def _waits_for(fault: Act, *, login: str = "") -> Story:
    """A camera that is not there at first, `source.wait`."""

    def story() -> None:
        with FaultServer(fault, replace(steady(fps=50), login=login)) as camera:
            url = camera.url("rtsp", login=login)
            with reading(url, wait=True, connect_timeout_seconds=1.0, read_timeout_seconds=1.0) as running:
                _frames_flow(running)
                assert camera.num_connections == 2
        assert_accounted(running)
        assert running.gaps == []
        assert running.ledger.reconnects == 0

    return story


def _comes_back(
    *faults: Act,
    then: Act | None = None,
    transport: str = "tcp",
    login: str = "",
    seen: int = 5,
) -> Story:
    """A camera that was seen and comes back after its faults."""
    after = then or steady(fps=50)

    def story() -> None:
        with FaultServer(*faults, replace(after, login=login)) as camera:
            settings: dict[str, Any] = {"connect_timeout_seconds": 1.0, "read_timeout_seconds": 1.0}
            url = camera.url("rtsp", login=login)
            with reading(url, rtsp_transport=transport, **settings) as running:
                _frames_flow(running, number=seen)
                _frames_flow(running, epoch=1)
                wait_until(lambda: running.source.state == "live", what="it is live")
        assert_accounted(running)
        assert [gap.reason for gap in running.gaps if gap.reason != "cut"] == ["reconnect"]
        assert running.ledger.reconnects == 1
        assert camera.num_connections == len(faults) + 1

    return story


def _goes_on(
    act: Act,
    check: Callable[[Reading], None],
    *,
    transport: str = "tcp",
    number: int = 60,
) -> Story:
    """A camera whose fault does not end the connection."""

    def story() -> None:
        with (
            FaultServer(act, acts.silent()) as camera,
            reading(camera.rtsp, rtsp_transport=transport, read_timeout_seconds=4.0) as running,
        ):
            wait_until(lambda: running.ledger.read >= number, what="frames flow", timeout_seconds=30)
        assert_accounted(running)
        assert running.ledger.reconnects == 0
        check(running)

    return story


def _stops(act: Act, *, playing: bool, transport: str = "tcp") -> Story:
    """A stop is heard at once, although the network may be waited for much longer."""

    def story() -> None:
        settings: dict[str, Any] = {"connect_timeout_seconds": _NEVER, "read_timeout_seconds": _NEVER}
        with FaultServer(act) as camera:
            with reading(camera.rtsp, rtsp_transport=transport, wait=True, **settings) as running:
                reached = (lambda: camera.num_pictures >= 20) if playing else (lambda: camera.num_connections)
                wait_until(reached, what="the act has begun")
                running.stop.set()
                took = wait_until(lambda: running.end is not None, what="the end")
            assert took <= _STOP_SECONDS
            assert_accounted(running)

    return story


def _abandoned_connection_closes() -> None:
    """What a stop leaves behind ends by its own timeouts, although the camera stays."""
    with FaultServer(acts.silent()) as camera:
        with reading(camera.rtsp, connect_timeout_seconds=4.0) as running:
            wait_until(lambda: camera.num_connections, what="it waits for an answer")
        assert_accounted(running)
        wait_until(lambda: not camera.num_open, what="the connection is closed")


def _refused_then_there() -> None:
    with FaultServer(steady(fps=50)) as camera:
        camera.power_off()
        with reading(camera.rtsp, wait=True, connect_timeout_seconds=1.0) as running:
            wait_until(lambda: running.thread is not None and running.thread.is_alive(), what="it begins")
            camera.power_on()
            _frames_flow(running)
    assert_accounted(running)


def _power_cut() -> None:
    with FaultServer(steady(fps=50)) as camera, reading(camera.rtsp) as running:
        _frames_flow(running)
        camera.power_off()
        wait_until(lambda: running.source.state == "reconnecting", what="the loss is seen")
        camera.power_on()
        _frames_flow(running, epoch=1)
    assert_accounted(running)


def _stall_that_is_short() -> None:
    with (
        FaultServer(acts.stalls(10, 2.0), acts.silent()) as camera,
        reading(camera.rtsp, read_timeout_seconds=10.0) as running,
    ):
        wait_until(lambda: running.source.state == "stalled", what="it is stalled")
        wait_until(lambda: running.source.state == "live", what="it is live again")
        _frames_flow(running, number=30)
    assert_accounted(running)
    assert running.gaps == []
    assert _numbers(running)[:30] == list(range(30))


def _one_a_second() -> None:
    """Slow is not stalled, whatever rate the camera announces (25)."""
    with FaultServer(steady(fps=1.0)) as camera, reading(camera.rtsp) as running:
        states = set()

        def arrived() -> bool:
            if running.ledger.read > 2:
                states.add(running.source.state)
            return running.ledger.read >= 5

        wait_until(arrived, what="five frames")
    assert_accounted(running)
    assert states == {"live"}
    assert _numbers(running) == list(range(len(running.frames)))


# What must be true of a camera that goes on.


def _whole(running: Reading) -> None:
    numbers = _numbers(running)
    # A camera whose first packets come in a wrong order is seen from the next key picture on.
    assert numbers[0] in (0, GOP)
    assert numbers == [number % NUM_PICTURES for number in range(numbers[0], numbers[0] + len(numbers))]
    assert running.ledger.packet_errors == 0


def _steady_times(running: Reading) -> None:
    """Nothing lost, and within what belongs together no time goes backwards."""
    assert running.ledger.dropped == dict.fromkeys(running.ledger.dropped, 0)
    before: float | None = None
    for item in running.items:
        if isinstance(item, Frame):
            assert before is None or item.seconds >= before
            before = item.seconds
        else:
            before = None


def _jumped(running: Reading) -> None:
    _steady_times(running)
    assert [gap.reason for gap in running.gaps] == ["discontinuity"]


def _resized(running: Reading) -> None:
    assert [gap.reason for gap in running.gaps if gap.reason != "cut"] == ["resolution"]
    assert {(frame.height, frame.width) for frame in running.frames} == {SIZE, OTHER_SIZE}


def _anything(running: Reading) -> None:
    """The frames that flow are all that is asked for."""


_BEFORE_THE_FIRST = {
    "silent": acts.silent,
    "silent after OPTIONS": acts.silent_after_options,
    "drips": acts.drips,
    "garbage": acts.garbage,
    "400": lambda: acts.answers(400),
    "404": lambda: acts.answers(404),
    "503": lambda: acts.answers(503),
    "sei only": acts.sei_only,
    "no parameter sets": acts.without_parameter_sets,
    "no parameter sets, H.265": lambda: acts.without_parameter_sets(codec="h265"),
}
_LOSSES = {
    "closes": lambda: acts.closes(10),
    "dies mid-GOP": lambda: acts.dies(12),
    "stalls": lambda: acts.stalls(10, _NEVER),
    "sei only": lambda: acts.sei_only(10),
}
_CLOCKS: dict[str, tuple[acts.Clock, Callable[[Reading], None]]] = {
    "begins again": (acts.resets(1.0), _jumped),
    "jumps": (acts.jumps(1.0, 600.0), _jumped),
    "jumps back": (acts.jumps(1.0, -600.0), _jumped),
    "none": (acts.without_times, _steady_times),
    "fast by half": (acts.runs(1.5), _steady_times),
    "slow by half": (acts.runs(0.5), _steady_times),
}


def _stories() -> dict[str, Story]:
    stories: dict[str, Story] = {
        "refused, then there": _refused_then_there,
        "power cut": _power_cut,
        "stall that is short": _stall_that_is_short,
        "1 a second": _one_a_second,
        "wait: wrong password, then right": _waits_for(acts.locked("me:other"), login="me:right"),
        "back: wrong password, then right": _comes_back(
            replace(acts.closes(10), login="me:right"), acts.locked("me:other"), login="me:right"
        ),
        "back: drips pictures": _comes_back(acts.drips_pictures(10)),
        "back: becomes H.265": _comes_back(acts.becomes_h265(10), then=steady("h265", fps=50)),
        "on: reorders": _goes_on(acts.reorders(), _whole, transport="udp"),
        "on: reorders, H.265": _goes_on(acts.reorders(codec="h265"), _whole, transport="udp"),
        "on: 120 a second": _goes_on(steady(fps=120.0), _whole, number=240),
        "on: frozen": _goes_on(steady(drawing="frozen"), _steady_times),
        "on: black": _goes_on(steady(drawing="black"), _steady_times),
        "stop: drips pictures": _stops(acts.drips_pictures(18), playing=False),
        "stop: abandoned connection closes": _abandoned_connection_closes,
        "stop: steady": _stops(steady(), playing=True),
    }
    for name, fault in _BEFORE_THE_FIRST.items():
        stories[f"wait: {name}"] = _waits_for(fault())
        stories[f"back: after it closed, {name}"] = _comes_back(acts.closes(10), fault())
        stories[f"stop: {name}"] = _stops(fault(), playing="parameter" in name or "sei" in name)
    for transport in ("tcp", "udp"):
        for name, fault in _LOSSES.items():
            stories[f"back: {name}, {transport}"] = _comes_back(fault(), transport=transport)
        for codec in ("h264", "h265"):
            stories |= {
                f"on: {name}, {codec}, {transport}": _goes_on(act, check, transport=transport)
                for name, act, check in (
                    ("drops", acts.drops(10, codec=codec), _anything),
                    ("damages", acts.damages(3, codec=codec), _anything),
                    ("resizes", acts.resizes(16, codec=codec), _resized),
                )
            }
        stories[f"stop: stalls, {transport}"] = _stops(
            acts.stalls(20, _NEVER), playing=True, transport=transport
        )
        stories[f"stop: becomes H.265, {transport}"] = _stops(
            acts.becomes_h265(10), playing=True, transport=transport
        )
    for name, (time, check) in _CLOCKS.items():
        stories[f"on: clock {name}"] = _goes_on(acts.clock(time), check)
    return stories


STORIES = list(_stories())


class _Complaints(logging.Handler):
    """Keeps what no camera's fault may cause: errors of ours and tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.found.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(scope="module")
def performed(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The wanted stories, all under way."""
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_source_survives"
    }
    stories = _stories()
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)
    before = descriptors()
    with ThreadPoolExecutor(_TOGETHER) as pool:
        yield {name: pool.submit(story) for name, story in stories.items() if name in wanted}
    logging.getLogger().removeHandler(complaints)
    assert complaints.found == []
    wait_until(lambda: not readers(), what="no thread is left")
    wait_until(lambda: descriptors() <= before, what="no descriptor is left")


@pytest.mark.parametrize("name", STORIES)
def test_source_survives(name: str, performed: dict[str, Future[None]]) -> None:
    performed[name].result(timeout=100)
