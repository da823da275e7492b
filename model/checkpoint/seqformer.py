"""The layout of published SeqFormer checkpoints, read from its shapes and renamed to ours.

Source: model.md 1 (733 tensors for ResNet-50). What differs in ours: sampling offsets and attention weights
are one planar map; the encoder's unused `output_proj_box` and the second copy of the box heads are left out.

Dimensions: C width, M heads, L levels, K points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import CheckpointError
from model.layers.backbone import BLOCKS
from model.layers.modules import split_dim

NUM_HEADS = 8
"""M of every published SeqFormer; shapes do not tell it."""

_BODY = "detr.backbone.0.body."

# First match wins; the order of the rows is part of the table.
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"detr\.backbone\.0\.body\.(.+)", r"backbone.\1"),
    (r"detr\.input_proj\.(.+)", r"input_proj.\1"),
    (r"detr\.transformer\.level_embed", r"level_embed"),
    (r"detr\.transformer\.reference_points\.(.+)", r"decoder.reference_points.\1"),
    (r"detr\.query_embed\.weight", r"decoder.query_embed"),
    (r"detr\.(class_embed|bbox_embed)\.(.+)", r"decoder.\1.\2"),
    (r"detr\.transformer\.encoder\.(layers\.\d+)\.self_attn\.(.+)", r"encoder.\1.attention.\2"),
    (r"detr\.transformer\.encoder\.(layers\.\d+)\.(linear\d.+)", r"encoder.\1.ffn.\2"),
    (r"detr\.transformer\.encoder\.(layers\.\d+\.norm\d.+)", r"encoder.\1"),
    (r"detr\.transformer\.decoder\.(layers\.\d+)\.cross_attn\.(output_proj_box.+)", r"decoder.\1.\2"),
    (r"detr\.transformer\.decoder\.(layers\.\d+)\.cross_attn\.(.+)", r"decoder.\1.cross_attention.\2"),
    (
        r"detr\.transformer\.decoder\.(layers\.\d+)\.self_attn(_box)?\.in_proj_(.+)",
        r"decoder.\1.self_attention\2.in_proj.\3",
    ),
    (
        r"detr\.transformer\.decoder\.(layers\.\d+)\.self_attn(_box)?\.out_proj\.(.+)",
        r"decoder.\1.self_attention\2.out_proj.\3",
    ),
    (r"detr\.transformer\.decoder\.(layers\.\d+)\.(linear\d)_box\.(.+)", r"decoder.\1.ffn_box.\2.\3"),
    (r"detr\.transformer\.decoder\.(layers\.\d+)\.(linear\d)\.(.+)", r"decoder.\1.ffn.\2.\3"),
    (
        r"detr\.transformer\.decoder\.(layers\.\d+)\.time_attention_weights\.(.+)",
        r"decoder.\1.frame_weights.\2",
    ),
    (r"detr\.transformer\.decoder\.(layers\.\d+\.norm\d.+)", r"decoder.\1"),
    (r"controller\.(.+)", r"mask_head.controller.\1"),
    (r"mask_head\.(.+)", r"mask_branch.\1"),
)

_DROPPED = re.compile(
    r"detr\.transformer\.encoder\.layers\.\d+\.self_attn\.output_proj_box\..+"
    r"|detr\.transformer\.decoder\.bbox_embed\..+"
    r"|detr\.backbone\.0\.body\..+\.num_batches_tracked"
)


def read_config(tensors: Mapping[str, Tensor], **overrides: Any) -> ModelConfig:
    """The baseline's config that fits the checkpoint's shapes, with the given fields put over it.

    Raises CheckpointError where a key that tells the layout is missing or tells nothing known, ValueError for
    an override that does not fit.
    """

    def shape(key: str) -> torch.Size:
        if key not in tensors:
            raise CheckpointError(
                f"not a SeqFormer checkpoint: it lacks {key!r}, its first keys are {list(tensors)[:3]}"
            )
        size = tensors[key].shape
        dimensions = 4 if key.startswith((_BODY, "mask_head.")) else 2
        if len(size) != dimensions or not all(size):
            raise CheckpointError(
                f"not a SeqFormer checkpoint: {key!r} is {tuple(size)}, expected {dimensions} dimensions"
            )
        return size

    def count(pattern: str) -> int:
        return len({found[1] for key in tensors if (found := re.match(pattern, key))})

    num_levels, hidden_dim = shape("detr.transformer.level_embed")
    rows = shape("detr.transformer.encoder.layers.0.self_attn.attention_weights.weight")[0]
    kind = "bottleneck" if f"{_BODY}layer1.0.conv3.weight" in tensors else "basic"
    depths = tuple(count(rf"{re.escape(_BODY)}layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    names = [name for name, layout in BLOCKS.items() if layout == (kind, depths)]
    if not names:
        raise CheckpointError(
            f"the checkpoint's backbone has {kind} blocks {depths}, which is none of {', '.join(BLOCKS)}"
        )
    values: dict[str, Any] = {
        "backbone": names[0],
        "backbone_width": shape(f"{_BODY}conv1.weight")[0] / 64,
        "norm": "frozen_bn",
        "cues": (),
        "hidden_dim": hidden_dim,
        "num_heads": NUM_HEADS,
        "num_levels": num_levels,
        "num_points": rows // (NUM_HEADS * num_levels),
        "ffn_dim": shape("detr.transformer.encoder.layers.0.linear1.weight")[0],
        "encoder_layers": count(r"detr\.transformer\.encoder\.layers\.(\d+)\."),
        "decoder_layers": count(r"detr\.transformer\.decoder\.layers\.(\d+)\."),
        "num_queries": shape("detr.query_embed.weight")[0],
        "query_selection": "learned",
        "dropout": 0.1,
        "variant": "baseline",
        "intra": "temporal",
        "inter": True,
        "sts_dim": 64,
        "sts_heads": 8,
        "decoder_temporal_attention": False,
        "mask_source": "level1",
        "mask_dim": None,
        "mask_channels": shape("mask_head.lay2.weight")[0],
        "mask_coordinate_scale": 1.0,
        "class_list": "youtube_vis_2019",
        "num_outputs": shape("detr.class_embed.0.weight")[0],
        "height": 360,
        "width": 640,
        "num_frames": 5,
    }
    try:
        published = ModelConfig.from_dict(values | {"class_list": "object"})
    except ValueError as exc:
        raise CheckpointError(f"not a SeqFormer checkpoint that can be read: {exc}") from exc
    return ModelConfig.from_dict({"class_list": values["class_list"], **overrides}, base=published)


def rename(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, sampling maps planar; keys we do not know keep their name."""
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if _DROPPED.fullmatch(key):
            continue
        for pattern, replacement in _RENAMED:
            found = re.fullmatch(pattern, key)
            if found:
                renamed[found.expand(replacement)] = value
                break
        else:
            renamed[key] = value
    for key in [key for key in renamed if ".sampling_offsets." in key]:
        weights_key = key.replace("sampling_offsets", "attention_weights")
        if weights_key in renamed:
            planar = _planar(key, renamed.pop(key), renamed.pop(weights_key), config)
            renamed[key.replace("sampling_offsets", "sampling")] = planar
    return renamed


def _planar(key: str, offsets: Tensor, weights: Tensor, config: ModelConfig) -> Tensor:
    """Rows (head, level, point, xy) and (head, level, point) → [x | y | logits]."""
    samples = config.num_heads * config.num_levels * config.num_points
    if offsets.shape[:1] != (2 * samples,) or weights.shape != (samples, *offsets.shape[1:]):
        raise CheckpointError(
            f"SeqFormer checkpoint: {key} {tuple(offsets.shape)} and its attention_weights "
            f"{tuple(weights.shape)} do not fit {samples} samples"
        )
    x, y = split_dim(offsets, 0, (samples, 2)).unbind(1)
    return torch.cat((x, y, weights))
