"""The CUDA kernels of deform_attn, run on the CPU by the shim: values and gradients against float64."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import pytest
import torch
from support.kernel_shim import ARCHITECTURES, KernelShim, check_cubin, ptx
from torch import Tensor

from ops.arguments import DeformAttnArguments
from ops.cuda import DeformAttnKernels
from ops.kernel import Run, Scalar
from ops.launch import DeformAttnConfig, Launch, plan_deform_attn
from ops.levels import level_sizes
from ops.reference import deform_attn_reference

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# dtype of value, sampling, reference; heads, channels, levels, points; coordinates, per level.
CONFIGS = {
    "default model, float32": DeformAttnConfig(F32, F32, F32, 4, 24, 4, 2, 2, False),
    "default model, float16": DeformAttnConfig(F16, F16, F16, 4, 24, 4, 2, 4, False),
    "R50, float16, float32 reference": DeformAttnConfig(F16, F16, F32, 8, 32, 4, 4, 2, False),
    "R50, bfloat16, a box a level": DeformAttnConfig(BF16, BF16, F32, 8, 32, 4, 4, 4, True),
    "R50, float32, a box": DeformAttnConfig(F32, F32, F32, 8, 32, 4, 4, 4, False),
    "wide heads, bfloat16 value alone": DeformAttnConfig(BF16, F32, F32, 2, 64, 3, 3, 2, True),
    "odd channels": DeformAttnConfig(F32, F32, F32, 3, 7, 5, 1, 4, True),
    "one of each": DeformAttnConfig(F32, F32, F32, 1, 1, 1, 1, 2, False),
}
PYRAMIDS = {"odd sizes": (13, 9), "last levels of a pixel": (5, 3), "a column": (6, 1), "a pixel": (1, 1)}
# Norm of the error relative to the norm: float32 locates to about 1e-6 of a level, half types round once.
TOLERANCE = {F32: 2e-6, F16: 1e-3, BF16: 8e-3}
# Gradients of positions have kinks at whole pixels; float16 rounds gradients too.
GRAD_TOLERANCE = {F32: 2e-5, F16: 2e-3, BF16: 1e-2}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_deform_attn(p, config) for config in CONFIGS.values() for p in ("forward", "backward")]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def kernels(shim: KernelShim) -> DeformAttnKernels:
    return DeformAttnKernels(shim)


def make(
    config: DeformAttnConfig, size0: tuple[int, int], *, B: int = 2, Q: int = 7, spread: float = 2.0
) -> DeformAttnArguments:
    """Random inputs in the dtypes of the config; references reach outside 0..1, offsets outside levels."""
    generator = torch.Generator().manual_seed(0)
    M, D, L, K = config.num_heads, config.head_dim, config.num_levels, config.num_points
    S = sum(height * width for height, width in level_sizes(*size0, num_levels=L))
    value = torch.randn(B, S, M, D, generator=generator).to(config.value)
    sampling = (torch.randn(B, Q, 3 * M * L * K, generator=generator) * spread).to(config.sampling)
    points = (B, Q, L, config.coordinates) if config.per_level else (B, Q, config.coordinates)
    reference = (torch.rand(points, generator=generator) * 1.4 - 0.2).to(config.reference)
    return DeformAttnArguments(value, sampling, reference, *size0, L, K)


def exact(inputs: DeformAttnArguments) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.double().requires_grad_() for tensor in inputs[:3]]
    return deform_attn_reference(*leaves, *inputs[3:]), leaves


def error(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference; relative where there is something to be relative to."""
    return float((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-3))


