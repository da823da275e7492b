"""Random initialisation for training from scratch, and the zeros that make an update start as nothing.

Source: Deformable DETR (offset ring, class bias, box head), Xavier and He elsewhere; reference points on a
grid are ours (training.md: they learn faster from scratch).

Dimensions: C width, Q queries, M heads, L levels, K points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.layers.attention import CellAttention, DeformableAttention, TimeAttention
from model.layers.backbone import FrozenBatchNorm2d
from model.layers.cue_pyramid import CuePyramid
from model.layers.decoder import Decoder, DecoderLayer, ObjectScore, inverse_sigmoid
from model.layers.heads import MLP, DynamicMaskHead
from model.layers.sts import JointBlock, SpatioTemporalSplit

PRIOR_BIAS = -math.log(99.0)
"""Class bias at which every score starts at 1 %."""


def initialise(network: nn.Module, *, generator: torch.Generator, class_bias: float) -> None:
    """Give every parameter and buffer of a network its starting value; global random state stays."""
    with torch.no_grad():
        for module in network.modules():
            _plain(module, generator)
        for module in network.modules():
            _special(module, generator, class_bias)
        level_embed = network.get_parameter("level_embed")
        nn.init.normal_(level_embed, generator=generator)


def zero_updates(network: nn.Module) -> None:
    """Zero the last map of every module that the baseline lacks, so that it adds nothing yet."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SpatioTemporalSplit):
                _zero(module.expand)
            elif isinstance(module, DecoderLayer) and module.time_attention is not None:
                _zero(module.time_attention.out_proj)


def _plain(module: nn.Module, generator: torch.Generator) -> None:
    """Start values by the kind of module alone."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        if module.bias is None:  # the backbone's, each followed by a norm
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        else:
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d | FrozenBatchNorm2d):
        module.weight.fill_(1.0)
        module.bias.fill_(0.0)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        elif isinstance(module, FrozenBatchNorm2d):
            module.running_mean.fill_(0.0)
            module.running_var.fill_(1.0)


def _special(module: nn.Module, generator: torch.Generator, class_bias: float) -> None:
    """Start values that depend on what the module is for."""
    if isinstance(module, DeformableAttention):
        module.sampling.weight.zero_()
        module.sampling.bias.copy_(ring_bias(module))
    elif isinstance(module, TimeAttention):
        nn.init.xavier_uniform_(module.in_proj.weight, generator=generator)
    elif isinstance(module, CellAttention):
        nn.init.normal_(module.slot_embed, generator=generator)
    elif isinstance(module, JointBlock):
        nn.init.normal_(module.level_embed, generator=generator)
    elif isinstance(module, Decoder):
        _decoder(module, generator, class_bias)
    elif isinstance(module, DynamicMaskHead) and module.in_boxes:
        _ellipse(module, generator)
    elif isinstance(module, CuePyramid):
        for out in module.out:
            assert isinstance(out, nn.Conv2d)
            out.weight.zero_()
    if isinstance(module, SpatioTemporalSplit | DecoderLayer):
        zero_updates(module)
    cue_conv = getattr(module, "cue_conv", None)
    if isinstance(cue_conv, nn.Conv2d):
        cue_conv.weight.zero_()


def _decoder(decoder: Decoder, generator: torch.Generator, class_bias: float) -> None:
    if decoder.start is not None:
        nn.init.normal_(decoder.start.source_embed, generator=generator)
    else:
        nn.init.normal_(decoder.query_embed, generator=generator)
    if decoder.selection is None:
        width = decoder.query_embed.shape[1] // 2
        _place_on_grid(decoder.reference_points, decoder.query_embed[:, :width])
    else:
        decoder.selection.class_embed.bias.fill_(PRIOR_BIAS)
    for head in decoder.class_embed:
        if isinstance(head, ObjectScore):
            _zero(head.change)
        else:
            assert isinstance(head, nn.Linear)
            head.bias.fill_(class_bias)
    for index, box_head in enumerate(decoder.bbox_embed):
        assert isinstance(box_head, MLP)
        last = box_head.layers[-1]
        assert isinstance(last, nn.Linear)
        _zero(last)
        if index == 0 and decoder.selection is None:
            last.bias[2:] = -2.0


def _ellipse(head: DynamicMaskHead, generator: torch.Generator) -> None:
    """Let the first mask of every query be near the ellipse in its box: 3 − 3 (x² + y²)."""
    last = head.controller.layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(0.1)
    nn.init.normal_(last.bias, std=0.1, generator=generator)
    c = head.channels
    weight1, weight2, weight3, bias1, bias2, bias3 = torch.split(last.bias, head.splits)
    weight1 = weight1.view(c, c + head.num_places)
    weight1[0] = 0.0
    weight1[0, 2:4] = 1.0  # the squares
    weight2.view(c, c)[0] = 0.0
    weight2.view(c, c)[0, 0] = 1.0
    weight3[0] = -3.0
    bias1[0] = bias2[0] = 0.0
    bias3.fill_(3.0)


def _place_on_grid(reference_points: nn.Linear, query_pos: Tensor) -> None:
    """Choose the linear map so that the queries' first references lie on a grid over the image.

    Possible while there are at most C queries (query_pos is (Q, C) of full rank); else the map stays random.
    """
    Q, C = query_pos.shape
    if Q > C:
        return
    columns = math.ceil(math.sqrt(Q))
    rows = math.ceil(Q / columns)
    index = torch.arange(Q)
    x = (index % columns + 0.5) / columns
    y = (torch.div(index, columns, rounding_mode="floor") + 0.5) / rows
    wanted = inverse_sigmoid(torch.stack((x, y), dim=-1)).double()
    weight = torch.linalg.pinv(query_pos.double()) @ wanted  # (C, 2), of least norm
    reference_points.weight.copy_(weight.t().to(query_pos.dtype))


def ring_bias(attention: DeformableAttention) -> Tensor:
    """Planar sampling bias: head m looks in direction 2πm/M, point k at k + 1 cells; equal weights."""
    M, L, K = attention.num_heads, attention.num_levels, attention.num_points
    angle = torch.arange(M) * (2.0 * math.pi / M)
    direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)  # (M, 2)
    ring = direction[:, None, None] * torch.arange(1, K + 1)[:, None]  # (M, 1, K, 2)
    offsets = ring.expand(M, L, K, 2).permute(3, 0, 1, 2).flatten()
    return torch.cat((offsets, torch.zeros(M * L * K)))


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
