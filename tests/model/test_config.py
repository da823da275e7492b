"""The model's config: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import fields
from typing import Any

import pytest

from model.config import ModelConfig, contradictions


def test_defaults_are_the_cpu_model() -> None:
    config = ModelConfig()
    assert (config.backbone, config.backbone_width, config.norm) == ("resnet18", 0.5, "bn")
    assert (config.height, config.width, config.num_frames, config.num_queries) == (192, 320, 3, 50)
    assert (config.variant, config.intra, config.inter) == ("split", "temporal", True)
    assert config.decoder_temporal_attention
    assert config.cues == ("background", "flow")
    assert config.mask_source == "c2"
    assert 96 <= config.hidden_dim <= 128
    assert config.outputs == 1


def test_round_trip_through_plain_values() -> None:
    config = ModelConfig(variant="baseline", cues=(), sts_layers=3, class_list="coco")
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_from_dict_leaves_the_rest_to_the_base() -> None:
    base = ModelConfig(num_queries=7)
    assert ModelConfig.from_dict({"dropout": 0}, base=base) == dataclasses.replace(base, dropout=0.0)


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().num_frames = 3  # type: ignore[misc]


def test_unknown_key_names_the_closest_and_all_allowed() -> None:
    with pytest.raises(ValueError, match=r"'heigth'.*did you mean 'height'.*num_frames"):
        ModelConfig.from_dict({"heigth": 192})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, "num_frames: 0 must be at least 1"),
        ({"num_queries": -1}, "num_queries: -1"),
        (
            {"height": 190},
            "height: 190 is not an allowed size; use a multiple of 8 from 64 to 2048, such as 192",
        ),
        ({"width": 32}, "width: 32 .* such as 64"),
        ({"width": 4096}, "width: 4096 .* such as 2048"),
        ({"norm": "batch"}, "norm: 'batch' is not one of 'frozen_bn', 'bn', 'gn'"),
        ({"variant": "splitt"}, "variant: 'splitt'"),
        ({"intra": "none", "inter": False}, "neither an intra nor an inter block"),
        ({"hidden_dim": 100}, "hidden_dim: 100 must be a multiple of 32"),
        ({"num_levels": 2}, "num_levels: 2"),
        ({"sts_dim": 30}, "sts_dim: 30"),
        ({"mask_dim": 30}, "mask_dim: 30"),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"backbone_width": 0.0}, "backbone_width: 0.0"),
        ({"backbone_width": 0.3}, "backbone_width: 0.3"),
        ({"mask_coordinate_scale": 0.0}, "mask_coordinate_scale: 0.0"),
        ({"mask_coordinate_scale": 17.0}, "mask_coordinate_scale: 17.0 .* at most 16"),
        ({"mask_coordinate_scale": math.nan}, "mask_coordinate_scale: nan"),
        ({"num_outputs": 1_000_000_000}, "num_outputs: 1000000000 must be at most 16384"),
        ({"num_levels": 9}, "num_levels: 9 .* at most 8"),
        ({"cues": ["depth"]}, "cues: 'depth' is not one of 'background', 'flow'"),
        ({"cues": ["background", "background"]}, "twice"),
        ({"class_list": "youtube_vis_2019", "num_outputs": 41 - 2}, "num_outputs=39 does not fit"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)


NUMBERS = [entry.name for entry in fields(ModelConfig) if str(entry.type).startswith(("int", "float"))]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_an_upper_bound(name: str) -> None:
    assert len(NUMBERS) == 22
    with pytest.raises(ValueError, match=f"{name}: "):
        ModelConfig.from_dict({name: 10**9})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": "5"}, "num_frames: '5' is a str, expected int"),
        ({"num_frames": 5.0}, "num_frames: 5.0 is a float, expected int"),
        ({"num_frames": True}, "num_frames: True is a bool"),
        ({"inter": 1}, "inter: 1 is a int, expected bool"),
        ({"cues": "background"}, "cues: 'background' is a str, expected a list of strings"),
        ({"mask_dim": "32"}, "mask_dim: '32' is a str, expected int or null"),
        ({"variant": None}, "variant: None"),
    ],
)
def test_a_wrong_type_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ModelConfig.from_dict(values)


def test_weights_decide_all_but_the_runtime_fields() -> None:
    stored = ModelConfig()
    assert contradictions(stored, {"height": 256, "num_frames": 3, "num_queries": stored.num_queries}) == []
    lines = contradictions(stored, {"num_queries": 300, "width": 256})
    assert lines == [f"num_queries: 300 was asked for, the weights have {stored.num_queries}"]
    with pytest.raises(ValueError, match="unknown model key"):
        contradictions(stored, {"queries": 3})
