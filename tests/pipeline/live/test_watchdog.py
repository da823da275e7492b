"""A stage that does not answer is told, and holds nothing at a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import pytest
from support.video import write_video
from support.wait import wait_until
from support.wire import free_address

from pipeline import Subscriber
from pipeline import health as health_module
from pipeline.health import Activity, Health
from pipeline.live.watchdog import Watchdog

CHILD = Path(__file__).parents[2] / "support" / "hung_child.py"


def test_what_lasts_far_longer_than_ever_counts_as_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    activity, health = Activity(), {"door": Health("door"), "yard": Health("yard")}
    dog = Watchdog(
        {"inference": activity, "sinks": Activity()}, health, stopped=threading.Event(), on_stuck=print
    )
    dog.close()
    clock = [100.0]
    monkeypatch.setattr(health_module.time, "monotonic", lambda: clock[0])

    def told() -> list[str]:
        dog.look()
        return [name for name, each in health.items() if each.troubles]

    activity.at("the model", "door")
    clock[0] += 14
    assert told() == [], "the first one may take long"
    clock[0] += 2
    assert told() == ["door"]
    activity.idle()
    assert told() == []
    activity.at("the model", "door")
    clock[0] += 60
    assert told() == [], "it took 16 s before"
    clock[0] += 5
    assert told() == ["door"]
    assert "the model has not answered for 65 s" in health["door"].troubles[0].detail
    activity.at("association")
    assert told() == []
    clock[0] += 16
    assert told() == ["door", "yard"], "no source is named: all wait"


@pytest.mark.parametrize("where", ["begin", "finish", "prepare", "sink", "blocked"])
def test_a_stage_that_hangs_does_not_hold_the_process(tmp_path: Path, where: str) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=60)
    address, report = free_address(), tmp_path / "report.json"
    arguments = ["--source", f"door={clip}", "--publish", address, "--record", str(tmp_path / "out.mp4")]
    arguments += ["--report", str(report), "--set", "cadence.fps=source", "--set", "window.stride=1"]
    arguments += ["--set", "publish.wait_for_subscribers=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Subscriber(address, source="door", timeout_seconds=20) as reader:
        process = subprocess.Popen(
            [sys.executable, str(CHILD), where, "12", *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "hung" in line:
                break
        stage = "the sink display" if where in ("sink", "blocked") else "the model"
        assert re.search(rf"door: hung: {stage} has not answered for \d+ s", said[-1]), said
        wait_until(
            lambda: [each.condition for each in reader.health("door") or ()] == ["hung"],
            what="subscribers hear of it",
        )
        wait_until(
            lambda: (reader.heartbeats["door"].last_result_age_ms or 0) > 1000, what="heartbeats are fresh"
        )
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)
        assert time.monotonic() - begun < 5
        assert code == 3
        rest = process.stderr.read()
        assert f"run_stream: {stage}" in rest
        assert "Traceback" not in rest
        received = list(reader)  # it stops at the end message
        assert reader.ended["door"].reason == "error"
        assert "StageHung" in reader.ended["door"].detail
    written = json.loads(report.read_text())
    assert written["read"] == written["published"] + sum(written["dropped"].values())
    assert written["dropped"]["stop"] > 0
    assert written["sources"]["door"]["health"] == {"hung": 1}
    assert len(received) == written["published"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(list(container.decode(video=0))) == written["published"] > 0


@pytest.mark.parametrize(("where", "report"), [("begin", "report.json"), ("blocked", "/dev/full")])
def test_the_first_window_and_a_full_disk_hold_nothing_either(
    tmp_path: Path, where: str, report: str
) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=60)
    arguments = ["--source", f"door={clip}", "--publish", "none", "--report", report]
    last = "0" if where == "begin" else "10"
    process = subprocess.Popen(
        [sys.executable, str(CHILD), where, last, *arguments, "--set", "cadence.fps=source"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(8)  # nothing tells that the first window has begun, since it hangs
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < 6
    assert process.returncode == 3, said
    assert "Traceback" not in said
