"""One step's loss: every stage gives gradients to what it trains, and only to that."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import stage, tiny_options, toy_clips

from model.network import Network, build_model
from model.training.batch import Batch, batches, make_batch
from model.training.data.clip import TrainingClip
from model.training.discriminator import Discriminator
from model.training.options import Stage
from model.training.step import Auxiliary, StepLoss, step_loss
from model.training.targets import Lattice
from ops.preprocess import fit_image

OPTIONS = tiny_options()


def some_stage(**changes: Any) -> Stage:
    return tiny_options(stage(**changes)).stages[0]


def toy_batch(*, num_frames: int = 2) -> Batch:
    """Two windows whose cue speaks."""
    batch = make_batch([toy_clips()(index, num_frames=num_frames) for index in range(2)])
    cues = torch.rand(2, num_frames, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(batch, cues=cues)


def run(network: Network, batch: Batch, made: Stage, *, seed: int = 0, **others: Any) -> StepLoss:
    torch.manual_seed(0)
    auxiliary = others.pop("auxiliary", None) or Auxiliary(OPTIONS.model_config)
    generator = torch.Generator().manual_seed(seed)
    return step_loss(network, auxiliary, batch, made, generator=generator, **others)


def tiny_network() -> Network:
    return build_model(OPTIONS.model_config, seed=0).train()


def lively_network() -> Network:
    """A network none of whose parts starts at zero, as those do whose gradient is zero at first."""
    network = tiny_network()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network


def without_gradient(module: torch.nn.Module) -> set[str]:
    """Parts (first two names) of which no parameter has a gradient."""
    having: dict[str, bool] = {}
    for name, parameter in module.named_parameters():
        part = ".".join(name.split(".")[:2])
        seen = parameter.grad is not None and bool(parameter.grad.any())
        having[part] = having.get(part, False) or seen
    return {part for part, seen in having.items() if not seen}


def test_a_dense_stage_trains_trunk_and_encoder_alone() -> None:
    network, auxiliary = lively_network(), Auxiliary(OPTIONS.model_config)
    loss = run(network, toy_batch(num_frames=1), some_stage(dense_only=True), auxiliary=auxiliary)
    assert loss.terms.keys() == {"centre", "cell_l1", "cell_giou", "foreground"}
    loss.total.backward()
    idle = without_gradient(network)
    assert not any(part.startswith(("backbone", "encoder", "input_proj", "mask_branch")) for part in idle)
    assert {"decoder.layers", "decoder.query_embed"} <= idle
    assert "decoder.selection" not in idle
    assert any(part.startswith("mask_head") for part in idle)


def test_a_window_stage_trains_every_part() -> None:
    network, auxiliary = lively_network(), Auxiliary(OPTIONS.model_config)
    made = some_stage(num_denoising=6, masks_on_all_layers=True)
    loss = run(network, toy_batch(), made, auxiliary=auxiliary)
    loss.total.backward()
    assert without_gradient(network) == set()
    assert without_gradient(auxiliary) == set()
    assert {"mask_0", "dice_0", "class_noised", "mask", "centre"} <= loss.terms.keys()
    assert all(bool(term.isfinite()) and not term.requires_grad for term in loss.terms.values())


def test_terms_follow_the_stage() -> None:
    network, batch = tiny_network().eval(), toy_batch()
    plain = run(network, batch, some_stage(dense_weight=0.0))
    assert plain.terms.keys() == {"class", "l1", "giou", "mask", "dice", "class_0", "l1_0", "giou_0"}
    expected = sum(
        weight * (plain.terms[name] + plain.terms[f"{name}_0"])
        for name, weight in (("class", 2.0), ("l1", 5.0), ("giou", 2.0))
    )
    expected = expected + 2.0 * plain.terms["mask"] + 5.0 * plain.terms["dice"]
    assert float(plain.total.detach()) == pytest.approx(float(expected), rel=1e-5)
    dense = run(network, batch, some_stage(dense_weight=2.0))
    extra = {"centre": 1.0, "cell_l1": 5.0, "cell_giou": 2.0, "foreground": 1.0}
    added = 2 * sum(weight * dense.terms[name] for name, weight in extra.items())
    assert float(dense.total.detach()) == pytest.approx(float(expected + added), rel=1e-5)


def test_masks_of_pixels_change_the_mask_losses_alone() -> None:
    network = tiny_network().eval()
    clips = [toy_clips()(index, num_frames=2) for index in range(2)]
    coarse, fine = (make_batch(clips, lattice=lattice) for lattice in (None, Lattice(2, 0, 1)))
    made = some_stage(num_denoising=4, dense_weight=1.0)
    one, other = (run(network, batch, made).terms for batch in (coarse, fine))
    assert one.keys() == other.keys()
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "mask",
        "dice",
        "mask_noised",
        "dice_noised",
    }


def test_denoising_noise_comes_from_the_generator() -> None:
    network, batch, made = tiny_network().eval(), toy_batch(), some_stage(num_denoising=6)
    one, same, other = (run(network, batch, made, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.total, same.total)
    assert not torch.equal(one.terms["l1_noised"], other.terms["l1_noised"])
    # What the network itself answers does not depend on it.
    assert torch.allclose(one.terms["l1"], other.terms["l1"], atol=1e-6)


def test_the_separability_loss_reaches_masks_and_features_and_not_the_discriminator() -> None:
    network, batch = tiny_network(), toy_batch()
    discriminator = Discriminator(OPTIONS.model_config)
    plain = run(network, batch, some_stage(separability_weight=0.5))
    assert plain.judged is None
    assert "separability" not in plain.terms
    loss = run(network, batch, some_stage(separability_weight=0.5), discriminator=discriminator)
    assert loss.judged is not None
    judged = loss.judged
    assert judged.frames.shape == (4, 3, 64, 64)
    assert judged.real.shape == judged.fake.shape == (4, 1, 16, 16)
    assert set(judged.real.unique().tolist()) == {0.0, 1.0}
    assert [level.shape[2:] for level in judged.levels] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    loss.total.backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert any(parameter.grad is not None for parameter in network.parameters())


def empty_clip() -> TrainingClip:
    clip = toy_clips()(0, num_frames=2)
    return dataclasses.replace(clip, masks=clip.masks[:0], labels=clip.labels[:0])


@pytest.mark.parametrize("num_empty", [1, 2])
def test_windows_without_instances_train_too(num_empty: int) -> None:
    network = tiny_network()
    batch = make_batch([empty_clip(), empty_clip() if num_empty == 2 else toy_clips()(1, num_frames=2)])
    made = some_stage(num_denoising=6, separability_weight=0.1)
    loss = run(network, batch, made, discriminator=Discriminator(OPTIONS.model_config))
    loss.total.backward()
    assert bool(loss.total.isfinite())
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_a_batch_is_normalised_as_live() -> None:
    clip = toy_clips()(0, num_frames=2)
    batch = make_batch([clip])
    live = torch.stack([fit_image(image, height=64, width=64)[0] for image in clip.images])
    assert torch.allclose(batch.normalised()[0], live, atol=1e-6)


def test_a_batch_keeps_ignored_pixels() -> None:
    clip = toy_clips()(0, num_frames=2)
    ignore = np.zeros((2, 64, 64), np.bool_)
    ignore[:, :32] = True
    batch = make_batch([dataclasses.replace(clip, ignore=ignore), clip])
    crowd, plain = batch.targets
    assert crowd.ignore is not None
    assert crowd.ignore[:, :8].all()
    assert not crowd.ignore[:, 8:].any()
    assert plain.ignore is None
    loss = run(tiny_network(), batch, some_stage(num_denoising=3))
    assert bool(loss.total.isfinite())


def test_clips_with_and_without_cues_do_not_mix() -> None:
    clip = toy_clips()(0, num_frames=1)
    with pytest.raises(ValueError, match="some clips of a batch have cues"):
        make_batch([clip, dataclasses.replace(clip, cues=None)])


def numbered(index: int, *, num_frames: int) -> TrainingClip:
    """A clip whose grey level is its number; a module's function, so that another process can have it."""
    images = np.full((num_frames, 8, 8, 3), index, np.uint8)
    return TrainingClip(images, np.zeros((0, num_frames, 8, 8), np.bool_), np.zeros(0, np.int64))


def numbers(**settings: Any) -> list[list[int]]:
    made = batches(numbered, num_frames=1, **settings)
    return [batch.images[:, 0, 0, 0, 0].tolist() for batch in made]


def test_batches_are_numbered_through_and_shared() -> None:
    assert numbers(start=2, stop=4, batch_size=3, num_workers=0) == [[6, 7, 8], [9, 10, 11]]
    shares = [numbers(start=1, stop=3, batch_size=4, num_workers=0, rank=rank, world=2) for rank in (0, 1)]
    assert shares == [[[4, 6], [8, 10]], [[5, 7], [9, 11]]]
    with pytest.raises(ValueError, match="batch_size 1 is less than the 2 processes"):
        numbers(start=0, stop=1, batch_size=1, num_workers=0, world=2)


def test_worker_processes_change_nothing_and_draw_no_random_numbers() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = list(batches(toy_clips(), start=1, stop=3, batch_size=2, num_frames=1, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)  # dropout goes on as without them
    expected = batches(toy_clips(), start=1, stop=3, batch_size=2, num_frames=1, num_workers=0)
    for one, other in zip(made, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(one.targets, other.targets, strict=True))
