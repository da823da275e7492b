"""Conditions begin once, are over once, and are said again while they last."""

import logging

import pytest

from pipeline import health
from pipeline.health import Health


def test_a_condition_begins_is_refreshed_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline.health")
    held = Health("door")
    held.end("hung")
    held.begin("hung", "prepare, 5 s")
    held.begin("behind", "12 frames dropped")
    held.begin("hung", "prepare, 6 s")
    first, second = held.troubles
    assert (first.condition, first.detail) == ("hung", "prepare, 6 s")
    assert second.since_ns >= first.since_ns
    held.end("hung")
    held.begin("hung", "prepare, 5 s")
    assert [each.condition for each in held.troubles] == ["behind", "hung"]
    assert held.counts == {"hung": 2, "behind": 1}
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "door: hung: prepare, 5 s"
    assert said[2].startswith("door: hung is over after")
    assert len(said) == 4  # the refreshed detail is not said again within a minute


def test_a_condition_that_lasts_is_said_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REMIND_SECONDS", 0.0)
    held = Health("door")
    held.begin("clock", "constant")
    held.begin("clock", "constant")
    assert [record.getMessage() for record in caplog.records] == ["door: clock: constant"] * 2
