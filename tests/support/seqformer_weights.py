"""The weights behind the reference numbers, made by the rule in tests/reference/README.md."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parents[1] / "reference" / "seqformer"


@lru_cache(maxsize=1)
def published_shapes() -> Mapping[str, tuple[int, ...]]:
    """Key → shape of a published SeqFormer ResNet-50 checkpoint."""
    shapes = json.loads((REFERENCE / "state_dict_shapes.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def reference_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of one key."""
    name = key.replace("detr.transformer.decoder.bbox_embed", "detr.bbox_embed")
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 1 + 0.25 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.05 * x
    elif name.endswith("sampling_offsets.bias"):
        x = 2 * x
    elif name.endswith(("query_embed.weight", "level_embed")):
        pass
    elif len(shape) >= 2:
        x = x / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        x = (1 + 0.1 * x) * (0.3 if ".bn3." in name else 1.0)
    else:
        x = 0.05 * x
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


@lru_cache(maxsize=1)
def reference_state_dict() -> Mapping[str, Tensor]:
    """The whole state dict of the reference numbers; not to be changed by a test."""
    return {key: reference_tensor(key, shape) for key, shape in published_shapes().items()}
