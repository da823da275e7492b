"""The published baseline's numbers, and the variants that must start as the baseline.

Tolerances are those of tests/reference/README.md: another order of float32 sums changes outputs by 1e-5.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.seqformer_weights import REFERENCE, published_shapes, reference_state_dict
from torch import Tensor

from model.checkpoint.weights_file import load_seqformer
from model.config import ModelConfig, contradictions
from model.layers.encoder import INSIDE
from model.network import Network, Output

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
CLIPS = ("ref_T3_96x160", "ref_T5_120x200")


def reference(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def network_input(clip: Tensor) -> Tensor:
    """(T, H, W, 3) uint8 → (1, T, 3, H, W)."""
    return ((clip.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD)[None]


@lru_cache(maxsize=1)
def baseline() -> Network:
    return load_seqformer(reference_state_dict())


@lru_cache(maxsize=2)
def baseline_output(name: str) -> Output:
    with torch.inference_mode():
        output: Output = baseline()(network_input(reference(name)["clip"]))
    return output


@pytest.mark.parametrize("name", CLIPS)
def test_baseline_gives_the_published_numbers(name: str) -> None:
    expected = reference(name)
    output = baseline_output(name)
    assert (output.logits[0] - expected["pred_logits"]).abs().max() <= 1e-4
    assert (output.boxes[0] - expected["pred_boxes"]).abs().max() <= 1e-4
    masks = expected["pred_masks"]
    assert output.mask_logits.shape[1:] == (300, *masks.shape[1:])
    assert (output.mask_logits[0, : len(masks)] - masks).abs().max() <= 1e-3 * masks.abs().max()


@pytest.mark.parametrize("variant", INSIDE)
def test_variants_start_as_the_baseline_to_the_bit(variant: str) -> None:
    network = load_seqformer(reference_state_dict(), variant=variant)  # type: ignore[arg-type]
    assert network.config.variant == variant
    with torch.inference_mode():
        output = network(network_input(reference(CLIPS[0])["clip"]))
    expected = baseline_output(CLIPS[0])
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.boxes, expected.boxes)
    assert torch.equal(output.mask_logits, expected.mask_logits)


def test_decoder_attention_starts_as_the_baseline_and_the_paper_model_is_light() -> None:
    network = load_seqformer(reference_state_dict(), variant="split", decoder_temporal_attention=True)
    assert 49e6 < sum(value.numel() for value in network.state_dict().values()) <= 51e6
    with torch.inference_mode():
        output = network(network_input(reference(CLIPS[0])["clip"]))
    expected = baseline_output(CLIPS[0])
    assert (output.logits - expected.logits).abs().max() <= 1e-5
    assert (output.boxes - expected.boxes).abs().max() <= 1e-5
    largest = expected.mask_logits.abs().max()
    assert (output.mask_logits - expected.mask_logits).abs().max() <= 1e-5 * largest

    with torch.no_grad():
        for layer in network.decoder.layers[1:]:
            assert layer.time_attention is not None
            layer.time_attention.out_proj.weight.fill_(0.01)
    with torch.inference_mode():
        trained = network(network_input(reference(CLIPS[0])["clip"]))
    assert (trained.boxes - expected.boxes).abs().max() > 1e-3


def test_nothing_of_a_published_checkpoint_is_lost_but_what_is_known_to_be_unused() -> None:
    """733 tensors, 49,306,085 elements published; ours lacks the second box heads and unused projections."""
    shapes = published_shapes()
    assert len(shapes) == 733
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    assert total == 49_306_085
    dropped = sum(
        int(np.prod(shape))
        for key, shape in shapes.items()
        if "decoder.bbox_embed" in key or ("encoder" in key and "output_proj_box" in key)
    )
    assert sum(value.numel() for value in baseline().state_dict().values()) == total - dropped


def test_layout_is_read_from_the_shapes() -> None:
    config = baseline().config
    assert config == ModelConfig.from_dict(
        {
            "backbone": "resnet50",
            "backbone_width": 1.0,
            "norm": "frozen_bn",
            "cues": [],
            "hidden_dim": 256,
            "num_heads": 8,
            "num_points": 4,
            "ffn_dim": 1024,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "num_queries": 300,
            "query_selection": "learned",
            "variant": "baseline",
            "decoder_temporal_attention": False,
            "sts_dim": 64,
            "sts_heads": 8,
            "mask_source": "level1",
            "mask_dim": None,
            "mask_coordinate_scale": 1.0,
            "class_list": "youtube_vis_2019",
            "num_outputs": 42,
            "height": 360,
            "width": 640,
            "num_frames": 5,
        }
    )
    assert baseline().trained


def test_the_shipped_baseline_config_is_the_published_layout() -> None:
    """Else converted weights would contradict `configs/seqformer_r50.yaml`."""
    path = Path(__file__).parents[2] / "configs" / "seqformer_r50.yaml"
    network = yaml.safe_load(path.read_text())["model"]["network"]
    assert ModelConfig.from_dict(network) == baseline().config


@pytest.mark.parametrize("name", ["r50", "r50_t36"])
def test_the_shipped_paper_configs_take_a_published_checkpoint(name: str) -> None:
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    wanted = yaml.safe_load(path.read_text())["model"]["network"]
    stored = dataclasses.replace(baseline().config, variant="split", decoder_temporal_attention=True)
    assert contradictions(stored, wanted) == []
    assert ModelConfig.from_dict(wanted, base=stored) == ModelConfig.from_dict(wanted)
