"""Options of a training run: read from TOML, checked, and compared with a checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.training_runs import stage, tiny_options

from model.errors import DatasetError
from model.training.options import Stage, TrainingOptions, differing_fields

CONFIGS = Path(__file__).parents[3] / "configs" / "train"

TEXT = """
data = "street"
seed = 3
piece_bytes = 15000000

[network]
decoder_layers = 2
cues = []

[[stages]]
name = "dense"
steps = 10
crop = [96, 128]
dense_only = true

[[stages]]
name = "clip"
steps = 20
batch_size = 4
num_frames = 3
learning_rate = 2e-4
schedule = "steps"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_with_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    run = TrainingOptions.read(written(tmp_path, TEXT))
    assert (run.data, run.seed, run.piece_bytes, run.precision) == ("street", 3, 15_000_000, "fp32")
    assert run.model_config.decoder_layers == 2
    assert run.model_config.cues == ()
    assert run.stages[0] == Stage(name="dense", steps=10, crop=(96, 128), dense_only=True)
    assert run.stages[1].num_frames == 3
    assert run.stages[1].schedule == "steps"


def test_options_survive_json(tmp_path: Path) -> None:
    run = TrainingOptions.read(written(tmp_path, TEXT))
    stored = json.loads(json.dumps(run.to_dict()))
    assert TrainingOptions.from_dict(stored) == run
    assert differing_fields(stored, run.to_dict()) == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_configs_of_the_repository_are_right(path: Path) -> None:
    assert TrainingOptions.read(path).stages


