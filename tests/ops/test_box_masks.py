"""Masks within boxes: the portable form next to a reckoning cell by cell, the compiled one next to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ops.box_masks import (
    BORDER,
    OUTSIDE,
    SOURCE,
    BoxMasksKernel,
    box_masks,
    box_masks_kernel,
    box_masks_portable,
    load,
    num_parameters,
)

ROOT = Path(__file__).parents[2]
STRIDE = 4

# B, T, Q, channels, h, w
SHAPES = {
    "the shipped network's": (1, 3, 20, 16, 24, 40),
    "eight channels, two windows": (2, 2, 5, 8, 9, 13),
    "odd": (3, 1, 2, 5, 7, 3),
    "one cell": (1, 1, 1, 1, 1, 1),
}


@pytest.fixture(scope="module")
def kernel() -> BoxMasksKernel:
    found = box_masks_kernel()
    assert found is not None, "the tests need a C++ compiler"
    return found


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    B, T, Q, c, h, w = shape
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(B, T, c, h, w, generator=generator, dtype=torch.float64)
    parameters = torch.randn(B, Q, sum(num_parameters(c)), generator=generator, dtype=torch.float64)
    # From a fraction of a cell to twice the picture, some of them next to it.
    boxes = torch.rand(B, T, Q, 4, generator=generator, dtype=torch.float64) * 2 - 0.5
    boxes[..., 2:] = boxes[..., 2:].abs() ** 2 * 2
    scale = torch.tensor([w, h, w, h], dtype=torch.float64) * STRIDE
    return features.to(dtype), parameters.to(dtype), (boxes * scale).to(dtype)


def cell_by_cell(features: Tensor, parameters: Tensor, boxes: Tensor) -> Tensor:
    B, T, c, h, w = features.shape
    Q = parameters.shape[1]
    masks = features.new_full((B, Q, T, h, w), OUTSIDE)
    for b, q, t in ((b, q, t) for b in range(B) for q in range(Q) for t in range(T)):
        w1, w2, w3, b1, b2, b3 = parameters[b, q].split(num_parameters(c))
        centre_x, centre_y, width, height = boxes[b, t, q].tolist()
        for row, column in ((row, column) for row in range(h) for column in range(w)):
            x = ((column + 0.5) * STRIDE - centre_x) / max(width / 2, STRIDE / 2)
            y = ((row + 0.5) * STRIDE - centre_y) / max(height / 2, STRIDE / 2)
            if max(abs(x), abs(y)) <= BORDER:
                place = features.new_tensor([x, y, x * x, y * y])
                hidden = torch.cat((place, features[b, t, :, row, column]))
                hidden = (w1.view(c, c + 4) @ hidden + b1).relu()
                hidden = (w2.view(c, c) @ hidden + b2).relu()
                masks[b, q, t, row, column] = w3 @ hidden + b3[0]
    return masks


@pytest.mark.parametrize("shape", [(2, 2, 3, 4, 5, 7), (1, 1, 2, 1, 1, 1)])
def test_each_cell_in_a_box_is_the_querys_network_of_place_and_features(shape: tuple[int, ...]) -> None:
    inputs = make(shape, torch.float64)
    torch.testing.assert_close(box_masks_portable(*inputs, STRIDE), cell_by_cell(*inputs))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_compiled_form_equals_the_portable_one(kernel: BoxMasksKernel, shape: tuple[int, ...]) -> None:
    inputs = make(shape)
    found, wanted = kernel(*inputs, STRIDE), box_masks_portable(*inputs, STRIDE)
    assert torch.equal(found == OUTSIDE, wanted == OUTSIDE)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_features_may_lie_in_memory_in_any_order(kernel: BoxMasksKernel) -> None:
    features, parameters, boxes = make(SHAPES["odd"])
    turned = features.transpose(1, 4).contiguous().transpose(1, 4)
    assert torch.equal(kernel(turned, parameters, boxes, STRIDE), kernel(features, parameters, boxes, STRIDE))


def test_bits_depend_on_neither_threads_nor_the_other_masks(kernel: BoxMasksKernel) -> None:
    features, parameters, boxes = make(SHAPES["the shipped network's"])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kernel(features, parameters, boxes, STRIDE)
        torch.set_num_threads(3)
        assert torch.equal(kernel(features, parameters, boxes, STRIDE), alone)
    finally:
        torch.set_num_threads(before)
    part = kernel(features[:, 1:2], parameters[:, 3:5], boxes[:, 1:2, 3:5], STRIDE)
    assert torch.equal(part, alone[:, 3:5, 1:2])


def test_a_box_smaller_than_a_cell_keeps_the_cell_that_it_lies_in(kernel: BoxMasksKernel) -> None:
    features, parameters, _ = make((1, 1, 1, 16, 6, 8))
    boxes = torch.tensor([[[[13.0, 9.5, 0.2, 0.2]]]])
    for masks in (
        kernel(features, parameters, boxes, STRIDE),
        box_masks(features, parameters, boxes, STRIDE),
    ):
        assert (masks != OUTSIDE).nonzero()[:, 3:].tolist() == [[2, 3]]


def test_a_box_that_is_no_number_gives_masks_that_are_none(kernel: BoxMasksKernel) -> None:
    features, parameters, boxes = make((1, 1, 2, 16, 6, 8))
    boxes[0, 0, 0, 2] = float("nan")
    masks = kernel(features, parameters, boxes, STRIDE)
    assert bool(masks[0, 0].isnan().all())
    assert torch.equal(masks[0, 1:], kernel(features, parameters[:, 1:], boxes[:, :, 1:], STRIDE)[0])


def test_gradients_are_those_of_the_portable_form() -> None:
    features, parameters, boxes = (x.requires_grad_() for x in make((1, 2, 2, 3, 4, 5), torch.float64))
    boxes.requires_grad_(False)  # at the border masks jump
    assert torch.autograd.gradcheck(
        lambda f, p: box_masks(f, p, boxes, STRIDE), (features, parameters), nondet_tol=0.0
    )


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(make((1, 1, 1, 65, 3, 4)), id="more channels than there is room for"),
        pytest.param(make((1, 2, 1, 4, 3, 4), torch.float64), id="float64"),
        pytest.param(make((0, 2, 1, 4, 3, 4)), id="nothing"),
    ],
)
def test_what_the_compiled_form_does_not_take_is_computed_all_the_same(inputs: tuple[Tensor, ...]) -> None:
    features, parameters, boxes = inputs
    with torch.no_grad():
        found = box_masks(features, parameters, boxes, STRIDE)
        assert torch.equal(found, box_masks_portable(features, parameters, boxes, STRIDE))


def test_the_operator_keeps_its_promises_to_torch() -> None:
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.vis.box_masks,
            (*make((2, 2, 3, 4, 5, 6)), STRIDE),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_shapes_that_contradict_each_other_are_named() -> None:
    features, parameters, boxes = make((1, 2, 3, 4, 5, 6))
    with pytest.raises(ValueError, match=r"4 channels and 3 queries need parameters \(1, 3, 61\)"):
        box_masks(features, parameters[..., 1:], boxes, STRIDE)
    with pytest.raises(ValueError, match=r"boxes \(1, 2, 3, 4\), got .* and \(1, 1, 3, 4\)"):
        box_masks(features, parameters, boxes[:, :1], STRIDE)
    with pytest.raises(ValueError, match="must be"):
        box_masks(features[0], parameters, boxes, STRIDE)


def test_a_library_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.cpp"
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count("row[2] * u_squared") == 1
    wrong.write_text(text.replace("row[2] * u_squared", "row[2] * u"), encoding="utf-8")
    monkeypatch.setattr("ops.box_masks.SOURCE", wrong)
    with pytest.raises(ArithmeticError, match="box_masks is off"):
        load(tmp_path / "cache")


_ALONE = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stderr)
import torch
from ops.box_masks import box_masks, box_masks_portable, num_parameters
torch.set_grad_enabled(False)
inputs = torch.rand(1, 1, 2, 3, 4), torch.rand(1, 1, sum(num_parameters(2))), torch.rand(1, 1, 1, 4) * 9, 4
for _ in range(3):
    found = box_masks(*inputs)
print(torch.equal(found, box_masks_portable(*inputs)))
"""


@pytest.mark.parametrize(("compiler", "said"), [("/nonexistent/compiler", 1), ("", 0)])
def test_without_a_compiler_the_portable_form_runs_and_that_is_said_once(
    tmp_path: Path, compiler: str, said: int
) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.update({"CXX": compiler} if compiler else {"MSSTS_NATIVE": "0"})
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout == "True\n"
    assert done.stderr.count("box_masks runs in its portable form") == said
