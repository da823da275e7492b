"""`python -m pipeline adapt` and `python -m model adapt`, which is the same: sources, exit codes, secrets."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.rtsp_server import RtspServer
from support.small_models import live_model, small_config
from support.wire import start_verb

from model.__main__ import main as model_main
from model.checkpoint.weights_file import load_weights, save_weights, weights_path
from model.config import FORMER_WEIGHTS
from pipeline.__main__ import main as pipeline_main

# In a process that has imported pipeline's command line before, as this one.
pytestmark = pytest.mark.filterwarnings("ignore:'pipeline.__main__' found in sys.modules:RuntimeWarning")

ROOT = Path(__file__).parents[2]
Main = Callable[[list[str]], int]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(params=[pipeline_main, model_main], ids=["pipeline", "model"])
def main(request: pytest.FixtureRequest) -> Main:
    """Either command line."""
    found: Main = request.param
    return found


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    save_weights(live_model(small_config()), path, name="street", trained=True)
    return path


def picture(index: int) -> NDArray[np.uint8]:
    """A still, noisy scene with something that moves."""
    image = np.random.default_rng(0).normal(60, 12, (8, 12, 3)).astype(np.float32)
    image = cv2.resize(image, (96, 64), interpolation=cv2.INTER_CUBIC)
    image[16:40, 2 * index % 80 :][:, :16] += 50
    noise = np.random.default_rng(index).normal(0, 3, image.shape)
    return np.asarray((image + noise).clip(0, 255), dtype=np.uint8)


def write_folder(folder: Path, num_images: int) -> Path:
    folder.mkdir()
    for index in range(num_images):
        assert cv2.imwrite(str(folder / f"frame{index}.png"), picture(index)[..., ::-1])
    return folder


def test_a_source_alone_is_enough(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "camera", 19)
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", "--source", str(folder)]) == 0
    assert "norm layers, from 8 frames over 0.7 s" in capsys.readouterr().out
    adapted, shipped = load_weights("adapted.safetensors"), load_weights(weights_path(FORMER_WEIGHTS))
    assert adapted.config == shipped.config
    assert not torch.equal(adapted.backbone.bn1.running_mean, shipped.backbone.bn1.running_mean)
    assert adapted.metadata["adapted_to"] == "camera"
    written = (tmp_path / "adapted.yaml").read_text()
    assert "adapted.safetensors" in written
    assert f"to {folder}\n" in written


def test_a_source_too_short_for_the_cues_is_used_and_told(
    main: Main, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "short", 6)
    output, overlay = tmp_path / "short.safetensors", tmp_path / "mine.yaml"
    arguments = ["--source", str(folder), "--weights", str(weights), "--output", str(output)]
    assert main(["adapt", *arguments, "--config-overlay", str(overlay), "--strength", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "from 6 frames" in told
    assert "too short for the cues" in told
    assert overlay.exists()
    assert not (tmp_path / "short.yaml").exists()
    assert load_weights(output).metadata["adapted_strength"] == "0.5"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.mp4", "no such file"),
        ("text.mp4", "text.mp4"),
        ("empty", "holds no images"),
        ("broken", "no image of the 1"),
        ("ftp://camera/clip.mp4", "ftp:// is not supported"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    main: Main, tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, source: str, message: str
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "empty").mkdir()
    (write_folder(tmp_path / "broken", 1) / "frame0.png").write_bytes(b"")
    output = tmp_path / "out.safetensors"
    url = source if "://" in source else str(tmp_path / source)
    assert main(["adapt", "--source", url, "--weights", str(weights), "--output", str(output)]) == 2
    assert message in caplog.text
    assert url in caplog.text
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fps", "-1"], "fps=-1.0"),
        (["--seconds", "0"], "seconds=0.0"),
        (["--frames", "0"], "num_frames=0"),
        (["--strength", "1.5"], "strength=1.5"),
        (["--weights", "default"], "a frozen trunk"),
        (["--output", "absent/out.safetensors"], "make it first"),
    ],
)
def test_wrong_arguments_end_with_one_before_the_source_is_opened(
    main: Main, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], message: str
) -> None:
    output = ["--output", str(tmp_path / "out.safetensors")]
    assert main(["adapt", "--source", "absent.mp4", *output, *arguments]) == 1
    assert message in caplog.text


def test_an_unknown_flag_ends_with_one(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    code = None
    try:
        code = main(["adapt", "--source", "absent.mp4", "--colour", "red"])
    except SystemExit as stop:
        code = stop.code
    assert code == 1
    assert "--colour" in capsys.readouterr().err


def test_an_interrupted_look_is_no_success(tmp_path: Path, weights: Path) -> None:
    output = tmp_path / "out.safetensors"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/stream"
        process = start_verb("adapt", "--source", url, "--weights", str(weights), "--output", str(output))
        connection, _ = silent.accept()  # it has begun to look
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 1
    assert "interrupted: the weights were not adapted" in said
    assert not output.exists()


@pytest.mark.rtsp
def test_a_live_camera_is_looked_at_for_a_while_and_its_password_stays_secret(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.safetensors"
    arguments = ["--weights", str(weights), "--seconds", "3", "--frames", "10"]
    with RtspServer(live=True, size=(64, 96), user="viewer", password="s3cret") as server:
        url = server.url("/live", user="viewer", password="s3cret")
        assert pipeline_main(["adapt", "--source", url, "--output", str(output), *arguments]) == 0
        wrong = url.replace("s3cret", "wr0ng!")
        refused = ["adapt", "--source", wrong, "--output", str(tmp_path / "other.safetensors"), *arguments]
        assert pipeline_main(refused) == 2
    metadata = load_weights(output).metadata
    assert metadata["adapted_frames"] == "10"
    assert 1.0 < float(metadata["adapted_seconds"]) < 2.0, "three seconds, of which the cues need one"
    assert metadata["adapted_to"].startswith("rtsp://127.0.0.1:")
    written = (tmp_path / "out.yaml").read_text()
    assert not any(secret in text for text in (str(metadata), written) for secret in ("viewer", "/live"))
    told = capfd.readouterr()
    texts = [told.out, told.err, caplog.text, str(metadata), written]
    assert not any(secret in text for text in texts for secret in ("s3cret", "wr0ng"))


def test_a_camera_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "rtsp://admin:hun/t@er2@127.0.0.1:9/stream?token=abcd"
    arguments = ["--source", url, "--weights", str(weights), "--output", str(tmp_path / "out.safetensors")]
    assert pipeline_main(["adapt", *arguments]) == 2
    assert "rtsp://admin:***@127.0.0.1:9/stream" in caplog.text
    assert not any(secret in caplog.text for secret in ("hun", "er2", "abcd"))


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    how = ["-m", *arguments] if code is None else ["-c", code, *arguments]
    return subprocess.run([sys.executable, *how], cwd=ROOT, capture_output=True, text=True, timeout=110)


def untimed(log: str) -> str:
    return re.sub(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "", log)


def test_both_command_lines_say_and_return_the_same() -> None:
    for arguments in (["--source", "absent.mp4"], ["--source"], ["--help"]):
        ours, theirs = (run(package, "adapt", *arguments) for package in ("model", "pipeline"))
        assert (ours.returncode, ours.stdout, untimed(ours.stderr)) == (
            theirs.returncode,
            theirs.stdout,
            untimed(theirs.stderr),
        )
        assert ours.returncode == {"--source": 1, "--help": 0}.get(arguments[-1], 2)


@pytest.mark.parametrize("missing", ["av", "pydantic", "pipeline"])
def test_where_a_package_of_the_sources_is_missing_model_says_so_in_one_sentence(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from model.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = run("adapt", "--source", "absent.mp4", code=code)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: python -m model adapt reads a source, for which the package {missing!r} is missing: "
        "pip install mssts-stream\n"
    )
