"""Cameras take turns: where none is free no picture comes, and nothing is lost by it."""

from __future__ import annotations

import pytest
from support import acts
from support.fault_server import FaultServer
from support.video import reading
from support.wait import wait_until

from pipeline.sources.turns import NUM_TURNS, TURNS


def test_pictures_wait_for_a_turn_and_none_is_lost() -> None:
    for _ in range(NUM_TURNS):
        assert TURNS.acquire(timeout=10)
    with FaultServer(acts.steady()) as camera, reading(camera.rtsp, max_frames=20) as running:
        wait_until(lambda: camera.num_pictures >= 10, what="it plays")
        assert running.items == []
        TURNS.release(NUM_TURNS)
        wait_until(lambda: running.end is not None, what="it goes on")
        assert [frame.index for frame in running.frames] == list(range(20))


@pytest.mark.parametrize("act", [acts.without_parameter_sets(), acts.damages(3)], ids=["none", "damaged"])
def test_what_cannot_be_decoded_gives_its_turn_back(act: acts.Act) -> None:
    with FaultServer(act) as camera, reading(camera.rtsp, wait=True):
        wait_until(lambda: camera.num_pictures >= 30, what="it plays")
    for _ in range(NUM_TURNS):
        assert TURNS.acquire(timeout=10), "a turn was not given back"
    TURNS.release(NUM_TURNS)
