"""vis::deform_attn against the textbook form: values, gradients, borders, batches, torch's own checks."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ops import deform_attn
from ops.levels import level_sizes
from ops.reference import deform_attn_reference

Inputs = tuple[Tensor, Tensor, Tensor, int, int, int, int]

# height0, width0, levels, points, heads, channels of a head
SHAPES = {
    "odd sizes": (13, 9, 3, 3, 4, 8),
    "even sizes": (8, 16, 4, 4, 8, 32),
    "last level is one pixel": (5, 7, 4, 2, 2, 4),
    "one column": (6, 1, 3, 4, 2, 4),
    "one row": (1, 6, 3, 4, 2, 4),
    "one pixel": (1, 1, 1, 1, 1, 1),
}
REFERENCES = list(itertools.product((2, 4), (False, True)))


def make(
    shape: tuple[int, int, int, int, int, int],
    *,
    coordinates: int = 2,
    per_level: bool = False,
    B: int = 2,
    Q: int = 7,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    """Random inputs; references reach a little outside 0..1, offsets a few pixels outside the levels."""
    height0, width0, L, K, M, D = shape
    generator = torch.Generator().manual_seed(0)
    S = sum(height * width for height, width in level_sizes(height0, width0, num_levels=L))
    value = torch.randn(B, S, M, D, generator=generator, dtype=torch.float64)
    sampling = torch.randn(B, Q, 3 * M * L * K, generator=generator, dtype=torch.float64) * spread
    points = (B, Q, L, coordinates) if per_level else (B, Q, coordinates)
    reference = torch.rand(points, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    return value.to(dtype), sampling.to(dtype), reference.to(dtype), height0, width0, L, K


def leaves(inputs: Inputs) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in inputs[:3]]


@pytest.mark.parametrize(("coordinates", "per_level"), REFERENCES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_the_textbook_form_with_its_gradients(
    shape: tuple[int, int, int, int, int, int], coordinates: int, per_level: bool
) -> None:
    inputs = make(shape, coordinates=coordinates, per_level=per_level)
    ours, theirs = leaves(inputs), leaves(inputs)
    result = deform_attn(*ours, *inputs[3:])
    expected = deform_attn_reference(*theirs, *inputs[3:])
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-11)
    assert result.abs().max() > 0
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    for name, got, wanted in zip(
        ("value", "sampling", "reference"),
        torch.autograd.grad(result, ours, grad),
        torch.autograd.grad(expected, theirs, grad),
        strict=True,
    ):
        torch.testing.assert_close(
            got, wanted, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


# float32 locates to about 1e-6 of a level; half types carry value and result, so their rounding remains.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
@pytest.mark.parametrize("coordinates", [2, 4])
def test_is_close_to_float64_in_lower_precision(
    dtype: torch.dtype, tolerance: float, coordinates: int
) -> None:
    value, sampling, reference, *geometry = make(SHAPES["even sizes"], coordinates=coordinates, dtype=dtype)
    result = deform_attn(value, sampling, reference, *geometry)
    expected = deform_attn_reference(value.double(), sampling.double(), reference.double(), *geometry)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


def test_takes_half_values_with_float32_sampling_and_returns_gradients_in_each_dtype() -> None:
    value, sampling, reference, *geometry = make(SHAPES["odd sizes"])
    tensors = [value.bfloat16(), sampling.float(), reference.float()]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    result = deform_attn(*tensors, *geometry)
    assert result.dtype == torch.bfloat16
    grads = torch.autograd.grad(result.float().square().sum(), tensors)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32, torch.float32]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(deform_attn_reference(*exact, *geometry).square().sum(), exact)
    for grad, wanted in zip(grads, expected, strict=True):
        # The result is rounded to 8 bits before it is squared.
        assert (grad.double() - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize(("coordinates", "per_level"), REFERENCES)
def test_gradcheck(coordinates: int, per_level: bool) -> None:
    inputs = make((3, 4, 2, 2, 2, 2), coordinates=coordinates, per_level=per_level, Q=3, spread=1.0)
    assert torch.autograd.gradcheck(lambda *tensors: deform_attn(*tensors, *inputs[3:]), leaves(inputs))


def test_gradient_at_whole_pixels_is_the_one_of_grid_sample() -> None:
    # Offsets start on a ring of whole pixels in training: there the hats have a kink.
    value, sampling, _, *geometry = make((8, 8, 1, 4, 2, 4), Q=64)
    grid = torch.cartesian_prod(torch.arange(8), torch.arange(8)).flip(1)
    reference = ((grid + 0.5) / 8).to(torch.float64).expand(2, 64, 2)
    sampling = sampling.clone()
    sampling[..., :16] = sampling[..., :16].round()
    ours, theirs = (
        leaves((value, sampling, reference, *geometry)),
        leaves((value, sampling, reference, *geometry)),
    )
    got = torch.autograd.grad(deform_attn(*ours, *geometry).sum(), ours)
    wanted = torch.autograd.grad(deform_attn_reference(*theirs, *geometry).sum(), theirs)
    torch.testing.assert_close(got, wanted)


def test_only_wanted_gradients_are_given() -> None:
    inputs = make(SHAPES["odd sizes"])
    sampling = inputs[1].clone().requires_grad_()
    deform_attn(inputs[0], sampling, *inputs[2:]).sum().backward()
    assert sampling.grad is not None
    assert inputs[0].grad is None
    assert inputs[2].grad is None


@pytest.mark.parametrize("distance", [1e3, 1e8, 1e30, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_far_outside_give_zero_and_no_gradient(distance: float, dtype: torch.dtype) -> None:
    inputs = make(SHAPES["odd sizes"], dtype=dtype)
    for sign in (-1, 1):
        value, sampling, reference = leaves(inputs)
        with torch.no_grad():
            num_offsets = sampling.shape[-1] * 2 // 3
            sampling[..., :num_offsets] = sign * distance
        result = deform_attn(value, sampling, reference, *inputs[3:])
        assert torch.equal(result, torch.zeros_like(result))
        for grad in torch.autograd.grad(result.sum(), (value, sampling)):
            assert torch.equal(grad, torch.zeros_like(grad))


def test_nan_stays_in_its_query_and_head() -> None:
    value, sampling, reference, *geometry = make(SHAPES["odd sizes"])
    clean = deform_attn(value, sampling, reference, *geometry)
    sampling = sampling.clone()
    sampling[1, 3, 0] = float("nan")  # the first x offset of head 0
    result = deform_attn(value, sampling, reference, *geometry)
    hit = torch.zeros_like(result, dtype=torch.bool)
    hit[1, 3, : value.shape[3]] = True
    assert result[hit].isnan().all()
    assert torch.equal(result[~hit], clean[~hit])


@pytest.mark.parametrize(("B", "Q"), [(2, 0), (0, 5)])
def test_empty_sets_give_empty_results_and_zero_gradients(B: int, Q: int) -> None:
    inputs = make(SHAPES["odd sizes"], B=B, Q=Q)
    tensors = leaves(inputs)
    result = deform_attn(*tensors, *inputs[3:])
    assert result.shape == (B, Q, 32)
    for tensor, grad in zip(tensors, torch.autograd.grad(result.sum(), tensors), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


def test_inputs_need_not_be_contiguous_and_stay_unchanged() -> None:
    value, sampling, reference, *geometry = make(SHAPES["even sizes"])
    expected = deform_attn(value, sampling, reference, *geometry)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (value, sampling, reference)]
    kept = [t.clone() for t in strided]
    assert not any(t.is_contiguous() for t in strided)
    torch.testing.assert_close(deform_attn(*strided, *geometry), expected, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(strided, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("Q", [50, 1500])
def test_batch_element_is_the_same_to_the_bit_alone_and_in_any_batch(dtype: torch.dtype, Q: int) -> None:
    value, sampling, reference, *geometry = make((12, 20, 4, 4, 8, 16), B=5, Q=Q, dtype=dtype)
    together = deform_attn(value, sampling, reference, *geometry)
    for b in range(5):
        alone = deform_attn(value[b : b + 1], sampling[b : b + 1], reference[b : b + 1], *geometry)
        # A copy lies elsewhere in memory: alignment must not matter either.
        copy = deform_attn(*(t[b : b + 1].clone() for t in (value, sampling, reference)), *geometry)
        assert torch.equal(alone[0], together[b])
        assert torch.equal(copy[0], together[b])
    pair = deform_attn(value[3:], sampling[3:], reference[3:], *geometry)
    assert torch.equal(pair, together[3:])


def test_gradients_are_the_same_to_the_bit_on_each_run() -> None:
    inputs = make((12, 20, 4, 4, 8, 16), Q=1500, dtype=torch.float32)

    def grads() -> tuple[Tensor, ...]:
        tensors = leaves(inputs)
        return torch.autograd.grad(deform_attn(*tensors, *inputs[3:]).square().sum(), tensors)

    assert all(torch.equal(a, b) for a, b in zip(grads(), grads(), strict=True))


def test_works_under_inference_mode_and_then_with_gradients() -> None:
    shape = (7, 11, 2, 4, 4, 4)  # of no other test: the cached geometry must be made here
    inputs = make(shape)
    with torch.inference_mode():
        expected = deform_attn(*inputs)
    tensors = leaves(inputs)
    result = deform_attn(*tensors, *inputs[3:])
    assert torch.equal(result, expected)
    result.sum().backward()


@pytest.mark.parametrize(("coordinates", "per_level"), REFERENCES)
def test_opcheck(coordinates: int, per_level: bool) -> None:
    inputs = make((5, 3, 2, 2, 2, 4), coordinates=coordinates, per_level=per_level, dtype=torch.float32)
    torch.library.opcheck(torch.ops.vis.deform_attn.default, (*leaves(inputs), *inputs[3:]))


def test_fake_does_not_check_shapes() -> None:
    # TensorRT's plugin builder calls it with every dimension 5.
    tensors = [torch.empty(shape, device="meta") for shape in [(5, 5, 5, 5), (5, 5, 5), (5, 5, 5)]]
    assert torch.ops.vis.deform_attn(*tensors, 5, 5, 5, 5).shape == (5, 5, 25)


def test_compiles_in_one_graph_with_gradients() -> None:
    inputs = make((5, 3, 2, 2, 2, 4), dtype=torch.float32)

    def layer(*tensors: Tensor) -> Tensor:
        # Nothing next to the operator: inductor's C++ kernels are not what is tested, and slow to build.
        return deform_attn(*tensors, *inputs[3:])

    eager, compiled = leaves(inputs), leaves(inputs)
    expected = layer(*eager)
    result = torch.compile(layer, fullgraph=True, dynamic=False)(*compiled)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        torch.autograd.grad(result.sum(), compiled), torch.autograd.grad(expected.sum(), eager)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(2, 10, 4, 8)}, r"value has 10 positions, but 3 levels from 13×9.* have 164"),
        ({"value": torch.zeros(2, 164, 32)}, r"value must be \(B, S, M, D\), got \(2, 164, 32\)"),
        ({"value": torch.zeros(2, 164, 4, 8, dtype=torch.int32)}, r"floating-point dtype, got torch.int32"),
        (
            {"sampling": torch.zeros(2, 7, 100)},
            r"sampling must be .* \(2, Q, 108\) for 4 heads.*\(2, 7, 100\)",
        ),
        ({"sampling": torch.zeros(3, 7, 108)}, r"sampling must be .*got \(3, 7, 108\)"),
        ({"reference": torch.zeros(2, 7, 3)}, r"reference must be \(2, 7, 2\|4\).*got \(2, 7, 3\)"),
        (
            {"reference": torch.zeros(2, 7, 2, 2)},
            r"reference must be .*\(2, 7, 3, 2\|4\), got \(2, 7, 2, 2\)",
        ),
        ({"reference": torch.zeros(2)}, r"reference must be .*got \(2,\)"),
        ({"reference": torch.zeros(2, 7, 2, device="meta")}, r"must be on one device, got cpu, cpu, meta"),
        ({"num_levels": 0}, r"at least 1, got 13, 9, 0, 3"),
        ({"height0": -13}, r"at least 1, got -13, 9, 3, 3"),
    ],
)
def test_contradicting_arguments_are_named(change: dict[str, object], message: str) -> None:
    names = ("value", "sampling", "reference", "height0", "width0", "num_levels", "num_points")
    arguments = dict(zip(names, make(SHAPES["odd sizes"], dtype=torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        deform_attn(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "imports",
    [
        "import ops.deform_attn",
        "from ops.deform_attn import deform_attn",
    ],
)
def test_ops_exports_the_function_whatever_was_imported_before(imports: str) -> None:
    check = f"{imports}; import ops; from ops import deform_attn as f; "
    check += "assert callable(f); assert f is ops.deform_attn"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=100)
