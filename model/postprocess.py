"""From the network's output to the candidates of one window, in numpy.

Source: ours. The scores of outputs that stand for no category are zero here, so that they never win; see
`class_lists` for why such outputs exist.

Dimensions: k candidates, K outputs, T frames, C width, h × w mask cells (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.network import Output

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class WindowCandidates:
    """What one window may contain, best score first if the output was asked for kept queries.

    scores: (k, K) probability per output, 0 for outputs without a category; boxes: (k, T, 4) cxcywh in 0..1;
    mask_logits: (k, T, h, w) at stride 4; embeddings: (k, C).
    """

    scores: FloatArray
    boxes: FloatArray
    mask_logits: FloatArray
    embeddings: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(k,) output with the best score; its category is `ModelConfig.output_categories[label]`."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)


def candidates(output: Output, config: ModelConfig) -> list[WindowCandidates]:
    """The candidates of each of the output's B windows."""
    probabilities = output.logits.float().sigmoid()
    used = config.used_outputs
    if len(used) < probabilities.shape[-1]:
        exists = torch.zeros(probabilities.shape[-1], dtype=torch.bool, device=probabilities.device)
        exists[list(used)] = True
        probabilities = probabilities * exists
    # The one place where results leave the device: everything later is host work.
    scores = _numpy(probabilities)
    boxes = _numpy(output.boxes.transpose(1, 2))
    mask_logits = _numpy(output.mask_logits)
    embeddings = _numpy(output.query_embeddings)
    return [WindowCandidates(*parts) for parts in zip(scores, boxes, mask_logits, embeddings, strict=True)]


def _numpy(x: Tensor) -> FloatArray:
    array: FloatArray = x.detach().float().contiguous().cpu().numpy()
    return array
