"""A weights file is what was written, or it is none: turned bits, numbers that are none, odd metadata."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.small_models import live_model, small_config

from model.checkpoint.weights_file import (
    DIGEST,
    FORMAT,
    digest_of,
    load_weights,
    read_tensors,
    save_weights,
    shipped_weights,
    weights_path,
)
from model.config import FORMER_WEIGHTS
from model.errors import CheckpointError
from pipeline.config_file import load_config
from pipeline.errors import ConfigError
from pipeline.inference.network_predictor import load_predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(live_model(small_config()), path, name="small", trained=True, notes={"made": "by a test"})
    return path


def test_files_hold_a_digest_and_are_what_was_written(weights: Path) -> None:
    metadata, tensors = read_tensors(weights)
    assert metadata[DIGEST] == digest_of(tensors, metadata)
    network = load_weights(weights)
    assert "digest" not in network.metadata
    wanted = live_model(small_config()).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("path", [shipped_weights(), weights_path(FORMER_WEIGHTS)], ids=str)
def test_the_weights_that_ship_hold_one(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        assert file.metadata()[DIGEST].startswith("sha256:")
    assert load_weights(path).trained


def test_turned_bits_anywhere_are_noticed(weights: Path, tmp_path: Path) -> None:
    """400 files with a changed byte, a quarter of them in the header; and 40 with 400 changed bytes."""
    whole = weights.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    before = load_weights(weights).state_dict()
    chance, broken = random.Random(0), tmp_path / "broken.safetensors"
    num_refused = 0
    for number in range(440):
        damaged = bytearray(whole)
        for _ in range(400 if number >= 400 else 1):
            at = chance.randrange(8, header) if number % 4 == 0 else chance.randrange(header, len(whole))
            damaged[at] ^= chance.randrange(1, 256)
        broken.write_bytes(damaged)
        try:
            after = load_weights(broken).state_dict()
        except CheckpointError as error:
            assert str(broken) in str(error)  # noqa: PT017 (it may also load)
            num_refused += 1
        else:
            assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert num_refused >= 430  # spaces after the header mean nothing


def test_a_stream_says_which_file_is_damaged(weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    broken.write_bytes(content)
    config = load_config(None, values={"model": {"weights": str(broken)}, "publish": {"address": None}})
    with pytest.raises(ConfigError, match=r"model\.weights: .*broken.*damaged.*copy it again"):
        load_predictor(config)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_neither_read_nor_written(weights: Path, tmp_path: Path, number: float) -> None:
    metadata, tensors = read_tensors(weights)
    key = next(key for key, value in tensors.items() if value.is_floating_point())
    tensors[key].view(-1)[3] = number
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path, {**metadata, DIGEST: digest_of(tensors, metadata)})
    with pytest.raises(CheckpointError, match=f"no finite number in {key}"):
        load_weights(path)
    network = live_model(small_config())
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = number
    with pytest.raises(ValueError, match="did the training fail"):
        save_weights(network, tmp_path / "other.safetensors", name="other", trained=True)
    assert not (tmp_path / "other.safetensors").exists()


def test_files_of_before_have_no_digest_and_load(weights: Path, tmp_path: Path) -> None:
    metadata, tensors = read_tensors(weights)
    path = tmp_path / "old.safetensors"
    save_file(tensors, path, {key: value for key, value in metadata.items() if key != DIGEST})
    before, after = load_weights(weights).state_dict(), load_weights(path).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "config",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "{}",
        "[]",
        "null",
        '{"height": 1e999}',
        '{"num_queries": 1e308}',
        '{"hidden_dim": 99999999999999999999999}',
        json.dumps({"backbone": "x" * 100_000}),
        "\ud800",
    ],
    ids=range(10),
)
def test_odd_configs_inside_are_refused(weights: Path, tmp_path: Path, config: str) -> None:
    _, tensors = read_tensors(weights)
    path = tmp_path / "odd.safetensors"
    metadata = {
        "format": FORMAT,
        "name": "odd",
        "trained": "true",
        "config": config.encode("utf-8", "replace").decode(),
    }
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="odd") as caught:
        load_weights(path)
    assert len(str(caught.value)) < 2000


def test_a_file_that_is_cut_is_refused(weights: Path, tmp_path: Path) -> None:
    size = weights.stat().st_size
    for length in (0, 4, 8, 100, size // 2, size - 1):
        path = tmp_path / "cut.safetensors"
        shutil.copy(weights, path)
        with path.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(CheckpointError, match="copy it again"):
            load_weights(path)
