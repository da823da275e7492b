"""Blending two networks: what lies between their weights, and what cannot be blended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.small_models import live_model, random_images, small_config

from model.__main__ import main
from model.checkpoint.blend import blended
from model.checkpoint.weights_file import load_weights, save_weights
from model.errors import CheckpointError
from model.network import Network, build_model


def network(seed: int) -> Network:
    return live_model(small_config(norm="bn"), seed=seed)


def test_the_ends_are_the_networks_themselves_and_the_middle_is_their_mean() -> None:
    first, second = network(1), network(2)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    for share, end in ((0.0, first), (1.0, second)):
        values = blended(first, second, share=share).state_dict()
        floating = [name for name, value in values.items() if value.is_floating_point()]
        assert all(torch.equal(values[name], end.state_dict()[name]) for name in floating)
    middle = blended(first, second).state_dict()
    name = "decoder.class_embed.0.weight"
    torch.testing.assert_close(middle[name], (first.state_dict()[name] + second.state_dict()[name]) / 2)
    name = "backbone.bn1.running_var"
    torch.testing.assert_close(middle[name], (first.state_dict()[name] + second.state_dict()[name]) / 2)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_the_class_bias_moves_the_last_layers_logits_alone() -> None:
    first, second = network(1), network(2)
    clip = random_images(2, 3, 64, 96)[None]
    plain, raised = (blended(first, second, class_bias=bias)(clip) for bias in (0.0, 0.3))
    torch.testing.assert_close(raised.logits, plain.logits + 0.3)
    assert torch.equal(raised.mask_logits, plain.mask_logits)
    assert torch.equal(raised.boxes, plain.boxes)


def test_what_cannot_be_blended_is_named() -> None:
    other = live_model(small_config(norm="bn", decoder_layers=1))
    with pytest.raises(CheckpointError, match=r"different architectures .*, the first is decoder\."):
        blended(network(1), other)
    with pytest.raises(ValueError, match=r"share 1\.5 must be in 0\.\.1"):
        blended(network(1), network(2), share=1.5)


def test_the_command_writes_a_file_that_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two", "both")]
    for seed, path in enumerate(paths[:2]):
        save_weights(network(seed), path, name="x", trained=True, notes={"data": "street"})
    assert main(["blend", *paths, "--share", "0.25", "--class-bias", "0.1"]) == 0
    assert "0.25 of two.safetensors over one.safetensors, class bias +0.1" in capsys.readouterr().out
    written = load_weights(paths[2])
    assert written.trained
    assert written.metadata["name"] == "both"
    assert written.metadata["data"] == "street"
    expected = blended(load_weights(paths[0]), load_weights(paths[1]), share=0.25, class_bias=0.1)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(written.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    assert main(["blend", paths[0], str(tmp_path / "none.safetensors"), paths[2]]) == 1
    assert "none.safetensors" in capsys.readouterr().err


def test_networks_with_a_detector_are_blended_and_keep_its_logits() -> None:
    config = small_config(
        backbone="csp",
        query_selection="detector",
        class_list="coco_and_object",
        mask_source="picture",
        mask_coordinates="box",
        num_motion_queries=3,
    )
    first, second = (build_model(config, seed=seed) for seed in (0, 1))
    half = blended(first, second, share=0.5)
    name = "mask_branch.out.weight"
    wanted = (first.get_parameter(name) + second.get_parameter(name)) / 2
    assert torch.allclose(half.get_parameter(name), wanted, atol=1e-6)
    with pytest.raises(CheckpointError, match="class_bias: these networks take their class logits"):
        blended(first, second, class_bias=0.1)
