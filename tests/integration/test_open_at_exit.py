"""Scripts that end, fork or are interrupted while a stream is open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from support.predictors import FixedPredictor
from support.video import write_video
from support.wait import wait_until
from support.wire import free_address

from pipeline import Stream
from pipeline.config_file import load_config

ROOT = Path(__file__).parents[2]
HEAD = """
import sys, threading, time
from itertools import islice
from pipeline import Stream, StreamConfig
from support.predictors import FixedPredictor
config = StreamConfig.model_validate(
    {"source": sys.argv[1], "record": {"path": "open_exit.mp4"}, "publish": {"address": None},
     "model": {"weights": None}}
)
def stream():
    return Stream(config, predictor=FixedPredictor(num_masks=2, num_frames=3))
"""
ENDS = {
    "global": ("results = iter(stream()); next(results)", 0),
    "sysexit": ("results = iter(stream()); next(results); sys.exit(3)", 3),
    "zip": ("results = zip(range(3), stream()); print([r.frame.index for _, r in results])", 0),
    "islice": ("s = stream(); results = iter(s); print([r.frame.index for r in islice(results, 3)])", 0),
    "raise": ("results = iter(stream()); next(results); raise ValueError('mine')", 1),
    "loop": ("for r in stream():\n    sys.exit(3)", 3),
    "thread": (
        "seen = []\n"
        "threading.Thread(target=lambda: [seen.append(r) for r in stream()], daemon=True).start()\n"
        "while not seen: time.sleep(0.05)",
        0,
    ),
    "never run": ("s = stream()", 0),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=600)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


@pytest.mark.parametrize("name", ENDS)
def test_a_script_may_end_with_an_open_stream(name: str, clip: Path, tmp_path: Path) -> None:
    body, code = ENDS[name]
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body, str(clip)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert ("Traceback" in done.stderr) == (name == "raise")
    assert not list(tmp_path.glob("*.partial*"))
    if name != "never run":
        with av.open(str(tmp_path / "open_exit.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 1


def test_a_stream_that_never_ran_frees_its_port(clip: Path) -> None:
    address = free_address()
    config = load_config(values={"source": {"inputs": {"c": str(clip)}}, "publish": {"address": address}})
    for _ in range(2):
        stream = Stream(config, predictor=FixedPredictor(num_masks=1))
        stream.close()
        stream.close()
        with pytest.raises(RuntimeError, match="runs once"):
            next(iter(stream))


def test_a_forked_child_is_told_to_be_spawned(clip: Path, tmp_path: Path) -> None:
    body = """
import os
first = stream()
results = iter(first)
next(results)
child = os.fork()
if not child:
    for use in (stream, lambda: next(iter(first))):
        try:
            use()
        except RuntimeError as error:
            assert "spawn" in str(error), error
        else:
            os._exit(7)
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(len(list(results)) > 0, status)
"""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body, str(clip)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True", "0"]), done.stderr


def catches_sigint(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 0.8, 1.6])
def test_ctrl_c_at_the_start_says_nothing(seconds: float, clip: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_stream.py"), "--source", str(clip), "--publish", "none"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    # While the interpreter itself begins, Ctrl-C is its own: Python's handler must have come and gone.
    begun = time.monotonic()
    wait_until(lambda: catches_sigint(process.pid) or time.monotonic() - begun > 0.5, what="Python has begun")
    wait_until(lambda: not catches_sigint(process.pid), what="the program has begun")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (0, -signal.SIGINT), said