@pytest.mark.parametrize("size0", PYRAMIDS.values(), ids=PYRAMIDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_and_backward_equal_the_textbook_form_in_float64(
    kernels: DeformAttnKernels, config: DeformAttnConfig, size0: tuple[int, int]
) -> None:
    inputs = make(config, size0)
    expected, leaves = exact(inputs)
    result = kernels.forward(inputs)
    assert result is not None, kernels.switched_off
    assert result.dtype == config.value
    assert error(result, expected.detach()) < TOLERANCE[config.value]

    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(config.value)
    grads = kernels.backward(grad, inputs)
    assert grads is not None, kernels.switched_off
    wanted = torch.autograd.grad(expected, leaves, grad.double())
    for name, tensor, ours, theirs in zip(
        ("value", "sampling", "reference"), inputs[:3], grads, wanted, strict=True
    ):
        assert ours.dtype == tensor.dtype
        assert ours.shape == tensor.shape
        tolerance = max(GRAD_TOLERANCE[tensor.dtype], GRAD_TOLERANCE[config.value] / 8)
        assert error(ours, theirs) < tolerance, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_order_of_threads_does_not_matter(
    shim: KernelShim, kernels: DeformAttnKernels, config: DeformAttnConfig
) -> None:
    # A missing or too narrow barrier shows as a difference. Gradients of value are sums in another order.
    inputs = make(config, (7, 5), Q=23)
    results = []
    for shim.lanes_backward in (False, True):
        result = kernels.forward(inputs)
        assert result is not None
        grads = kernels.backward(result, inputs)
        assert grads is not None
        results.append((result, *grads[1:], grads[0]))
    shim.lanes_backward = False
    for one, other in zip(results[0][:3], results[1][:3], strict=True):
        assert torch.equal(one, other)
    assert error(results[0][3], results[1][3].double()) < GRAD_TOLERANCE[config.value]


@pytest.mark.parametrize(("sign", "distance"), list(itertools.product((-1, 1), (1e3, 1e30, float("inf")))))
def test_samples_far_outside_give_zero_and_no_gradient(
    kernels: DeformAttnKernels, sign: int, distance: float
) -> None:
    inputs = make(CONFIGS["default model, float32"], (13, 9))
    inputs.sampling[..., : inputs.sampling.shape[-1] * 2 // 3] = sign * distance
    result = kernels.forward(inputs)
    assert result is not None
    assert torch.equal(result, torch.zeros_like(result))
    grads = kernels.backward(torch.ones_like(result), inputs)
    assert grads is not None
    for grad in grads:
        assert torch.equal(grad, torch.zeros_like(grad))


def test_nan_stays_in_its_query_and_head(kernels: DeformAttnKernels) -> None:
    inputs = make(CONFIGS["R50, float32, a box"], (13, 9))
    clean = kernels.forward(inputs)
    inputs.sampling[1, 3, 0] = float("nan")  # the first x offset of head 0
    result = kernels.forward(inputs)
    assert clean is not None
    assert result is not None
    hit = torch.zeros_like(result, dtype=torch.bool)
    hit[1, 3, : inputs.value.shape[3]] = True
    assert result[hit].isnan().all()
    assert torch.equal(result[~hit], clean[~hit])


def test_large_logits_do_not_overflow(kernels: DeformAttnKernels) -> None:
    inputs = make(CONFIGS["default model, float32"], (8, 8), spread=200.0)
    inputs[1][..., : inputs[1].shape[-1] * 2 // 3] /= 100
    result = kernels.forward(inputs)
    assert result is not None
    assert error(result, exact(inputs)[0].detach()) < 1e-4  # float32 rounds a logit of 500 to 3e-5


@pytest.mark.parametrize("Q", [1, 11, 64])  # a block serves 2 to 10 queries: fewer, more, and whole blocks
def test_blocks_that_are_not_full(kernels: DeformAttnKernels, Q: int) -> None:
    inputs = make(CONFIGS["default model, float32"], (6, 4), B=3, Q=Q)
    result = kernels.forward(inputs)
    assert result is not None
    assert error(result, exact(inputs)[0].detach()) < TOLERANCE[F32]


@pytest.mark.parametrize(("B", "Q"), [(2, 0), (0, 5)])
def test_empty_sets_give_empty_results_and_zero_gradients(
    shim: KernelShim, kernels: DeformAttnKernels, B: int, Q: int
) -> None:
    config = CONFIGS["default model, float32"]
    assert kernels.forward(make(config, (3, 3))) is not None
    assert kernels.backward(torch.zeros(2, 7, 96), make(config, (3, 3))) is not None
    before = shim.num_runs
    inputs = make(config, (5, 3), B=B, Q=Q)
    result = kernels.forward(inputs)
    assert result is not None
    assert result.shape == (B, Q, 96)
    grads = kernels.backward(result, inputs)
    assert grads is not None
    for tensor, grad in zip(inputs[:3], grads, strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))
    assert shim.num_runs == before  # a launch of no block is an error to CUDA


def test_inputs_need_neither_be_contiguous_nor_aligned_and_stay_unchanged(
    kernels: DeformAttnKernels,
) -> None:
    inputs = make(CONFIGS["R50, float16, float32 reference"], (6, 4))
    expected = kernels.forward(inputs)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in inputs[:3]]
    shifted = torch.cat([inputs[0].new_zeros(1), inputs[0].flatten()])[1:].view(inputs[0].shape)
    assert shifted.data_ptr() % 16 != 0
    kept = [t.clone() for t in strided]
    assert expected is not None
    for tensors in (strided, [shifted, *inputs[1:3]]):
        result = kernels.forward(DeformAttnArguments(*tensors, *inputs[3:]))
        assert result is not None
        assert torch.equal(result, expected)
        grads = kernels.backward(expected, DeformAttnArguments(*tensors, *inputs[3:]))
        assert grads is not None
        assert [grad.shape for grad in grads] == [t.shape for t in tensors]
    assert all(torch.equal(a, b) for a, b in zip(strided, kept, strict=True))


def test_a_kernel_that_computes_wrongly_is_switched_off_and_said_once(
    shim: KernelShim, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = CONFIGS["default model, float32"], CONFIGS["R50, float32, a box"]

    def swapped(launch: Launch[DeformAttnConfig], device: torch.device) -> Run:
        run = shim(launch, device)
        if launch.config == other:
            return run
        # Width for height: what a mistake in the order of arguments would do.
        return lambda blocks, addresses, given: run(blocks, addresses, (*given[:3], given[4], given[3]))

    kernels = DeformAttnKernels(swapped)
    with caplog.at_level(logging.WARNING, logger="ops.kernel"):
        assert [kernels.forward(make(one, (5, 3))) for _ in range(3)] == [None] * 3
        assert kernels.forward(make(other, (5, 3))) is not None
    (record,) = caplog.records
    assert "differs from the portable form" in record.getMessage()
    assert [kernel for _, kernel, _ in kernels.switched_off] == ["forward"]


def test_a_failing_compile_or_launch_switches_that_kernel_off(
    shim: KernelShim, caplog: pytest.LogCaptureFixture
) -> None:
    config, uncompilable = CONFIGS["default model, float32"], CONFIGS["odd channels"]
    broken = False

    def fragile(launch: Launch[DeformAttnConfig], device: torch.device) -> Run:
        if launch.config == uncompilable:
            raise OSError("no compiler today")
        run = shim(launch, device)

        def run_or_fail(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            if broken and launch.kernel == "backward":
                raise OSError("the driver is gone")
            run(blocks, addresses, scalars)

        return run_or_fail

    kernels = DeformAttnKernels(fragile)
    inputs, grad = make(config, (5, 3)), torch.ones(2, 7, 96)
    with caplog.at_level(logging.WARNING, logger="ops.kernel"):
        assert kernels.forward(make(uncompilable, (5, 3))) is None
        assert kernels.backward(grad, inputs) is not None
        broken = True
        assert kernels.backward(grad, inputs) is None
        broken = False
        assert kernels.backward(grad, inputs) is None
        assert kernels.forward(inputs) is not None
    compile_record, launch_record = (record.getMessage() for record in caplog.records)
    assert "deform_attn_forward<float, float, float, 3, 7," in compile_record
    assert "no compiler today" in compile_record
    assert "deform_attn_backward<" in launch_record
    assert "the driver is gone" in launch_record


def test_what_has_no_kernel_is_said_once_and_left_to_the_portable_form(
    kernels: DeformAttnKernels, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = make(DeformAttnConfig(torch.float64, torch.float64, torch.float64, 2, 4, 2, 2, 2, False), (5, 3))
    with caplog.at_level(logging.INFO, logger="ops.kernel"):
        assert [kernels.forward(inputs), kernels.forward(inputs)] == [None, None]
    (record,) = caplog.records
    assert "no kernel for torch.float64" in record.getMessage()


def test_deterministic_algorithms_do_without_the_backward_kernel(kernels: DeformAttnKernels) -> None:
    inputs = make(CONFIGS["default model, float32"], (5, 3))
    grad = torch.ones(2, 7, 96)
    assert kernels.backward(grad, inputs) is not None
    torch.use_deterministic_algorithms(True)
    try:
        assert kernels.backward(grad, inputs) is None
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_builds_cubins_without_spills(architecture: str, tmp_path: Path) -> None:
    names = ("default model, float16", "R50, float16, float32 reference", "R50, float32, a box")
    launches = [plan_deform_attn(p, CONFIGS[name]) for name in names for p in ("forward", "backward")]
    check_cubin(launches, architecture, tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["default model, float32", "R50, float16, float32 reference"])
def test_from_sm_90_on_one_instruction_adds_four_gradients(
    architecture: str, name: str, tmp_path: Path
) -> None:
    launch = plan_deform_attn("backward", CONFIGS[name])
    assembly = ptx(launch, architecture, tmp_path)
    single = len(re.findall(r"\b(?:red|atom)\.global\.add\.f32", assembly))
    together = assembly.count("red.global.add.v4.f32")
    assert (single > 0, together > 0) == ((False, True) if int(architecture[3:]) >= 90 else (True, False))
    # Four corners, each of 16 bytes of channels of the value's type.
    assert single + 4 * together == 4 * (16 // CONFIGS[name].value.itemsize)
