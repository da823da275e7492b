"""The CUDA kernel from YUV to the model's input, run on the CPU by the shim, against its readable form."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernel_shim import ARCHITECTURES, KernelShim, check_cubin
from torch import Tensor

from ops.device_preprocess import PreprocessKernels, preprocess_cuda
from ops.kernel import Run, Scalar
from ops.launch import Launch, PreprocessConfig, plan_preprocess
from ops.yuv import ColourMatrix, yuv_to_input

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
MATRICES: tuple[ColourMatrix, ...] = ("bt601", "bt709", "bt2020")
# Of a value, which is 2.7 at most: float32 of sums of up to hundreds of pixels; half types round once.
TOLERANCE = {F32: 2e-5, F16: 1.1e-3, BF16: 8e-3}
# Source and model sizes: by halves, halves and linear, area, halves and area, odd, enlarged, a row, a pixel.
SIZES = [
    ((48, 80), (12, 20)),
    ((72, 128), (12, 24)),
    ((45, 63), (12, 16)),
    ((50, 86), (9, 16)),
    ((37, 53), (32, 48)),
    ((9, 7), (24, 40)),
    ((16, 24), (16, 24)),
    ((1, 90), (8, 16)),
    ((1, 1), (3, 5)),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_preprocess("preprocess", PreprocessConfig(dtype)) for dtype in (F32, F16, BF16)]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def kernels(shim: KernelShim) -> PreprocessKernels:
    return PreprocessKernels(shim)


def noise(size: tuple[int, int], kind: str = "yuv420p", *, padding: int = 0) -> list[Tensor]:
    """Random levels of 0..255 whatever the range; lines are `padding` samples longer than the picture."""
    generator = torch.Generator().manual_seed(size[0])
    half = (-(-size[0] // 2), -(-size[1] // 2))

    def plane(height: int, width: int, *channels: int) -> Tensor:
        shape = (height, width + padding, *channels)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)[:, :width]

    if kind == "nv12":
        return [plane(*size), plane(*half, 2)]
    return [plane(*size), plane(*half), plane(*half)]


@pytest.mark.parametrize("kind", ["yuv420p", "nv12"])
@pytest.mark.parametrize(("source", "model"), SIZES)
def test_equals_the_readable_form_in_float64(
    kernels: PreprocessKernels, source: tuple[int, int], model: tuple[int, int], kind: str
) -> None:
    planes = noise(source, kind, padding=5)
    kept = [plane.clone() for plane in planes]
    for matrix, full_range in itertools.product(MATRICES, (False, True)):
        convert: dict[str, Any] = {
            "matrix": matrix,
            "full_range": full_range,
            "height": model[0],
            "width": model[1],
        }
        expected, fit = yuv_to_input(planes, **convert, dtype=torch.float64)
        # Every dtype at one matrix, to be done in time.
        for dtype in (F32, F16, BF16) if matrix == "bt709" else (F32,):
            found = kernels.preprocess(planes, **convert, dtype=dtype)
            assert found is not None, kernels.switched_off
            output, its_fit = found
            assert its_fit == fit
            assert output.dtype == dtype
            assert output.shape == expected.shape
            assert (output.double() - expected).abs().max() < TOLERANCE[dtype]
            assert not output[:, fit.content_height :].any()
            assert not output[:, :, fit.content_width :].any()
    assert all(torch.equal(a, b) for a, b in zip(planes, kept, strict=True))


def test_the_order_of_threads_does_not_matter(shim: KernelShim, kernels: PreprocessKernels) -> None:
    results = []
    for shim.lanes_backward in (False, True):
        found = kernels.preprocess(
            noise((45, 63)), matrix="bt709", full_range=False, height=24, width=32, dtype=F16
        )
        assert found is not None
        results.append(found[0])
    shim.lanes_backward = False
    assert torch.equal(*results)


def test_planes_of_any_stride_are_taken(kernels: PreprocessKernels) -> None:
    planes = noise((21, 34))
    convert: dict[str, Any] = {"matrix": "bt601", "full_range": False, "height": 12, "width": 16}
    expected = kernels.preprocess(planes, **convert)
    assert expected is not None
    turned = [plane.T.contiguous().T for plane in planes]
    different_lines = [planes[0], planes[1], torch.nn.functional.pad(planes[2], (0, 3))[:, :17]]
    for others in (turned, different_lines):
        found = kernels.preprocess(others, **convert)
        assert found is not None
        assert torch.equal(found[0], expected[0])


def test_a_real_size_in_half_precision_is_close_to_the_readable_form(kernels: PreprocessKernels) -> None:
    planes = noise((360, 640))
    found = kernels.preprocess(planes, matrix="bt709", full_range=False, height=96, width=160, dtype=F16)
    assert found is not None
    expected, _ = yuv_to_input(
        planes, matrix="bt709", full_range=False, height=96, width=160, dtype=torch.float64
    )
    assert (found[0].double() - expected).abs().max() < TOLERANCE[F16]


def test_wrong_pictures_are_refused_as_by_the_readable_form(kernels: PreprocessKernels) -> None:
    with pytest.raises(ValueError, match="planes must be"):
        kernels.preprocess(noise((4, 4))[:2], matrix="bt709", full_range=False, height=4, width=4)


def test_sizes_that_indices_do_not_reach_are_left_to_the_portable_form(
    shim: KernelShim, kernels: PreprocessKernels
) -> None:
    row, half = torch.zeros(1, 40_000, dtype=torch.uint8), torch.zeros(1, 20_000, dtype=torch.uint8)
    before = shim.num_runs
    assert (
        kernels.preprocess([row, half, half], matrix="bt709", full_range=True, height=1, width=39_999) is None
    )
    assert shim.num_runs == before
    assert not kernels.switched_off


@pytest.mark.parametrize(
    ("index", "wrong"),
    [
        (0, lambda given: given + 1),  # the line of luma
        (3, lambda given: max(1, given // 2)),  # pixels of a cell
        (6, lambda given: 1 - given),  # linear for area
        (13, lambda given: given * np.float32(1.05)),  # red of red
        (20, lambda given: given + np.float32(0.1)),  # the shift of red
    ],
)
def test_a_kernel_that_computes_wrongly_is_switched_off_and_said_once(
    shim: KernelShim, caplog: pytest.LogCaptureFixture, index: int, wrong: Any
) -> None:
    def compile_wrongly(launch: Launch[Any], device: torch.device) -> Run:
        run = shim(launch, device)

        def run_wrongly(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            changed = list(scalars)
            changed[index] = wrong(scalars[index])
            run(blocks, addresses, tuple(changed))

        return run_wrongly

    kernels = PreprocessKernels(compile_wrongly)
    with caplog.at_level(logging.WARNING, logger="ops.kernel"):
        for _ in range(2):
            assert (
                kernels.preprocess(noise((8, 8)), matrix="bt709", full_range=True, height=4, width=4) is None
            )
    (record,) = caplog.records
    assert "yuv_to_input<float> switched off" in record.getMessage()
    assert "differs from the portable form" in record.getMessage()


def test_what_has_no_kernel_is_said_and_left_to_the_portable_form(
    shim: KernelShim, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = PreprocessKernels(shim)
    with caplog.at_level(logging.INFO, logger="ops.kernel"):
        assert (
            kernels.preprocess(
                noise((8, 8)), matrix="bt709", full_range=True, height=4, width=4, dtype=torch.float64
            )
            is None
        )
    (record,) = caplog.records
    assert "preprocessing runs in its portable form: no kernel for torch.float64" in record.getMessage()


def test_planes_on_the_cpu_are_none_of_its_business() -> None:
    assert preprocess_cuda(noise((8, 8)), matrix="bt709", full_range=True, height=4, width=4) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_builds_cubins_without_spills(architecture: str, tmp_path: Path) -> None:
    check_cubin([plan_preprocess("preprocess", PreprocessConfig(F16))], architecture, tmp_path)
