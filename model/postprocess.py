"""From the network's output to the candidates of one window, in numpy.

Source: ours. The scores of outputs that do not count are zero here, so that they never win: those that stand
for no category (see `class_lists` for why such outputs exist), and those that a stream was told to leave out.

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
from ops.constants import kept

FloatArray = NDArray[np.float32]

MASK_SCORE_POWER = 2
"""Class scores of boxes that a detector chose know nothing of the masks: they count times the mask's score to
this power (chosen on the tuning half of docs/benchmark-real.md)."""


@dataclass(frozen=True)
class WindowCandidates:
    """What one window may contain, best score first if the output was asked for kept queries.

    scores: (k, K) probability per output, 0 for outputs that do not count; boxes: (k, T, 4) cxcywh in 0..1;
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


class ComingCandidates:
    """Candidates on their way to the host: the one place where results leave the device.

    From a GPU they are copied into pinned memory of torch's allocator, behind what computes them and next to
    whatever the host does; made where nothing must wait, and waited for where they are needed.
    """

    def __init__(
        self,
        output: Output,
        config: ModelConfig,
        outputs: tuple[int, ...] | None = None,
        *,
        keep_masks: bool = False,
    ) -> None:
        """outputs: the class outputs that count, None: all that stand for a category."""
        probabilities = output.logits.float().sigmoid()
        used = config.used_outputs if outputs is None else outputs
        if len(used) < probabilities.shape[-1]:
            probabilities = probabilities * _exists(used, probabilities.shape[-1], probabilities.device)
        if config.query_selection == "detector":
            probabilities = probabilities * mask_scores(output.mask_logits)[..., None] ** MASK_SCORE_POWER
        tensors = (probabilities, output.boxes.transpose(1, 2), output.mask_logits, output.query_embeddings)
        floats = [tensor.detach().float().contiguous() for tensor in tensors]
        self.mask_logits = _own(floats[2], output.mask_logits) if keep_masks else None
        """(B, k, T, h, w) where they were computed, if `keep_masks`."""
        self._tensors = [_to_host(tensor) for tensor in floats]
        self._copied: torch.cuda.Event | None = None
        if probabilities.is_cuda:
            # Blocking: the core is left to other threads meanwhile.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(probabilities.device))

    def wait(self) -> list[WindowCandidates]:
        """The candidates of each of the output's B windows."""
        if self._copied is not None:
            self._copied.synchronize()
        arrays: list[FloatArray] = [tensor.numpy() for tensor in self._tensors]
        return [WindowCandidates(*parts) for parts in zip(*arrays, strict=True)]


def mask_scores(mask_logits: Tensor) -> Tensor:
    """Mean probability inside of masks (B, k, T, h, w), 0.5..1, and 0 where nothing is inside: (B, k).

    Source: Mask2Former's inference, over all frames of the window.
    """
    logits = mask_logits.float()
    inside = logits > 0
    total = (logits.sigmoid() * inside).sum(dim=(-3, -2, -1))
    return total / inside.sum(dim=(-3, -2, -1)).clamp(min=1)


def _own(tensor: Tensor, output: Tensor) -> Tensor:
    """A tensor that the next window does not write to: a captured graph's output is the same memory again."""
    return tensor.clone() if tensor.data_ptr() == output.data_ptr() else tensor


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@kept
def _exists(used: tuple[int, ...], num_outputs: int, device: torch.device) -> Tensor:
    """(K,) 1 for outputs that count, else 0."""
    return torch.tensor([float(index in used) for index in range(num_outputs)])