def changed(*, in_stage: bool = False, **changes: Any) -> dict[str, Any]:
    values = tiny_options(stage(crop=[64, 64])).to_dict()
    (values["stages"][0] if in_stage else values).update(changes)
    return values


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dropout": 1}, r"dropout: 1 must be in \[0, 1\)"),
        ({"seeed": 1}, r"unknown field seeed; did you mean 'seed'\?"),
        ({"zzz": 1}, r"unknown field zzz$"),
        ({"stages": []}, "at least one stage is needed"),
        ({"stages": [stage(), stage()]}, r"stages\.name: \['clip', 'clip'\] must differ"),
        ({"precision": "fp8"}, "precision: 'fp8' is not one of"),
        ({"sampling": "all"}, "sampling: 'all' is not one of"),
        ({"ema_decay": 1.0}, r"ema_decay: 1\.0 must be in \[0, 1\)"),
        ({"disguise": -0.1}, "disguise: -0.1 must be a number of at least 0"),
        ({"disguise": 1.5, "pool_clips": 4}, r"disguise: 1\.5 must be in \[0, 1\]"),
        ({"disguise": 0.5}, "disguise: needs pool_clips"),
        ({"data": "sprites", "figures": "x"}, "figures: is for the street sets"),
        ({"data": "sprites", "photos": "x"}, "photos: is for the street sets"),
        ({"ema_decay": "slow"}, "ema_decay: 'slow' must be a number"),
        ({"piece_bytes": 1000}, "piece_bytes: 1000 must be a whole number of at least 65536"),
        ({"checkpoint_seconds": 0}, "checkpoint_seconds: 0 must be a number above 0"),
        ({"num_workers": -1}, "num_workers: -1 must be a whole number of at least 0"),
        ({"seed": 1.5}, r"seed: 1\.5 must be a whole number"),
        ({"fps": 0}, "fps: 0 must be a number above 0"),
        ({"network": {"num_querys": 3}}, r"num_querys.*did you mean 'num_queries'"),
        ({"network": {"height": 63}}, "height: 63"),
    ],
)
def test_wrong_fields_of_a_run_are_errors(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrainingOptions.from_dict(changed(**changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_frame": 1}, r"unknown field stages\[0\]\.num_frame; did you mean 'num_frames'\?"),
        ({"steps": 0}, r"stages\.steps: 0 must be a whole number of at least 1"),
        ({"steps": True}, r"stages\.steps: True must be a whole number"),
        ({"batch_size": 2.5}, r"stages\.batch_size: 2\.5 must be a whole number"),
        ({"num_frames": "two"}, r"stages\.num_frames: 'two' must be a whole number"),
        ({"num_denoising": -1}, r"stages\.num_denoising: -1"),
        ({"learning_rate": 0}, r"stages\.learning_rate: 0 must be a number above 0"),
        ({"learning_rate": float("nan")}, r"stages\.learning_rate: nan must be a number above 0"),
        ({"clip_norm": -1.0}, r"stages\.clip_norm: -1\.0"),
        ({"dense_weight": -0.5}, r"stages\.dense_weight: -0\.5 must be a number of at least 0"),
        ({"schedule": "linear"}, r"stages\.schedule: 'linear' is not one of"),
        ({"crop": [64]}, r"stages\.crop: \[64\] must be \[height, width\]"),
        ({"crop": [64, 60]}, r"stages\.crop: \[64, 60\] must be .*multiples of 8 from 64"),
        ({"crop": [64.0, 64]}, r"stages\.crop"),
        ({"crop": [72, 64]}, r"stages\.crop: \[72, 64\] is larger than the model's size, \[64, 64\]"),
        ({"mask_pixels": 3}, r"stages\.mask_pixels: 3 is not one of 0, 1, 2, 4"),
        ({"name": ""}, r"stages\.name: '' must be a word"),
    ],
)
def test_wrong_fields_of_a_stage_are_errors(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrainingOptions.from_dict(changed(in_stage=True, **changes))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (changed(in_stage=True, dense_only=1), r"stages\.dense_only: 1 must be true or false"),
        (changed(in_stage=True, crop=64), r"stages\[0\]\.crop: 64 must be \[height, width\]"),
        (changed(stages={"name": "clip"}), "stages: must be tables"),
        (changed(stages=["clip"]), "stages: must be tables"),
        (changed(network=3), "network: must be a table"),
    ],
)
def test_values_of_a_wrong_kind_are_errors(values: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        TrainingOptions.from_dict(values)


def test_missing_fields_are_named() -> None:
    values = changed()
    del values["stages"][0]["steps"]
    with pytest.raises(ValueError, match=r"missing field stages\[0\]\.steps"):
        TrainingOptions.from_dict(values)
    with pytest.raises(ValueError, match="missing field stages"):
        TrainingOptions.from_dict({"seed": 1})


def test_denoising_needs_query_selection() -> None:
    learned = {"query_selection": "learned"}
    assert tiny_options(stage(), network=learned).model_config.query_selection == "learned"
    with pytest.raises(ValueError, match=r"num_denoising: needs network\.query_selection = 'encoder'"):
        tiny_options(stage(num_denoising=3), network=learned)


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"lost\.toml': no such file"):
        TrainingOptions.read(tmp_path / "lost.toml")
    for text, match in (
        ("seed = = 1", "Invalid value"),
        (TEXT + "dropout = 0.1\n", r"unknown field stages\[1\]\.dropout"),
        ("stages = 3", "stages: must be tables"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)run\.toml': .*{match}"):
            TrainingOptions.read(written(tmp_path, text))


def test_differing_fields_are_named_by_their_place() -> None:
    stored = tiny_options(stage("a"), stage("b", steps=7)).to_dict()
    wanted = tiny_options(
        stage("a"), stage("b", steps=8), stage("c"), network={"num_queries": 9}, seed=4, num_workers=2
    ).to_dict()
    lines = differing_fields(stored, wanted)
    assert lines[:3] == [
        "network.num_queries: the checkpoint has 6, asked for 9",
        "seed: the checkpoint has 0, asked for 4",
        "stages[1].steps: the checkpoint has 7, asked for 8",
    ]
    assert lines[3:]
    assert all(line.startswith("stages[2].") for line in lines[3:])


def test_options_cannot_be_changed() -> None:
    run: Any = tiny_options()
    with pytest.raises(AttributeError):
        run.seed = 2
