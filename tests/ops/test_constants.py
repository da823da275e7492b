"""Constants are made once for their arguments and device, and nothing of a trace is left behind in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor

from ops.constants import kept

CPU = torch.device("cpu")


class Pair(NamedTuple):
    ramp: Tensor
    none: Tensor | None


class Ramps:
    """A constant, `of`, and how often it was made."""

    def __init__(self) -> None:
        self.num_made = 0

        @kept
        def of(size: int, *, device: torch.device) -> Pair:
            self.num_made += 1
            ramp = torch.arange(size, dtype=torch.float32)
            return Pair(ramp / float(ramp.max()), None)

        self.of = of


def test_a_constant_is_made_once_for_its_arguments() -> None:
    ramps = Ramps()
    first = ramps.of(3, device=CPU)
    assert first.ramp.tolist() == [0.0, 0.5, 1.0]
    assert first.none is None
    assert ramps.of(3, device=CPU) is first
    assert ramps.num_made == 1
    assert ramps.of(2, device=CPU).ramp.tolist() == [0.0, 1.0]
    assert ramps.of(3, device=torch.device("meta")).ramp.device.type == "meta"
    assert ramps.num_made == 3


def test_a_constant_of_inference_serves_training() -> None:
    ramps = Ramps()
    with torch.inference_mode():
        ramps.of(3, device=CPU)
    weight = torch.ones(3, requires_grad=True)
    (weight * ramps.of(3, device=CPU).ramp).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 0.5, 1.0]
    assert ramps.num_made == 1


def test_the_default_device_decides_nothing() -> None:
    with torch.device("meta"):
        assert Ramps().of(3, device=CPU).ramp.tolist() == [0.0, 0.5, 1.0]


def test_a_fake_mode_has_constants_of_its_own() -> None:
    ramps = Ramps()
    with FakeTensorMode():
        fake = ramps.of(3, device=CPU).ramp
        assert isinstance(fake, FakeTensor)
        assert ramps.of(3, device=CPU).ramp is fake
    with FakeTensorMode():
        assert ramps.of(3, device=CPU).ramp is not fake
    assert ramps.of(3, device=CPU).ramp.tolist() == [0.0, 0.5, 1.0]


class UsesRamp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ramps = Ramps()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.ramps.of(x.shape[-1], device=x.device).ramp


def test_an_export_that_meets_a_constant_first_leaves_a_real_one() -> None:
    module, x = UsesRamp(), torch.full((3,), 2.0)
    program = torch.export.export(module, (x,), strict=False)
    assert program.module()(x).tolist() == [0.0, 1.0, 2.0]
    constant = module.ramps.of(3, device=CPU).ramp
    assert not isinstance(constant, FakeTensor)
    assert module(x).tolist() == [0.0, 1.0, 2.0]
