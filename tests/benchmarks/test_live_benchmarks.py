"""The benchmarks of the live path run and say what they measured: tiny settings, real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import (
    bench_cameras,
    bench_engines,
    bench_live,
    bench_scaling,
    bench_stages,
    camera_page,
    live_page,
    peer_plain,
)
from benchmarks.bench_pipeline import make_720p_clip
from benchmarks.processes import OtherWork, StreamRun
from support.rtsp_server import RtspServer
from support.small_models import small_config
from support.streams import TINY_NETWORK

from model.checkpoint.weights_file import load_weights, weights_path
from model.network import build_model

TINY = {"model.weights": None, "model.network": TINY_NETWORK}
NUM_FRAMES = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_720p_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=NUM_FRAMES)


def test_a_file_is_measured_from_the_command_line_to_the_subscriber(clip: Path) -> None:
    found = bench_live.file_run(clip, engine="eager", stride=2, limit={}, settings=TINY)
    assert found["fps"] > 0
    assert found["predict_p50_ms"] > found["sinks_p50_ms"] > 0


@pytest.mark.rtsp
def test_latency_is_counted_from_the_decoded_frame(clip: Path) -> None:
    long = {**TINY, "source.reconnect_seconds": 30}
    with RtspServer(live=True, size=(96, 128), fps=30) as server:
        found = bench_live.rtsp_run(server.live_url, engine="eager", seconds=1.5, limit={}, settings=long)
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < 5000
    assert found["messages"] >= 2
    assert 0 <= found["stale_percent"] <= 100


@pytest.mark.rtsp
def test_cameras_are_added_until_the_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench_live.rtsp_run

    def tiny(url: str, **how: Any) -> dict[str, Any]:
        found = right(url, settings={**TINY, "source.reconnect_seconds": 30}, **how)
        return found if how["num_streams"] == 1 else {**found, "stale_percent": 2.0}

    monkeypatch.setattr(bench_live, "rtsp_run", tiny)
    monkeypatch.setattr(bench_live, "BUDGET_MS", 60_000.0)
    monkeypatch.setattr(bench_live, "BUDGET_STALE_PERCENT", 1.0)
    with RtspServer(live=True, size=(96, 128), fps=30) as server:
        rows = bench_live.streams_runs(server.live_url, engine="eager", seconds=1.5)
    assert rows[0]["messages"] >= 2
    assert rows[-1]["over"]
    assert [row["streams"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) <= 2


def test_the_first_message_is_waited_for_without_a_mask_too(clip: Path) -> None:
    nothing = {**TINY, "association.birth_score": 1.0}
    found = bench_live.first_mask(clip, engine="eager", environment=bench_live.ENVIRONMENT, settings=nothing)
    assert found["message_seconds"] is not None
    assert found["message_seconds"] > 0
    assert found["mask_seconds"] is None


def test_a_stream_that_cannot_start_is_an_error_with_its_own_words() -> None:
    with (
        pytest.raises(RuntimeError, match=r"(?s)ended with 2: .*missing\.mp4"),
        StreamRun("missing.mp4", TINY, environment=os.environ, block=False) as stream,
    ):
        list(stream.arrivals())


def test_a_peer_without_its_package_is_missing_not_an_error(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "ultralytics.py").write_text("raise ImportError('not here')\n")
    script = Path(bench_live.__file__).with_name("peer_per_frame.py")
    done = subprocess.run(
        [sys.executable, str(script), str(clip)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "pip install ultralytics" in done.stderr
    assert bench_live.summary({"peer per_frame": [{}]}) == [
        {"name": "peer per_frame", "missing": "not installed"}
    ]


def test_a_row_tells_the_best_run_and_the_median() -> None:
    runs = [{"fps": rate, "cores": rate / 10} for rate in (4.0, 9.0, 5.0)]
    assert bench_live.summary({"eager": runs}) == [
        {"name": "eager", "fps": 9.0, "cores": 0.9, "fps_median": 5.0}
    ]


def test_the_plain_peer_counts_its_frames(clip: Path) -> None:
    network = build_model(small_config(), seed=0, class_bias=0.0)
    found = peer_plain.run(network, str(clip), num_frames=NUM_FRAMES)
    assert found["fps"] > 0
    assert found["masks"] > 0
    with pytest.raises(SystemExit, match="3 frames are too few"):
        peer_plain.run(network, str(clip), num_frames=3)


def test_scaling_rows_are_of_each_stream() -> None:
    network = build_model(small_config(), seed=0, class_bias=0.0)
    cell = bench_scaling.Cell(num_frames=3, stride=2, height=64, width=96, num_kept=4, streams=2)
    found = bench_scaling.measure(network, cell, bench_scaling.pictures()[:2], seconds=0.0, engine="eager")
    assert found["fps"] == pytest.approx(2e3 / found["window_ms"])
    assert found["fps_of_a_stream"] == pytest.approx(found["fps"] / 2)
    shapes = {(c.num_frames, c.stride, c.height) for c in bench_scaling.cells()}
    assert len(shapes) == 18
    shipped = load_weights(weights_path("default")).config
    for each in bench_scaling.cells():  # a size that the weights do not take would raise
        replace(shipped, num_frames=each.num_frames, height=each.height, width=each.width)


def test_network_and_spec_a_running_stream_add_up(clip: Path) -> None:
    tiny = {"weights": None, "network": TINY_NETWORK}
    found = bench_stages.run(clip, engine="eager", stride=1, model=tiny)
    by_part = {row["part"]: row for row in found["rows"]}
    assert all(row["calls_a_frame"] == pytest.approx(1, abs=0.2) for row in found["rows"]), found["rows"]
    parts = [row["cpu_ms"] for row in found["rows"] if row["thread"] == "inference" and row["indent"]]
    assert by_part["network: decode"]["cpu_ms"] < sum(parts)
    assert by_part["predict"]["wall_ms"] > by_part["network: decode"]["wall_ms"]


def test_other_programs_are_seen() -> None:
    code = "import time\nwhile time.process_time() < 0.7: pass\nprint(flush=True)\nwhile True: pass"
    began = time.monotonic()
    with OtherWork() as others:
        busy = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert busy.stdout is not None
        busy.stdout.readline()
    seconds = time.monotonic() - began
    busy.kill()
    busy.communicate()
    assert others.cores is not None
    assert others.cores * seconds > 0.6


def test_cameras_that_are_many_or_fail_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cameras, "WARM_UP_SECONDS", 0.2)
    monkeypatch.setattr(bench_cameras, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(bench_cameras, "OUTAGE_SECONDS", 0.5)
    monkeypatch.setattr(bench_cameras, "FAULTS", ("reconnect storm",))
    monkeypatch.setattr(bench_cameras, "READER_WORK_MS", (0,))
    found = bench_cameras.measure(parts=bench_cameras.PARTS, number=2, seconds=0.5, rounds=1)
    assert [row["name"] for row in found["faults"]] == ["none is bad", "reconnect storm"]
    for row in found["many"] + found["faults"]:
        assert row["sent_fps"] > 0
        assert 0 <= row["worst_percent"] <= row["median_percent"]
    assert found["many"][1]["cores_of_peers"] > 0
    for row in found["latest"]:
        assert row["messages"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["worst_ms"]
    (row,) = found["returns"]
    assert row["returns"] == 1
    assert 0 < row["median_seconds"] <= row["worst_seconds"]
    assert "reconnect storm" in "\n".join(camera_page.cameras(found))


def test_the_page_tells_all_metrics() -> None:
    lines = "\n".join(live_page.sections(METRICS))
    for text in ("| 5 | 1 | encode | 8.0 | 9.0 | 4.0 | 4.5 | 2.00× | 2.00× |", "not installed", "no server"):
        assert text in lines
    assert "| compiled, stride 1, AVX2 | 12.5 |" in lines
    assert "| resnet18 192×320, eager, stride 1 | 20.5 |" in lines
    assert "| 192×320 | 5 | 7.0 |" in lines
    assert "(so **1** are served)" in lines
    assert "| 2 | 190 | 320 | 330 | 9.0 | 8 % | 1.90 |" in lines
    assert "2 streams: 7.0 frames/s, 3.5 each" in lines
    assert "· resize | 1.00 | 0.50 |" in lines
    assert "| stream | 97 % | 100 % | 0 | 91 % | 1.30 | 2.6× |" in lines
    assert "| 20 cameras at once | 20 | 2.5 | 6.0 | 9.0 | 0.67 |" in lines


METRICS: dict[str, Any] = json.loads("""{
"engines": {"capability": "AVX2", "others_cores": 0.1, "rows": [{"num_frames": 5, "threads": 1,
  "best_ms": {"eager": {"encode": 8.0}, "inductor": {"encode": 4.0}},
  "median_ms": {"eager": {"encode": 9.0}, "inductor": {"encode": 4.5}},
  "eager_over_compiled": {"encode": {"best": 2.0, "median": 2.0}}}]},
"live": {"threads": 1, "rounds": 2, "frames": 40, "capabilities": ["AVX2"], "others_cores": null,
  "file": [{"name": "inductor, stride 1, AVX2", "fps": 12.5, "fps_median": 12.0, "cores": 1.1,
    "predict_p50_ms": 80, "associate_p50_ms": 3, "sinks_p50_ms": 0.2},
    {"name": "resnet18 192×320, eager, stride 1", "fps": 20.5, "fps_median": 20.0, "cores": 1.5,
    "predict_p50_ms": 43, "associate_p50_ms": 4, "sinks_p50_ms": 0.8},
    {"name": "peer per_frame", "missing": "not installed"}],
  "rtsp": {"cadence": 10, "seconds": 20.0, "rows": [{"name": "RTSP", "missing": "no server"}]},
  "streams": {"cadence": 5, "seconds": 20.0, "budget_ms": 250.0, "rows": [
    {"name": "1 cameras", "streams": 1, "over": false, "latency_ms": {"p50": 90, "p95": 120, "p99": 130},
     "fps": 5, "stale_percent": 0, "cores": 0.5},
    {"name": "2 cameras", "streams": 2, "over": true, "latency_ms": {"p50": 190, "p95": 320, "p99": 330},
     "fps": 9, "stale_percent": 8, "cores": 1.9}]},
  "first_mask": [{"cache": "empty cache", "message_seconds": 5.0, "mask_seconds": null}]},
"cameras": {"fps": 10.0, "rounds": 3, "seconds": 20.0, "others_cores": null, "many": [
  {"name": "stream", "cameras": 40, "worst_percent": 97.0, "median_percent": 100.0, "below_target": 0,
   "worst_of_all_runs_percent": 91.0, "cores": 1.3, "cores_of_peers": 2.6}],
  "returns": [{"name": "20 cameras at once", "returns": 20, "median_seconds": 2.5, "worst_seconds": 6.0,
   "bound_seconds": 9.0, "worst_of_bound": 0.667}]},
"stages": {"others_cores": 0.0, "runs": [{"engine": "eager", "stride": 1, "rows":
  [{"thread": "inference", "indent": 1, "part": "resize", "wall_ms": 1.0, "cpu_ms": 0.5}]}]},
"scaling": {"engine": "eager", "threads": 1, "others_cores": 0.0, "rows": [
  {"num_frames": 5, "stride": 1, "height": 192, "width": 320, "num_kept": 20, "streams": 1,
   "fps": 7.0, "fps_of_a_stream": 7.0},
  {"num_frames": 5, "stride": 1, "height": 192, "width": 320, "num_kept": 20, "streams": 2,
   "fps": 7.0, "fps_of_a_stream": 3.5}]}
}""")


def test_engines_refuse_a_window_shorter_than_the_stride(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_engines.py", "--num-frames", "1"])
    with pytest.raises(SystemExit):
        bench_engines.main()
    assert "at least 2 frames" in capsys.readouterr().err
