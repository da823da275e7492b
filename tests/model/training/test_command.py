"""`python -m model train`: starts, stops when the time is up, goes on, and leaves weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.toy_clips import ToyClips
from support.training_runs import NETWORK
from support.ytvis import rle

from model import load_weights
from model.__main__ import main
from model.training.command import trained_network
from model.training.progress import read_log

ROOT = Path(__file__).parents[3]
LENGTH = 6


def data_set(folder: Path) -> Path:
    """A YouTube-VIS file of two videos of discs and bars."""
    videos, annotations = [], []
    for number in (1, 2):
        clip = ToyClips(height=64, width=64)(number, num_frames=LENGTH)
        (folder / str(number)).mkdir(parents=True)
        names = [f"{number}/{frame}.png" for frame in range(LENGTH)]
        for name, image in zip(names, clip.images, strict=True):
            cv2.imwrite(str(folder / name), image[..., ::-1])
        row = {"id": number, "height": 64, "width": 64, "length": LENGTH, "file_names": names}
        videos.append(row)
        annotations += [
            {
                "id": 10 * number + index,
                "video_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "segmentations": [rle(mask) if mask.any() else None for mask in masks],
            }
            for index, masks in enumerate(clip.masks)
        ]
    categories = [{"id": 1, "name": "thing"}]
    path = folder / "toy.json"
    path.write_text(json.dumps({"videos": videos, "categories": categories, "annotations": annotations}))
    return path


def config(folder: Path, *, data: str, extra: str = "", seed: int = 0, num_frames: int = 2) -> Path:
    network = "\n".join(f"{name} = {json.dumps(value)}" for name, value in NETWORK.items())
    path = folder / "run.toml"
    path.write_text(
        f"""
data = {json.dumps(data)}
seed = {seed}
num_workers = 0
piece_bytes = 1000000
{extra}

[[stages]]
name = "dense"
steps = 1
batch_size = 2
dense_only = true

[[stages]]
name = "clip"
steps = 2
batch_size = 2
num_frames = {num_frames}
num_denoising = 3

[network]
{network}
""",
        encoding="utf-8",
    )
    return path


def train(path: Path, output: Path, *options: str) -> int:
    return main(["train", "--config", str(path), "--output", str(output), "--threads", "1", *options])


def test_a_run_stops_goes_on_and_leaves_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = config(tmp_path, data=str(data_set(tmp_path / "data"))), tmp_path / "run"
    texts = []
    for _ in range(4):
        assert train(path, output, "--max-minutes", "0") == 0
        texts.append(capsys.readouterr().out)
    assert "stopped at step 1 of stage dense; run again to go on" in texts[0]
    assert "resumed at step 1 of stage dense" in texts[1]
    assert "stopped at step 1 of stage clip" in texts[1]
    assert "stopped at step 2 of stage clip" in texts[2]
    assert "averaged weights of steps dense:1 clip:2/2" in texts[3]

    weights = load_weights(output / "weights.safetensors")
    assert weights.trained
    assert weights.config.num_queries == NETWORK["num_queries"]
    network, notes = trained_network(output)
    assert notes["seed"] == "0"
    for name, value in network.state_dict().items():
        assert torch.allclose(value.float(), weights.state_dict()[name].float(), rtol=1e-3, atol=1e-4), name
    pieces = list((output / "checkpoint").glob("*.part"))
    assert max(piece.stat().st_size for piece in pieces) <= 1_000_000
    assert [row["stage"] for row in read_log(output / "log.csv")] == ["dense", "clip"]
    assert cv2.imread(str(output / "curves.png")) is not None

    assert main(["convert", str(output), str(tmp_path / "converted.safetensors")]) == 0
    converted = load_weights(tmp_path / "converted.safetensors").state_dict()
    assert all(torch.equal(value, weights.state_dict()[name]) for name, value in converted.items())


def test_another_config_at_resume_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(data_set(tmp_path / "data"))
    assert train(config(tmp_path, data=data), tmp_path / "run", "--max-minutes", "0") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert train(config(tmp_path, data=data, seed=1), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "is of another run" in error
    assert "seed: the checkpoint has 0, asked for 1" in error
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoint").iterdir()}


def test_what_cannot_be_used_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(data_set(tmp_path / "data"))

    def error_of(path: Path, *options: str) -> str:
        assert train(path, tmp_path / "run", *options) == 1
        return capsys.readouterr().err

    assert "no such file" in error_of(tmp_path / "lost.toml")
    assert "unknown field sed; did you mean 'seed'?" in error_of(config(tmp_path, data=data, extra="sed = 1"))
    assert (
        "'streets' is not one of street, street_close, street_closer, street_without_walkers, sprites and "
        "no .json file" in error_of(config(tmp_path, data="streets"))
    )
    assert "needs network.class_list = 'sprites'" in error_of(config(tmp_path, data="sprites"))
    assert "lost.json" in error_of(config(tmp_path, data=str(tmp_path / "lost.json")))
    long = config(tmp_path, data=data, num_frames=LENGTH + 1)
    assert "video 1 has 6 frames, a clip has 7; lower num_frames" in error_of(long)
    good = config(tmp_path, data=data)
    assert "--device 'tpu' is not one of" in error_of(good, "--device", "tpu")
    if not torch.cuda.is_available():
        assert "no CUDA device is available" in error_of(good, "--device", "cuda")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_run_that_is_no_run_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path), str(tmp_path / "out.safetensors")]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err


_BARE_MACHINE = """
import sys

ABSENT = {
    "pydantic", "yaml", "safetensors", "pycocotools", "av", "zmq", "msgpack", "tqdm", "pipeline",
    "matplotlib", "skimage", "sklearn", "skvideo", "PIL", "pandas", "torchvision",
}

class Bare:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
from model.__main__ import main
code = main(sys.argv[1:])
assert ABSENT.isdisjoint(name.split(".")[0] for name in sys.modules)
sys.exit(code)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("data", ["street", "file"])
def test_training_needs_torch_numpy_scipy_and_opencv_alone(tmp_path: Path, data: str) -> None:
    named = data if data == "street" else str(data_set(tmp_path / "data"))
    arguments: list[Any] = ["train", "--config", config(tmp_path, data=named), "--output", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-c", _BARE_MACHINE, *map(str, arguments), "--threads", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "safetensors is not installed here: bring" in done.stdout
    assert "dense 1/1" in done.stderr  # the progress line
    assert "clip 2/2" in done.stderr
    network, _ = trained_network(tmp_path / "run")
    assert all(bool(np.isfinite(value.float().numpy()).all()) for value in network.state_dict().values())
