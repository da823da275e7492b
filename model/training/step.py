"""One training step's loss: a batch through the network, all loss terms, their weighted sum.

Dimensions: B windows, T frames, Q queries, D denoising queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.decoder import LayerOutput
from model.network import Decoded, Network
from model.training.batch import Batch
from model.training.denoising import NEGATIVE_SHARE, Denoising, DenoisingContent, denoising_queries
from model.training.dense import DenseHeads, dense_losses, dense_targets, foreground_loss
from model.training.discriminator import (
    Discriminator,
    generator_loss,
    level_maps,
    soft_foreground,
    true_foreground,
)
from model.training.losses import (
    LossWeights,
    MaskFunction,
    count_instances,
    counted_cells,
    detection_losses,
    mask_losses,
    matched_masks,
    matched_targets,
    weighted_sum,
    window_losses_and_masks,
)
from model.training.matcher import Matches
from model.training.options import Stage

DENSE_WEIGHTS = {"centre": 1.0, "cell_l1": 5.0, "cell_giou": 2.0, "foreground": 1.0}


class Auxiliary(nn.Module):
    """Parameters that only training has; never part of an exported model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = DenseHeads(config)
        self.denoising = DenoisingContent(config) if config.query_selection == "encoder" else None


@dataclass(frozen=True)
class Judged:
    """What the discriminator looks at: frames (B·T, 3, H, W), union masks (B·T, 1, h, w), encoder levels."""

    frames: Tensor
    real: Tensor
    fake: Tensor
    levels: list[Tensor]


@dataclass(frozen=True)
class StepLoss:
    """total: with gradients; terms: unweighted, detached; judged: None without the separability loss."""

    total: Tensor
    terms: dict[str, Tensor]
    judged: Judged | None = None


def step_loss(
    network: Network,
    auxiliary: Auxiliary,
    batch: Batch,
    stage: Stage,
    *,
    generator: torch.Generator,
    discriminator: Discriminator | None = None,
) -> StepLoss:
    """The loss of one batch in a stage. generator draws the denoising noise (on the CPU)."""
    images = batch.normalised()
    B = images.shape[0]
    cues = None if batch.cues is None else batch.cues.flatten(0, 1)
    features = network.encode_frames(images.flatten(0, 1), cues)
    if stage.dense_only:
        decoded = network.encode_window(features, num_windows=B)
        total, terms = _dense(network, auxiliary, decoded, batch)
        return StepLoss(total, {name: term.detach() for name, term in terms.items()})

    denoising = None
    if stage.num_denoising:
        denoising = denoising_queries(
            auxiliary.denoising,
            network.decoder,
            batch.targets,
            num_queries=stage.num_denoising,
            generator=generator,
        )
    decoded = network.decode_layers(
        features, num_windows=B, extra=None if denoising is None else denoising.extra
    )
    Q = network.config.num_queries
    own = [_queries(layer, slice(0, Q)) for layer in decoded.layers]
    weights = LossWeights(masks_on_all_layers=stage.masks_on_all_layers)

    def masks(queries: Tensor, centres: Tensor) -> Tensor:
        return network.masks(queries, centres, decoded)

    # Whom the detector names keeps the name; what only moves is to be found whatever it is.
    thing = None if network.detector is None else network.config.outputs - 1
    losses = window_losses_and_masks(own, masks, batch.targets, weights=weights, thing_output=thing)
    total, terms = losses.total, dict(losses.terms)
    if denoising is not None:
        noised = [_queries(layer, slice(Q, None)) for layer in decoded.layers]
        num_positive = max(1.0, stage.num_denoising * (1 - 1 / NEGATIVE_SHARE) * B)
        extra, extra_terms = _denoising(noised, denoising, batch, weights, masks, num_positive, thing)
        total = total + extra
        terms |= extra_terms
    if stage.dense_weight:
        dense, dense_terms = _dense(network, auxiliary, decoded, batch)
        total = total + stage.dense_weight * dense
        terms |= dense_terms
    judged = None
    if discriminator is not None:
        judged = _judged(images, batch, losses.matches, losses.mask_logits, decoded)
        deceived = generator_loss(discriminator, judged.frames, judged.fake, judged.levels)
        total = total + stage.separability_weight * deceived
        terms["separability"] = deceived
    return StepLoss(total, {name: term.detach() for name, term in terms.items()}, judged)


