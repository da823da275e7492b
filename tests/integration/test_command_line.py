"""run_stream.py as a user types it: a process of its own, exit codes, messages, files."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import av
import pytest
import torch
import yaml
from support.rtsp_server import RtspServer
from support.streams import TINY_NETWORK
from support.video import write_video
from support.wait import wait_until

from pipeline.sinks.guard import GuardedSink
from pipeline.sinks.recorder import Recorder
from pipeline.types import FrameResult
from run_stream import main, parse_sources

ROOT = Path(__file__).parents[2]
TINY = ["model.weights=null", f"model.network={json.dumps(TINY_NETWORK)}"]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def command(*arguments: str | Path, tiny: bool = True) -> list[str]:
    sets = [part for each in TINY for part in ("--set", each)] if tiny else []
    return [sys.executable, str(ROOT / "run_stream.py"), *sets, *map(str, arguments)]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Call the command line in this process: the same as a process of its own, without a second import of
    torch."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: str | Path, tiny: bool = True) -> Done:
        try:
            code = main(command(*arguments, tiny=tiny)[2:])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=40)


def test_a_file_is_published_recorded_and_reported(clip: Path, tmp_path: Path) -> None:
    record, report_path = tmp_path / "new" / "overlay.mp4", tmp_path / "report.json"
    address = free_address()
    producer = subprocess.Popen(
        command(
            "--source",
            f"door={clip}",
            "--publish",
            address,
            "--record",
            record,
            "--report",
            report_path,
            "--set",
            "publish.wait_for_subscribers=1",
            "--set",
            "publish.block=true",
        ),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    reader = subprocess.run(
        [sys.executable, "-m", "pipeline", "subscribe", address, "--source", "door", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    _, said = producer.communicate(timeout=60)
    assert producer.returncode == 0, said
    assert reader.returncode == 0, reader.stderr
    messages = [json.loads(line) for line in reader.stdout.splitlines()]
    assert [message["seq"] for message in messages] == list(range(16))
    assert any(message["instances"] for message in messages)
    report = json.loads(report_path.read_text())
    assert report["published"] == 16
    assert report["read"] == 40 == report["published"] + sum(report["dropped"].values())
    assert {
        "read",
        "published",
        "dropped",
        "windows",
        "wall_seconds",
        "fps",
        "time_to_first_mask_seconds",
        "latency_ms",
        "peak_rss_mb",
        "sources",
    } <= set(report)
    assert all(set(each) == {"p50", "p95", "p99"} for each in report["latency_ms"].values())
    with av.open(str(record)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16
    assert "untrained" in said


def test_without_arguments_it_runs_the_street_with_the_default_model_and_publishes(
    run: Callable[..., Done],
) -> None:
    config = yaml.safe_load(run("--print-config", tiny=False).stdout)
    assert config["source"]["inputs"] == {"source0": "street"}
    assert config["publish"]["address"] == "tcp://127.0.0.1:5555"
    assert config["model"]["network"] == {}, "the weights have their own"
    assert config == yaml.safe_load((ROOT / "configs" / "default.yaml").read_text()) | {
        "publish": config["publish"]
    }


def test_flags_win_over_set_and_set_over_the_file(run: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("window: {stride: 2}\nmax_frames: 7\npublish: {address: 'tcp://127.0.0.1:7000'}\n")
    done = run(
        "--config",
        path,
        "--set",
        "window.stride=3",
        "--set",
        "max_frames=8",
        "--max-frames",
        "9",
        "--source",
        "a.mp4",
        "--source",
        "cam=rtsp://host/x?a=b",
        "--publish",
        "none",
        "--print-config",
    )
    config = yaml.safe_load(done.stdout)
    assert config["window"]["stride"] == 3
    assert config["max_frames"] == 9
    assert config["publish"]["address"] is None
    assert config["source"]["inputs"] == {"source0": "a.mp4", "cam": "rtsp://host/x?a=b"}


def test_source_names_are_told_from_urls_with_equal_signs() -> None:
    assert parse_sources(["video=b.mp4"]) == {"video": "b.mp4"}
    assert parse_sources(["rtsp://h/x?user=a", "b=c.mp4", "d.mp4"]) == {
        "source0": "rtsp://h/x?user=a",
        "b": "c.mp4",
        "source2": "d.mp4",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--source", "absent.mp4"], 2, ["absent.mp4", "No such file|does not exist|no such file"]),
        (["--nonsense"], 1, ["--nonsense"]),
        (["--max-frames", "many"], 1, ["--max-frames", "many"]),
        (["--max-frames", "0"], 1, ["max_frames"]),
        (["--config", "absent.yaml"], 1, ["absent.yaml", "No such file"]),
        (["--set", "window.strid=1"], 1, ["window.strid", "stride"]),
        (["--set", "model.network.num_frames=0"], 1, ["num_frames"]),
        (["--set", "window.stride=9"], 1, ["stride 9", "num_frames = 5"]),
        (["--set", "model.weights=absent.safetensors"], 1, ["absent.safetensors"]),
        (["--publish", "tcp://nowhere"], 1, ["tcp://nowhere"]),
        (["--publish", "tcp://0.0.0.0:5999"], 1, ["0.0.0.0", "publish.allow_plaintext: true"]),
        (["--record", "/proc/none/out.mp4"], 1, ["/proc/none"]),
        (["--record", "out.avi"], 1, ["out.avi", ".mp4"]),
        (["--record", "absent/folders/out.mp4"], 1, ["absent/folders", "No such file"]),
        (["--report", "/proc/none/report.json"], 1, ["/proc/none/report.json"]),
        (["--source", "a=demo", "--source", "a=demo"], 1, ["'a'", "twice"]),
        (["--report", "/dev/full", "--max-frames", "2"], 1, ["/dev/full", "No space"]),
        (["--set", "source.read_timeout_seconds=.inf"], 1, ["source.read_timeout_seconds"]),
        (["--set", "model.num_threads=1000000000"], 1, ["model.num_threads", "1024"]),
        (["--set", "max_frames=2020-13-45"], 1, ["max_frames", "YAML"]),
        (["--set", "source.inputs=rtsp://u:s3cr3t@h/x"], 1, ["source.inputs", "rtsp://"]),
        (["--source", "a=rtsp://u:s3cr3t@h/x", "--source", "a=demo"], 1, ["'a'", "twice"]),
        (["--source", "x=" + "y" * 300], 2, ["yyy"]),
        (["--source", "a b=demo"], 1, ["a b", "A-Z a-z 0-9"]),
        (["--source", "a=demo", "--source", "b=demo", "--record", "x.mp4"], 1, ["{source}"]),
    ],
)
def test_bad_input_ends_with_its_code_and_names_the_thing(
    run: Callable[..., Done], arguments: list[str], code: int, words: list[str]
) -> None:
    publish = [] if "--publish" in arguments else ["--publish", "none"]
    done = run(*arguments, *publish)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cr3t" not in done.stderr
    for word in words:
        assert any(option in done.stderr for option in word.split("|")), done.stderr


def test_checkpoints_that_cannot_be_used_are_named(
    run: Callable[..., Done], tmp_path: Path, clip: Path
) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(b'\x40\x00\x00\x00\x00\x00\x00\x00{"a":')
    done = run("--source", clip, "--publish", "none", "--set", f"model.weights={truncated}")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "truncated.safetensors" in done.stderr
    code = tmp_path / "code.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "callback": os.system}, code)
    done = run("--source", clip, "--publish", "none", "--set", f"model.weights={code}")
    assert done.returncode == 1
    assert "code.pth" in done.stderr


def test_an_address_in_use_is_named(run: Callable[..., Done], clip: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--source", clip, "--publish", f"tcp://127.0.0.1:{port}")
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    record, report = tmp_path / "out.mp4", tmp_path / "report.json"
    long_clip = write_video(tmp_path / "long.mp4", num_frames=2000)
    process = subprocess.Popen(
        command(
            "--source",
            long_clip,
            "--record",
            record,
            "--report",
            report,
            "--publish",
            "none",
            "-v",
            "--set",
            "cadence.fps=source",
        ),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = record.with_suffix(".partial.mp4")
    wait_until(
        lambda: partial.exists() and partial.stat().st_size > 0, what="a recording", timeout_seconds=60
    )
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    metrics: dict[str, Any] = json.loads(report.read_text())
    assert metrics["sources"]["source0"]["end"] == "stopped"
    assert 0 < metrics["published"] == metrics["read"] < 2000
    with av.open(str(record)) as container:
        assert sum(1 for _ in container.decode(video=0)) == metrics["published"]


def test_a_recording_that_never_worked_ends_nothing_but_is_exit_code_1(clip: Path, tmp_path: Path) -> None:
    def no_file_may_grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (80, resource.RLIM_INFINITY))

    done = subprocess.run(
        command("--source", clip, "--publish", "none", "--record", tmp_path / "out.mp4", "-v"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        preexec_fn=no_file_may_grow,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("run_stream: recording")
    assert "out.mp4 cannot go on: File too large" in last
    assert "ended (end_of_file)" in done.stderr, "the source was read to its end"
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_recording_that_works_again_is_named_in_the_last_line(
    run: Callable[..., Done], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is over when results were taken for a while; here that while is none."""
    write = Recorder.write

    def remove_once(recorder: Recorder, result: FrameResult) -> None:
        if result.frame.index == 10:
            (tmp_path / "out.partial.mp4").unlink()
        write(recorder, result)

    monkeypatch.setattr(Recorder, "write", remove_once)
    monkeypatch.setattr(GuardedSink, "__init__", partialmethod(GuardedSink.__init__, steady_seconds=0.0))
    done = run("--source", clip, "--publish", "none", "--record", tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert "16 published" in done.stderr.splitlines()[-2]
    assert re.match(r"record: 4 results not taken: .*was removed or moved away", done.stderr.splitlines()[-1])
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def test_a_server_that_refuses_is_given_up_after_the_connect_timeout(run: Callable[..., Done]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"rtsp://admin:s3cr3t@127.0.0.1:{port}/live"
    done = run("--source", url, "--publish", "none", "--set", "source.connect_timeout_seconds=1", "-v")
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert "source.wait" in done.stderr
    assert "s3cr3t" not in done.stderr


@pytest.mark.rtsp
def test_wrong_password_and_wrong_path_end_at_once_with_2_and_no_password(
    run: Callable[..., Done], clip: Path
) -> None:
    with RtspServer(file=clip, user="admin", password="right") as server:
        denied = run("--source", server.url("/file", password="wr0ng"), "--publish", "none", "-v", "-v")
        missing = run("--source", server.url("/nothing"), "--publish", "none", "-v", "-v")
    assert (denied.returncode, missing.returncode) == (2, 2)
    assert "user name or password" in denied.stderr
    assert "nothing at this path" in missing.stderr
    for secret in ("wr0ng", "right"):
        assert secret not in denied.stderr + missing.stderr


def test_an_output_never_overwrites_a_source(run: Callable[..., Done], clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "only-copy.mp4"
    source.write_bytes(clip.read_bytes())
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    for flag, path in (("--record", source), ("--record", link), ("--report", source)):
        done = run("--source", f"cam={source}", "--publish", "none", flag, path)
        assert done.returncode == 1
        assert "source 'cam' itself" in done.stderr
    done = run("--source", source, "--publish", "none", "--record", "x.mp4", "--report", "x.mp4")
    assert done.returncode == 1
    assert source.read_bytes() == clip.read_bytes()
