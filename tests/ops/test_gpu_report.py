"""The GPU report where there is no GPU: it refuses and says why; its check runs on the shim's kernels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.kernel_shim import KernelShim

from ops.cuda import DeformAttnKernels
from ops.kernel import Run, Scalar
from ops.launch import DeformAttnConfig, Launch, plan_deform_attn

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_report.py"
CONFIG = DeformAttnConfig(torch.float16, torch.float16, torch.float32, 2, 8, 2, 2, 2, False)


@pytest.fixture(scope="module")
def gpu_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_deform_attn(p, CONFIG) for p in ("forward", "backward")]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gpu-report needs an NVIDIA GPU: torch {torch.__version__}, built ")
    assert list(tmp_path.iterdir()) == []


def test_a_right_kernel_passes_its_check(gpu_report: ModuleType, shim: KernelShim) -> None:
    row = gpu_report.check(DeformAttnKernels(shim), "small", CONFIG, torch.device("cpu"), ((7, 5), (1, 1)))
    assert row["passed"]
    assert 0 < row["error"] < row["limit"]


def skewed(run: Run) -> Run:
    """Reads a narrower level 0 in large pyramids only: the check at the first launch cannot see it."""

    def run_skewed(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
        run(blocks, addresses, (*scalars[:4], scalars[4] - (scalars[4] > 20)))

    return run_skewed


def swapped(run: Run) -> Run:
    return lambda blocks, addresses, given: run(blocks, addresses, (*given[:3], given[4], given[3]))


@pytest.mark.parametrize(("change", "told"), [(skewed, "error"), (swapped, "why")])
def test_a_wrong_kernel_fails_its_check_and_the_page_names_it(
    gpu_report: ModuleType, shim: KernelShim, change: Callable[[Run], Run], told: str
) -> None:
    def compile_wrongly(launch: Launch[DeformAttnConfig], device: torch.device) -> Run:
        return change(shim(launch, device))

    device = torch.device("cpu")
    wrong = gpu_report.check(DeformAttnKernels(compile_wrongly), "wrong", CONFIG, device, ((4, 24),))
    right = gpu_report.check(DeformAttnKernels(shim), "right", CONFIG, device, ((4, 24),))
    assert not wrong["passed"]
    assert wrong[told]
    forms = ("kernel", "portable", "grid_sample")
    times = {f"{form}{suffix}": 80.0 for form in forms for suffix in ("", ", with gradients")}
    timing = {
        "layer": "R50, T = 5, 360×640",
        "dtype": "float16",
        "queries": 24_100,
        "kernels_used": False,
        "us": times | {"kernel in a graph": 20.0},
    }
    page = gpu_report.page(
        {"device": "D", "machine": "M", "checks": [right, wrong], "timings": [timing]}
    ).splitlines()
    assert "Checks against float64: 1 of 2 passed." in page
    assert [line for line in page if line.startswith("- FAILED wrong: ")]
    assert not [line for line in page if line.startswith("- FAILED right")]
    assert "| kernel, in a CUDA graph | 20.0 | 4.0× faster | | |" in page
    assert [line for line in page if "target on an H200: 40" in line and "void" in line]


def test_every_configuration_of_the_report_has_both_kernels(gpu_report: ModuleType) -> None:
    names = [name for name, _ in gpu_report.configs()]
    assert len(set(names)) == len(names) == 27
    for _, config in gpu_report.configs():
        for kernel in ("forward", "backward"):
            assert plan_deform_attn(kernel, config).threads >= 1
