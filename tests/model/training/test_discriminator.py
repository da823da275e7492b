"""The foreground-background separability loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.small_models import live_model, random_images, small_config
from torch import Tensor

from model.layers.position import image_level_sizes
from model.training.discriminator import (
    WIDTHS,
    Discriminator,
    discriminator_loss,
    generator_loss,
    level_maps,
    soft_foreground,
    true_foreground,
)
from model.training.targets import Target

ROOT = Path(__file__).parents[3]
CONFIG = small_config()


def scene(height: int, width: int, *, N: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Frames, masks at stride 4 and features of every level."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(N, 3, height, width, generator=generator)
    masks = torch.rand(N, 1, height // 4, width // 4, generator=generator)
    levels = [
        torch.randn(N, CONFIG.hidden_dim, h, w, generator=generator)
        for h, w in image_level_sizes(height, width, CONFIG.num_levels)
    ]
    return frames, masks, levels


@pytest.mark.parametrize("size", [(96, 160), (192, 320), (64, 64), (104, 168)])
def test_there_is_a_logit_per_cell_of_the_coarsest_level(size: tuple[int, int]) -> None:
    frames, masks, levels = scene(*size)
    logits = Discriminator(CONFIG)(frames, masks, levels)
    assert logits.shape == (2, 1, *image_level_sizes(*size, 4)[-1])
    assert torch.isfinite(logits).all()


def test_the_widths_are_the_designs() -> None:
    d = Discriminator(small_config(num_levels=5))
    convolutions = [m for m in d.modules() if isinstance(m, torch.nn.Conv2d)]
    width = CONFIG.hidden_dim
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions]
    assert shapes == [
        (width + 4, 64, 3),
        *[(width, 64, 1)] * 4,
        (64, 64, 3),
        (64, 128, 3),
        (128, 256, 3),
        (256, 512, 3),
        (512, 1, 3),
    ]
    assert WIDTHS == (64, 128, 256, 512)


def test_every_input_matters() -> None:
    d = Discriminator(CONFIG)
    frames, masks, levels = scene(96, 160)
    inputs = [frames.requires_grad_(), masks.requires_grad_(), *[level.requires_grad_() for level in levels]]
    d(frames, masks, levels).square().sum().backward()
    for tensor in inputs:
        assert tensor.grad is not None
        assert tensor.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in d.parameters())


def test_frames_are_judged_one_by_one() -> None:
    d = Discriminator(CONFIG)
    frames, masks, levels = scene(96, 160, N=3)
    together = d(frames, masks, levels)
    alone = d(frames[1:2], masks[1:2], [level[1:2] for level in levels])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_the_weights_and_the_global_state_stays() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (Discriminator(CONFIG, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["enter.weight"], other["enter.weight"])


def test_losses_are_binary_cross_entropies_of_the_sigmoid() -> None:
    d = Discriminator(CONFIG)
    frames, fake, levels = scene(96, 160)
    real = (fake > 0.5).float()
    p_real, p_fake = (d(frames, masks, levels).sigmoid() for masks in (real, fake))
    ones, zeros = torch.ones_like(p_real), torch.zeros_like(p_real)
    expected = (F.binary_cross_entropy(p_real, ones) + F.binary_cross_entropy(p_fake, zeros)) / 2
    torch.testing.assert_close(discriminator_loss(d, frames, real, fake, levels), expected)
    expected = F.binary_cross_entropy(p_fake, ones)
    torch.testing.assert_close(generator_loss(d, frames, fake, levels), expected)


def test_it_learns_to_tell_true_masks_from_pale_ones_among_features_that_say_nothing() -> None:
    """One channel in a hundred: with an entry that weighs all alike it stays at ln 2 = 0.69."""
    config = small_config(hidden_dim=96, num_heads=4)
    d = Discriminator(config)
    optimizer = torch.optim.Adam(d.parameters(), lr=5e-4, betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(0)
    sizes = image_level_sizes(64, 64, config.num_levels)
    losses = []
    for _ in range(60):
        frames = torch.randn(6, 3, 64, 64, generator=generator)
        levels = [torch.randn(6, 96, h, w, generator=generator) for h, w in sizes]
        real = (torch.rand(6, 1, 4, 4, generator=generator) < 0.4).float()
        real = F.interpolate(real, size=(16, 16))
        loss = discriminator_loss(d, frames, real, 0.5 * real, levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.5


def test_each_side_gets_only_its_own_gradients() -> None:
    d = Discriminator(CONFIG)
    frames, fake, levels = scene(96, 160)
    of_model = [fake.requires_grad_(), *[level.requires_grad_() for level in levels]]
    real = torch.ones_like(fake)

    discriminator_loss(d, frames, real, fake, levels).backward()
    assert all(tensor.grad is None for tensor in of_model)
    assert all(p.grad is not None and p.grad.any() for p in d.parameters())

    d.zero_grad(set_to_none=True)
    generator_loss(d, frames, fake, levels).backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in of_model)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in d.parameters())


def test_it_learns_to_tell_true_masks_and_masks_learn_to_pass() -> None:
    """Frames show a bright square; true masks cover it, fake ones lie elsewhere."""
    generator = torch.Generator().manual_seed(0)
    frames, real = torch.randn(8, 3, 96, 160, generator=generator) * 0.3, torch.zeros(8, 1, 24, 40)
    for index in range(8):
        y, x = 16 * (index % 4), 16 * index
        frames[index, :, y : y + 32, x : x + 32] += 2.0
        real[index, :, y // 4 : y // 4 + 8, x // 4 : x // 4 + 8] = 1.0
    fake = real.roll(12, dims=-1)
    levels = [level * 0.1 for level in scene(96, 160, N=8)[2]]
    d = Discriminator(CONFIG)
    optimiser = torch.optim.Adam(d.parameters(), lr=1e-3)
    first = discriminator_loss(d, frames, real, fake, levels).item()
    for _ in range(25):
        loss = discriminator_loss(d, frames, real, fake, levels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * first

    logits = torch.logit(fake, eps=0.05).requires_grad_()
    before = generator_loss(d, frames, logits.sigmoid(), levels).item()
    mover = torch.optim.Adam([logits], lr=0.3)
    for _ in range(10):
        passing = generator_loss(d, frames, logits.sigmoid(), levels)
        mover.zero_grad()
        passing.backward()
        mover.step()
    assert passing.item() < 0.8 * before


def test_level_maps_are_the_encoders_tokens_in_place() -> None:
    network = live_model(CONFIG)
    out = network.decode_layers(network.encode_frames(random_images(4, 3, 64, 96)), num_windows=2)
    maps = level_maps(out.memory, out.sizes)
    assert [tuple(level.shape[-2:]) for level in maps] == list(out.sizes)
    start = out.sizes[0][0] * out.sizes[0][1]
    assert torch.equal(maps[1][3, :, 2, 5], out.memory[3, start + 2 * out.sizes[1][1] + 5])
    logits = Discriminator(CONFIG)(random_images(4, 3, 64, 96), torch.zeros(4, 1, 16, 24), maps)
    assert logits.shape == (4, 1, 1, 2)


def test_the_soft_union_of_instances() -> None:
    logits = torch.tensor([0.0, 0.0, 3.0, -200.0, 200.0]).view(5, 1, 1, 1).repeat(1, 2, 1, 3)
    logits.requires_grad_()
    union = soft_foreground(logits, [2, 0, 3])
    assert union.shape == (6, 1, 1, 3)
    torch.testing.assert_close(union[:, 0, 0, 0], torch.tensor([0.75, 0.75, 0.0, 0.0, 1.0, 1.0]))
    union.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:2] > 0).all()
    assert torch.isfinite(logits.grad).all()


def test_the_true_foreground_is_the_union_of_the_targets() -> None:
    masks = np.zeros((2, 2, 16, 16), dtype=bool)
    masks[0, 0, :8, :8] = masks[1, 0, 4:12, 4:12] = masks[1, 1, 12:, 12:] = True
    target = Target.from_clip(masks, np.zeros(2, dtype=np.int64))
    nothing = Target.from_clip(masks[:0], np.zeros(0, dtype=np.int64))
    union = true_foreground([nothing, target])
    assert union.shape == (4, 1, 4, 4)
    assert union.sum(dim=(1, 2, 3)).tolist() == [0.0, 0.0, 7.0, 1.0]
    assert soft_foreground(torch.zeros(0, 2, 4, 4), [0, 0]).tolist() == torch.zeros(4, 1, 4, 4).tolist()


def test_half_precision_gives_losses_in_float32() -> None:
    d = Discriminator(CONFIG)
    frames, fake, levels = scene(96, 160)
    half = [level.bfloat16().requires_grad_() for level in levels]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_d = discriminator_loss(d, frames, (fake > 0.5).float(), fake, half)
        of_model = generator_loss(d, frames, fake, half)
    assert of_d.dtype == of_model.dtype == torch.float32
    torch.testing.assert_close(of_model, generator_loss(d, frames, fake, levels), rtol=0.1, atol=0.1)
    of_model.backward()
    assert all(level.grad is not None and torch.isfinite(level.grad).all() for level in half)


def test_what_does_not_fit_is_named() -> None:
    d = Discriminator(CONFIG)
    frames, masks, levels = scene(96, 160)
    with pytest.raises(ValueError, match="3 feature levels, the config has 4"):
        d(frames, masks, levels[:3])
    with pytest.raises(ValueError, match=r"masks \(2, 24, 40\), expected"):
        d(frames, masks[:, 0], levels)
    with pytest.raises(
        ValueError, match=r"feature level 1 is \(2, 16, 6, 10\), expected \(2, 32, H_l, W_l\)"
    ):
        d(frames, masks, [levels[0], levels[1][:, :16], *levels[2:]])


def test_the_network_neither_holds_nor_imports_it() -> None:
    code = (
        "import sys\nfrom support.small_models import live_model, small_config\n"
        "names = live_model(small_config()).state_dict()\n"
        "assert not any('discriminator' in name for name in names)\n"
        "print(*(name for name in sys.modules if name.startswith('model.training')))"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=paths, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
