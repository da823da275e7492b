"""Two networks of one architecture blended, weight by weight.

A network that trains on from another's weights on drawn scenes gains there and loses on real footage; half
way between the two lies part of the gain and none of the loss. Source: weight-space ensembles (WiSE-FT,
Wortsman et al., arXiv 2109.01903), which report it of fine-tuning; docs/model-card.md has it measured here.
"""

from __future__ import annotations

import copy

import torch

from model.errors import CheckpointError
from model.network import Network

__all__ = ["blended"]


@torch.no_grad()
def blended(first: Network, second: Network, *, share: float = 0.5, class_bias: float = 0.0) -> Network:
    """The mean of both networks' weights, `share` of the second's, in eval mode; statistics of norms too.

    class_bias is added to the class logits of the last decoder layer: what a long run on few objects a
    picture has made cautious meets the usual thresholds again.
    Raises ValueError for a share outside 0..1, CheckpointError for networks of different architectures.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share {share} must be in 0..1")
    ours, theirs = first.state_dict(), second.state_dict()
    differing = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    )
    if differing:
        raise CheckpointError(
            f"networks of different architectures cannot be blended: {len(differing)} tensors differ, "
            f"the first is {differing[0]}"
        )
    result = copy.deepcopy(second).eval()
    values = {
        name: torch.lerp(ours[name].float(), value.float(), share).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in theirs.items()
    }
    if class_bias:
        last = f"decoder.class_embed.{result.config.decoder_layers - 1}.bias"
        if last not in values:
            raise CheckpointError(
                "class_bias: these networks take their class logits from a detector, which stays as it is; "
                "leave it out, and set association.birth_score or model.score_thresholds in the stream"
            )
        values[last] = values[last] + class_bias
    result.load_state_dict(values)
    return result
