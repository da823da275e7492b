"""The two halves of the network as functions of tensors alone, in the form that engines compile.

`EncodeHalf` is `Network.encode_frames`, `DecodeHalf` is `Network.decode_window`; shapes are fixed by a
`HalvesSpec`. Ours.

Dimensions: B windows, T frames, P positions of all levels, C width, Q queries, R cue planes, H × W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.class_lists import chosen_outputs
from model.config import ModelConfig
from model.network import FrameFeatures, Network, Output

__all__ = [
    "DecodeHalf",
    "EncodeHalf",
    "Half",
    "HalvesSpec",
    "class_names",
    "example_inputs",
    "prepared",
    "spec_outputs",
]

Half = Callable[..., tuple[Tensor, ...]]
"""One half as an engine gives it: called like `EncodeHalf` or `DecodeHalf`."""


@dataclass(frozen=True, kw_only=True)
class HalvesSpec:
    """What the two halves are compiled for."""

    height: int
    """Rows of the network's input, pixels."""
    width: int
    num_frames: int
    """T."""
    num_kept: int
    """Queries of a window that are answered for."""
    with_cues: bool
    """Whether frames come with their cue planes."""
    num_windows: int = 1
    """B: windows in one call of the second half."""
    outputs: tuple[int, ...] | None = None
    """Class outputs that count in the choice of queries; None: all that stand for a category."""


def spec_outputs(config: ModelConfig, names: Sequence[str] | None = None) -> tuple[int, ...] | None:
    """`HalvesSpec.outputs` for the classes of these names, None: those that the class list recommends.

    Raises ValueError as `class_lists.chosen_outputs`.
    """
    outputs = chosen_outputs(config.class_list, config.outputs, names)
    return None if outputs == config.used_outputs else outputs


def class_names(network: Network, spec: HalvesSpec) -> list[str]:
    """The names of the classes that count: `spec_outputs` makes the spec's outputs of them again."""
    table = network.config.output_categories
    outputs = network.config.used_outputs if spec.outputs is None else spec.outputs
    return [each.name for index in outputs if (each := table[index]) is not None]


class EncodeHalf(nn.Module):
    """images (1, 3, H, W) and, where the spec has cues, cues (1, R, H, W) → the tensors of FrameFeatures."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        return present(self.network.encode_frames(images, cues))


class DecodeHalf(nn.Module):
    """The tensors of the FrameFeatures of B·T frames → the tensors of Output, `kept` last."""

    def __init__(self, network: Network, spec: HalvesSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        features = assembled(self.network, self.spec, tensors)
        output = self.network.decode_window(
            features,
            num_windows=self.spec.num_windows,
            num_kept=self.spec.num_kept,
            outputs=self.spec.outputs,
        )
        assert output.kept is not None
        return output.logits, output.boxes, output.mask_logits, output.query_embeddings, output.kept


def present(features: FrameFeatures) -> tuple[Tensor, ...]:
    """The tensors that the network's features have: tokens; narrow, c2 and proposals where it uses them."""
    tensors = (features.tokens, features.narrow, features.c2, features.proposals)
    return tuple(tensor for tensor in tensors if tensor is not None)


def assembled(network: Network, spec: HalvesSpec, tensors: tuple[Tensor, ...]) -> FrameFeatures:
    """The features of `present`'s tensors."""
    rest = list(tensors[1:])
    narrow = rest.pop(0) if network.config.variant != "baseline" else None
    c2 = rest.pop(0) if network.config.mask_source != "level1" else None
    proposals = rest.pop(0) if network.detector is not None else None
    return FrameFeatures(
        tokens=tensors[0], narrow=narrow, c2=c2, size=(spec.height, spec.width), proposals=proposals
    )


def prepared(network: Network) -> Network:
    """A copy for inference alone: batch norms are folded into the convolutions before them."""
    ready = copy.deepcopy(network).eval().requires_grad_(False)
    ready.backbone.fold_norms()
    return ready


@torch.inference_mode(False)
@torch.no_grad()
def example_inputs(
    network: Network, spec: HalvesSpec, *, seed: int = 0
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Random inputs of both halves; the second's are what the first makes of random frames."""
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(seed)

    def frame() -> tuple[Tensor, ...]:
        planes = [torch.randn(1, 3, spec.height, spec.width, generator=generator)]
        if spec.with_cues:
            shape = (1, network.config.num_cue_planes, spec.height, spec.width)
            planes.append(torch.rand(shape, generator=generator))
        return tuple(plane.to(parameter.device, parameter.dtype) for plane in planes)

    encode = EncodeHalf(network)
    frames = [frame() for _ in range(spec.num_frames * spec.num_windows)]
    features = [encode(*each) for each in frames]
    return frames[0], tuple(torch.cat(parts) for parts in zip(*features, strict=True))


def to_output(tensors: tuple[Tensor, ...]) -> Output:
    """The second half's result by name."""
    logits, boxes, mask_logits, embeddings, kept = tensors
    return Output(logits=logits, boxes=boxes, mask_logits=mask_logits, query_embeddings=embeddings, kept=kept)
