"""Whatever a config says, it is read or it is a ConfigError: mutations of those that ship."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from support.mutations import NASTY, mutated
from support.predictors import FixedPredictor

from model.checkpoint.weights_file import load_weights, read_pickle
from model.errors import CheckpointError
from pipeline.config import StreamConfig
from pipeline.config_file import dump_config, load_config
from pipeline.errors import ConfigError, StreamError
from pipeline.inference.network_predictor import load_predictor
from pipeline.live.stream import Stream

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
NUM_FILES = int(os.environ.get("MUTATIONS", "1500"))
"""`make soak` asks for 10,000."""


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    texts = [path.read_text() for path in CONFIGS if path.name != "default.yaml"]
    # Of the long one a section at a time: a mutation in the rest would hide the others.
    sections = (CONFIGS[0].parent / "default.yaml").read_text().split("\n\n")
    file = tmp_path / "mutated.yaml"
    read = told = 0
    for number in range(NUM_FILES):
        text = mutated(chance.choice(texts + sections), chance)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            config = load_config(file)
        except ConfigError as error:
            told += bool(str(error))
        except BaseException as error:
            raise AssertionError(f"mutation {number} ends in {error!r}:\n{text[:2000]}") from error
        else:
            read += 1
            dump_config(config)
    assert told == NUM_FILES - read
    assert NUM_FILES / 20 < read < NUM_FILES * 0.9


def keys(section: type[StreamConfig] = StreamConfig, path: str = "") -> list[str]:
    """All dotted keys."""
    found = []
    for name, field in section.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        found += [path + name] + ([] if inner is None else keys(field.annotation, f"{path}{name}."))  # type: ignore[arg-type]
    return found


UNTRAINED = [
    "publish.address=none",
    "model.weights=null",
    "model.network={backbone: resnet18, backbone_width: 0.125, hidden_dim: 32, num_heads: 4, ffn_dim: 32, "
    "encoder_layers: 1, decoder_layers: 1, num_queries: 8, height: 64, width: 96, mask_dim: 8}",
]


@pytest.mark.parametrize("key", keys())
def test_any_value_of_any_key_is_used_or_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths of the values
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # the other tests need theirs
    for value in NASTY:
        try:
            config = load_config(None, overrides=[*UNTRAINED, f"{key}={value}"])
            if key.startswith("model"):
                load_predictor(config)
            with Stream(config, predictor=FixedPredictor()):
                pass
        except (ConfigError, StreamError):
            continue
        except BaseException as error:
            raise AssertionError(f"--set {key}={value[:100]} ends in {error!r}") from error


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": {"inputs": {f"c{number}": "demo" for number in range(10_000)}}}, "at most 256"),
        ({"source": {"inputs": {"c" * 1_000_000: "demo"}}}, "is not allowed"),
        ({"model": {"classes": [f"class {number}" for number in range(100_000)]}}, "at most 10000"),
    ],
    ids=["sources", "a name", "classes"],
)
def test_sizes_from_outside_have_limits(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(values=values)
    assert len(str(caught.value)) < 2000


LONG = "x" * 5000


@pytest.mark.parametrize("name", [LONG, "a\0b", "\ud800", ""])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(name)
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(name)
    with pytest.raises(CheckpointError, match="no such file"):
        read_pickle(name)
