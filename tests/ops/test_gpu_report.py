"""The GPU report where there is no GPU: it refuses and says why; its checks run on the shim's kernels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmarks
import pytest
import torch
from benchmarks import gpu_dcnv4, gpu_frames, gpu_network, gpu_timing
from support.kernel_shim import KernelShim
from support.streams import TINY_NETWORK

from model.config import ModelConfig
from model.network import Network
from ops.cuda import DeformAttnKernels
from ops.device_masks import MaskRunsKernels
from ops.device_preprocess import PreprocessKernels
from ops.kernel import Compiler, Run, Scalar
from ops.launch import (
    DeformAttnConfig,
    Launch,
    MaskRunsConfig,
    PreprocessConfig,
    plan_deform_attn,
    plan_mask_runs,
    plan_preprocess,
)
from ops.reference import deform_attn_reference
from pipeline.config_file import load_config

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
    times = {"original in a graph": 70.0, "DCNv4 in a graph": 30.0} | {
        f"{form}{suffix}": 80.0 for form in forms for suffix in ("", ", with gradients")
    }
    timing = {
        "layer": "R50, T = 5, 360×640",
        "dtype": "float16",
        "queries": 24_100,
        "kernels_used": False,
        "us": times | {"kernel in a graph": 20.0},
    }
    page = gpu_report.page(
        {
            "device": "D",
            "machine": "M",
            "checks": [right, wrong],
            "timings": [timing],
            "frame_timings": [{"name": "some masks", "us": {"kernel": 5.0, "host, wall clock": 40.0}}],
            "network_timings": [],
            "left_out": "masks, for want of a package",
        }
    ).splitlines()
    assert "Checks against float64 (runs of masks: for equality): 1 of 2 passed." in page
    assert "NOT CHECKED: masks, for want of a package" in page
    assert "### some masks" in page
    assert "| form | microseconds | against host |" in page
    assert "| kernel | 5.0 | 8.0× faster |" in page
    assert [line for line in page if line.startswith("- FAILED wrong: ")]
    assert not [line for line in page if line.startswith("- FAILED right")]
    assert "| kernel, in a CUDA graph | 20.0 | 4.0× faster | | |" in page
    assert [line for line in page if "target on an H200: 40" in line and "void" in line]
    assert [line for line in page if "| 70.0 (ours: 3.5× faster; target ≥ 3) |" in line]


def test_every_configuration_of_the_report_has_both_kernels(gpu_report: ModuleType) -> None:
    names = [name for name, _ in gpu_report.configs()]
    assert len(set(names)) == len(names) == 27
    for _, config in gpu_report.configs():
        for kernel in ("forward", "backward"):
            assert plan_deform_attn(kernel, config).threads >= 1


CPU = torch.device("cpu")
SMALL = (((24, 38), (6, 10)), ((9, 7), (12, 16)))


@pytest.fixture(scope="module")
def preprocess_shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_preprocess("preprocess", PreprocessConfig(torch.float16))]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def mask_shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_mask_runs("mask_runs", MaskRunsConfig(torch.float16, torch.float32))]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


def altered(shim: KernelShim, index: int, limit: float, change: float) -> Compiler:
    """Adds `change` to a scalar where it is above `limit`: the check at the first launch cannot see it."""

    def compile_wrongly(launch: Launch[Any], device: torch.device) -> Run:
        run = shim(launch, device)

        def run_wrongly(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            changed = list(scalars)
            if changed[index] > limit:
                changed[index] = type(changed[index])(changed[index] + change)
            run(blocks, addresses, tuple(changed))

        return run_wrongly

    return compile_wrongly


def test_preprocessing_is_checked_against_the_readable_form(preprocess_shim: KernelShim) -> None:
    row = gpu_frames.check_preprocess(PreprocessKernels(preprocess_shim), torch.float16, CPU, SMALL)
    assert row["passed"]
    assert 0 < row["error"] < row["limit"]
    lines = altered(preprocess_shim, 0, 38, 1)  # the line of luma of a picture of 38 columns and 5 beside
    row = gpu_frames.check_preprocess(PreprocessKernels(lines), torch.float16, CPU, (SMALL[0],))
    assert not row["passed"]
    assert row["why"] if "why" in row else row["error"] > row["limit"]


def test_uploaded_planes_are_checked_for_equality(preprocess_shim: KernelShim) -> None:
    assert gpu_frames.check_uploaded(PreprocessKernels(preprocess_shim), CPU, (36, 50))["passed"]


def test_masks_are_checked_for_equality(mask_shim: KernelShim) -> None:
    dtypes = (torch.float16, torch.float32)
    row = gpu_frames.check_masks(MaskRunsKernels(mask_shim), dtypes, CPU, ((48, 85),))
    assert row["passed"]
    # Scalar 3 is the height of the source: a row more than there are, where there are more than 97.
    taller = altered(mask_shim, 3, 97, 1)
    row = gpu_frames.check_masks(MaskRunsKernels(taller), dtypes, CPU, ((130, 70),))
    assert not row["passed"]
    assert 0 < row["error"] < 1


def test_all_forms_that_are_timed_give_the_same(preprocess_shim: KernelShim, mask_shim: KernelShim) -> None:
    forms = gpu_frames.preprocess_forms(PreprocessKernels(preprocess_shim), (72, 128), (24, 40), CPU)
    kernel, uploaded, readable, over_rgb = (form().float() for form in forms.values())
    assert torch.equal(uploaded, kernel)
    assert (kernel - readable).abs().max() < 2e-3
    assert (kernel - over_rgb).abs().max() < 4 / 255 / 0.224  # levels, by the smallest deviation
    assert kernel.std() > 0.2

    forms = gpu_frames.mask_forms(MaskRunsKernels(mask_shim), (72, 128), (48, 80), CPU)
    _, encoded, host = (form() for form in forms.values())
    assert encoded == host
    assert sum(rle.area for rle in host) > 1000


def test_a_step_is_timed_by_the_wall_clock() -> None:
    calls = []
    microseconds = gpu_timing.wall_time_us(lambda: calls.append(sum(range(10_000))), CPU)
    assert len(calls) == gpu_timing.ROUNDS + 3
    assert 1 < microseconds < 1e6


def test_what_cannot_be_checked_for_want_of_a_package_is_said(
    gpu_report: ModuleType, mask_shim: KernelShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "benchmarks.gpu_frames")
    monkeypatch.delattr(benchmarks, "gpu_frames")
    ((part, why),) = gpu_report.frame_rows(mask_shim, CPU)
    assert part == "left_out"
    assert "cv2" in why


TINY = ModelConfig.from_dict(
    {**TINY_NETWORK, "num_frames": 2, "query_selection": "learned", "cues": ["background"]}
)
CASE = gpu_network.Case("tiny", TINY, "eager", "fp32", num_kept=4)


def test_the_reports_paper_network_is_the_configs() -> None:
    config = load_config(Path("configs/r50.yaml"))
    assert ModelConfig.from_dict(config.model.network) == gpu_network.R50


def test_the_network_is_checked_and_timed_with_one_stream_and_with_two() -> None:
    cases = (CASE, replace(CASE, num_streams=2), replace(CASE, precision="fp16"))
    rows = list(gpu_network.report(CPU, cases=cases))
    checks = [row for part, row in rows if part == "checks"]
    assert len(checks) == 5
    assert all(row["passed"] for row in checks)
    one, two, refused = [row for part, row in rows if part == "network_timings"]
    assert one["frames_per_second"] > 0
    assert one["frames_per_second_two_open"] > 0
    assert one["p50_ms"] <= one["p95_ms"]
    assert two["streams"] == 2
    assert two["frames_per_second"] > 0
    assert "'fp16' is for GPUs" in refused["why"]
    page = gpu_network.page([one, two, refused])
    assert sum(line.startswith("| tiny, 96×64, T = 2 | 2 | eager | fp32 | ") for line in page) == 1
    assert [line for line in page if "for GPUs" in line]


def test_a_network_that_is_wrong_on_the_device_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Network.to
    monkeypatch.setattr(Network, "to", lambda self, *args, **how: broken(right(self, *args, **how)))

    def broken(network: Network) -> Network:
        with torch.no_grad():
            network.mask_head.controller.layers[0].weight *= 1.05
        return network

    assert not gpu_network.check_against_cpu(CPU, TINY)["passed"]


def test_cases_that_the_time_is_not_enough_for_are_named() -> None:
    rows = [row for _, row in gpu_network.report(CPU, seconds=-1.0, cases=(CASE, CASE))]
    assert [row.get("why") for row in rows[-2:]] == ["no time was left"] * 2
    assert "no time was left" in gpu_network.page(rows[-2:])[-2]


# In the form of the original's file: what is around the two functions cannot be compiled here.
LOOK_ALIKE = """
#include <THC/THCAtomics.cuh>
#define CUDA_KERNEL_LOOP(i, n) for (int i = blockIdx.x; i < n; i += gridDim.x)
template <typename scalar_t>
__device__ scalar_t ms_deform_attn_im2col_bilinear(const scalar_t* &image, const int &height,
        const int &width, const int &heads, const int &channels, const scalar_t &y, const scalar_t &x,
        const int &m, const int &c) {
    scalar_t sum = 0;
    for (int row = 0; row < height; ++row)
        for (int column = 0; column < width; ++column) {
            scalar_t fy = 1 - (row > y ? row - y : y - row), fx = 1 - (column > x ? column - x : x - column);
            if (fy > 0 && fx > 0) sum += fy * fx * image[((row * width + column) * heads + m) * channels + c];
        }
    return sum;
}
template <typename scalar_t>
__device__ void another(scalar_t* x) { atomicAdd(x, at::opmath(1)); }
template <typename scalar_t>
__global__ void ms_deformable_im2col_gpu_kernel(const int n, const scalar_t *value, const int64_t *shapes,
        const int64_t *starts, const scalar_t *locations, const scalar_t *weights, const int batch,
        const int positions, const int heads, const int channels, const int levels, const int queries,
        const int points, scalar_t *result) {
    CUDA_KERNEL_LOOP(index, n) {
        const int c = index % channels, m = index / channels % heads, q = index / (channels * heads);
        scalar_t sum = 0;
        for (int sample = 0; sample < levels * points; ++sample) {
            const int level = sample / points, place = (q * heads + m) * levels * points + sample;
            const int height = shapes[2 * level], width = shapes[2 * level + 1];
            const scalar_t *image = value + ((q / queries) * positions + starts[level]) * heads * channels;
            const scalar_t x = locations[2 * place] * width - 0.5f;
            const scalar_t y = locations[2 * place + 1] * height - 0.5f;
            sum += weights[place]
                * ms_deform_attn_im2col_bilinear(image, height, width, heads, channels, y, x, m, c);
        }
        result[index] = sum;
    }
}
template <typename scalar_t>
void launch(cudaStream_t stream) {}
"""


def test_the_original_kernel_is_taken_out_of_its_file_and_checked(
    gpu_report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_report.SHAPES, "R50", (2, 8, 3, 2))
    path = tmp_path / "original.cuh"

    def compile_it(launch: Launch[Any], device: torch.device) -> Run:
        return KernelShim([launch], tmp_path)(launch, device)

    path.write_text(LOOK_ALIKE)
    original, row = gpu_report.check_original(path, compile_it, CPU)
    assert original is not None
    assert row["passed"], row
    assert 0 < row["error"] < row["limit"]
    path.write_text(LOOK_ALIKE.replace("* height - 0.5f", "* height - 0.4f"))
    assert not gpu_report.check_original(path, compile_it, CPU)[1]["passed"]
    path.write_text("// another file")
    original, row = gpu_report.check_original(path, compile_it, CPU)
    assert original is None
    assert "no ms_deform_attn_im2col_bilinear in it: give ms_deform_im2col_cuda.cuh" in row["why"]


def test_dcnv4_is_given_what_our_operator_samples(gpu_report: ModuleType) -> None:
    """Its samples, taken from value with grid_sample as its kernel is described to do, give our result."""
    config = DeformAttnConfig(torch.float32, torch.float32, torch.float32, 2, 8, 3, 2, 2, False)
    inputs = gpu_report.make(config, (8, 6), CPU, B=2, Q=5)
    value, sizes, starts, samples, _, K = gpu_dcnv4.arguments(inputs)
    B, _, M, D = value.shape
    Q, L = samples.shape[1], len(sizes)
    assert samples.shape == (B, Q, M, 3 * L * K)
    locations = samples[..., : 2 * L * K].float().view(B, Q, M, L, K, 2)
    weights = samples[..., 2 * L * K :].float().softmax(-1).view(B, Q, M, L, K)
    result = torch.zeros(B, Q, M, D)
    for level, ((height, width), start) in enumerate(zip(sizes.tolist(), starts.tolist(), strict=True)):
        image = value[:, start : start + height * width].float().permute(0, 2, 3, 1)
        image = image.reshape(B * M, D, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # (B·M, Q, K, 2)
        sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False).view(B, M, D, Q, K)
        result += torch.einsum("bmdqk,bqmk->bqmd", sampled, weights[:, :, :, level])
    wanted = deform_attn_reference(*inputs)
    assert float((result.flatten(2) - wanted).abs().max()) < 2e-2 * float(wanted.abs().max())


def test_without_its_package_dcnv4_is_a_failed_row_with_the_remedy(gpu_report: ModuleType) -> None:
    peer, row = gpu_report.check_dcnv4(CPU)
    assert peer is None
    assert not row["passed"]
    assert "install DCNv4_op" in row["why"]