def _queries(layer: LayerOutput, chosen: slice) -> LayerOutput:
    return LayerOutput(
        queries=layer.queries[:, chosen],
        logits=layer.logits[:, chosen],
        boxes=layer.boxes[:, :, chosen],
        centres=layer.centres[:, :, chosen],
    )


def _dense(
    network: Network, auxiliary: Auxiliary, decoded: Decoded, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    heads = auxiliary.dense.selection or network.decoder.selection
    assert heads is not None
    wanted = dense_targets(
        batch.targets, decoded.sizes, image_size=decoded.size, num_outputs=heads.num_outputs
    )
    terms = dense_losses(heads.dense(decoded.memory, decoded.sizes), wanted)
    terms["foreground"] = foreground_loss(auxiliary.dense.foreground(decoded.mask_features), batch.targets)
    total = torch.stack([DENSE_WEIGHTS[name] * term for name, term in terms.items()]).sum()
    return total, terms


def _denoising(
    layers: list[LayerOutput],
    denoising: Denoising,
    batch: Batch,
    weights: LossWeights,
    masks: MaskFunction,
    num_positive: float,
    thing_output: int | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of the denoising queries: boxes and classes a mean over the positive ones (num_positive, the
    same in every process), masks of one query per instance and kind, as they cost the most."""
    matches = denoising.matches
    num_instances = count_instances(batch.targets, layers[0].logits.device)
    total = layers[0].logits.new_zeros((), dtype=torch.float32)
    for layer in layers:
        terms = detection_losses(
            layer, batch.targets, matches, num_instances=num_positive, thing_output=thing_output
        )
        total = total + weighted_sum(terms, weights)
    first = _first_of_each(matches, denoising.num_named)
    logits = matched_masks(layers[-1], first, masks)
    shapes = mask_losses(
        logits,
        matched_targets(batch.targets, first).finest_masks,
        num_instances=num_instances,
        counted=counted_cells(batch.targets, first),
        lattice=batch.targets[0].lattice,
    )
    total = total + weighted_sum(shapes, weights)
    named = {f"{name}_noised": term for name, term in (terms | shapes).items()}
    return total, named


def _first_of_each(matches: Matches, num_named: int) -> Matches:
    """Of each window's pairs, sorted by instance, then query, the first of each instance among the first
    num_named queries, and among the others. One wait for all windows."""
    pairs = [torch.stack(pair) for pair in matches]
    host = torch.cat(pairs, dim=1).cpu()
    places, first = [], 0
    for pair in pairs:
        queries, instances = host[:, first : first + pair.shape[1]]
        kind = instances * 2 + (queries >= num_named)
        new = torch.ones_like(instances, dtype=torch.bool)
        new[1:] = kind[1:] != kind[:-1]
        places.append(new.nonzero()[:, 0].to(pair.device))
        first += pair.shape[1]
    return [
        (queries[place], instances[place]) for (queries, instances), place in zip(pairs, places, strict=True)
    ]


def _judged(images: Tensor, batch: Batch, matches: Matches, mask_logits: Tensor, decoded: Decoded) -> Judged:
    """Union masks of the frames: the true ones, and the matched queries' (soft)."""
    return Judged(
        frames=images.flatten(0, 1),
        real=true_foreground(batch.targets),
        fake=soft_foreground(mask_logits, [len(queries) for queries, _ in matches]),
        levels=level_maps(decoded.memory, decoded.sizes),
    )
