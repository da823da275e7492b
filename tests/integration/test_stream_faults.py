"""Whole streams whose cameras fail: the others go on, and a stop is heard at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import acts
from support.acts import Act, steady
from support.fault_server import FaultServer
from support.predictors import FixedPredictor
from support.streams import TINY_NETWORK
from support.wait import wait_until

from pipeline import Stream, StreamConfig

ROOT = Path(__file__).parents[2]
PATIENT = {"connect_timeout_seconds": 60.0, "read_timeout_seconds": 60.0, "wait": True}
BROKEN = {
    "codec": acts.becomes_h265(10),
    "drip": acts.drips(),
    "empty": acts.sei_only(10),
    "missing": acts.answers(404),
    "silent": acts.silent(),
    "stall": acts.stalls(10, 60.0),
}


def test_cameras_that_fail_touch_no_other_and_hold_up_no_stop() -> None:
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(FaultServer(act)).rtsp
            for name, act in {**BROKEN, "good": steady()}.items()
        }
        config = StreamConfig.model_validate(
            {
                "source": {"inputs": urls, **PATIENT},
                "publish": {"address": None},
                "cadence": {"fps": "source"},
            }
        )
        stream = Stream(config, predictor=FixedPredictor(num_masks=1))
        thread = threading.Thread(target=stream.run)
        thread.start()
        sources = stream.sources
        wait_until(
            lambda: (
                [sources[name].state for name in ("good", "empty", "codec")] == ["live", *["stalled"] * 2]
            ),
            what="the broken ones are seen",
        )
        wait_until(
            lambda: stream.report()["sources"]["codec"]["health"], what="what is wrong with it is said"
        )
        seen = stream.report()["sources"]["good"]["published"]
        wait_until(
            lambda: stream.report()["sources"]["good"]["published"] > seen + 25, what="the good one goes on"
        )
        stream.stop()
        assert wait_until(lambda: not thread.is_alive(), what="the stream ends") <= 5
    report = stream.report()
    for name, each in report["sources"].items():
        assert each["end"] == "stopped", name
        assert each["read"] == each["published"] + sum(each["dropped"].values()), name
        assert each["error"] is None, name
    assert report["sources"]["codec"]["packet_errors"] > 0
    # A busy machine may be behind, too.
    assert [n for n, each in report["sources"].items() if "undecodable" in each["health"]] == ["codec"]


@pytest.mark.parametrize("act", [acts.sei_only(10), acts.drips_pictures(20)], ids=["empty", "drip"])
def test_ctrl_c_ends_the_process_whatever_the_camera_does(act: Act, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sets = [
        "model.weights=null",
        f"model.network={json.dumps(TINY_NETWORK)}",
        *(f"source.{key}={json.dumps(value)}" for key, value in PATIENT.items()),
    ]
    with FaultServer(act) as camera:
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "run_stream.py"),
                *("--source", camera.rtsp, "--publish", "none", "--report", str(report), "-v"),
                *(part for each in sets for part in ("--set", each)),
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: camera.num_pictures >= 20, what="it plays", timeout_seconds=60)
        process.send_signal(signal.SIGINT)
        took = wait_until(lambda: process.poll() is not None, what="the process ends", timeout_seconds=60)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0, said
    assert took <= 5, said
    assert "Traceback" not in said
    metrics = json.loads(report.read_text())
    assert metrics["sources"]["source0"]["end"] == "stopped"
    assert metrics["read"] == metrics["published"] + sum(metrics["dropped"].values()) > 0
