"""Boxes, scores and masks are float32 where the rest of the network is not: under autocast, and cast to a
half type for good."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.small_models import live_model, random_images, small_config
from torch import Tensor, nn

from model.engines.halves import prepared
from model.layers.decoder import inverse_sigmoid
from model.network import Decoded, Network

T, H, W = 2, 64, 96

KINDS: list[dict[str, Any]] = [
    {"query_selection": "learned", "mask_source": "level1"},
    {"query_selection": "encoder", "mask_source": "c2"},
]


class Calls:
    """What a module was given and what it answered, every call."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[tuple[Any, ...]] = []
        self.options: list[dict[str, Any]] = []
        self.outputs: list[Tensor] = []
        module.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        self.inputs.append(args)
        self.options.append(options)
        self.outputs.append(output)

    def again(self) -> list[Tensor]:
        """The answers to the same inputs, now."""
        calls = zip(self.inputs, self.options, strict=True)
        return [self.module.forward(*args, **options) for args, options in calls]  # without the hook


def decoded(network: Network) -> Decoded:
    cues = torch.rand(T, 1, H, W, generator=torch.Generator().manual_seed(0))
    return network.decode_layers(network.encode_frames(random_images(T, 3, H, W), cues))


def share_on_bf16_lattice(x: Tensor) -> float:
    return float((x == x.bfloat16().float()).float().mean())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["query_selection"])
@torch.no_grad()
def test_answers_are_float32_under_autocast(kind: dict[str, Any]) -> None:
    network = live_model(small_config(class_list="object", **kind))
    heads = [*network.decoder.class_embed, *network.decoder.bbox_embed, network.mask_head]
    if network.decoder.selection is not None:
        heads += [network.decoder.selection.class_embed, network.decoder.selection.bbox_embed]
    calls = [Calls(head) for head in heads]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoded(network)
        assert found.memory.dtype == torch.bfloat16
        *_, before, last = found.layers
        masks = network.masks(last.queries, last.centres, found)
    assert {last.logits.dtype, last.boxes.dtype, last.centres.dtype, masks.dtype} == {torch.float32}
    for answer in (last.logits, last.boxes, masks):
        assert share_on_bf16_lattice(answer) < 0.1

    for call in calls:
        assert call.outputs
        for under_autocast, plain in zip(call.outputs, call.again(), strict=True):
            assert torch.equal(under_autocast, plain)
    change = network.decoder.bbox_embed[-1](calls[heads.index(network.decoder.bbox_embed[-1])].inputs[0][0])
    assert torch.equal(last.boxes, (change + inverse_sigmoid(before.boxes)).sigmoid())
    if network.decoder.selection is not None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cells = network.decoder.selection.dense(found.memory, found.sizes)
        plain_cells = network.decoder.selection.dense(found.memory, found.sizes)
        assert torch.equal(cells.logits, plain_cells.logits)
        assert torch.equal(cells.boxes, plain_cells.boxes)
        assert share_on_bf16_lattice(cells.boxes) < 0.1


def test_answers_under_autocast_are_differentiable_in_float32() -> None:
    network = live_model(small_config(class_list="object"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoded(network)
        last = found.layers[-1]
        masks = network.masks(last.queries, last.centres, found)
    (masks.mean() + last.boxes.mean() + last.logits.mean()).backward()
    for name in (
        "decoder.class_embed.1.weight",
        "decoder.bbox_embed.1.layers.2.weight",
        "mask_head.controller.layers.0.weight",
        "backbone.conv1.weight",
    ):
        gradient = network.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.dtype == torch.float32
        assert torch.isfinite(gradient).all()
        assert gradient.any(), name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["query_selection"])
@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_answers_of_a_half_network_are_float32(kind: dict[str, Any], autocast: bool) -> None:
    network = prepared(live_model(small_config(class_list="object", **kind))).to_precision(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = decoded(network)
        last = found.layers[-1]
        masks = network.masks(last.queries, last.centres, found)
    assert found.memory.dtype == torch.bfloat16
    assert {last.logits.dtype, last.boxes.dtype, last.centres.dtype, masks.dtype} == {torch.float32}
    assert share_on_bf16_lattice(last.boxes) < 0.1
