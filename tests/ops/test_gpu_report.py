"""The GPU report where there is no GPU: it refuses and says why; its checks run on the shim's kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmarks
import pytest
import torch
from benchmarks import gpu_dcnv4, gpu_frames, gpu_kernels, gpu_network, gpu_report, gpu_timing
from support.kernel_shim import KernelShim

from model.checkpoint.weights_file import load_weights, shipped_weights
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


def test_a_right_kernel_passes_its_check(shim: KernelShim) -> None:
    row = gpu_kernels.check(DeformAttnKernels(shim), "small", CONFIG, torch.device("cpu"), ((7, 5), (1, 1)))
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
    shim: KernelShim, change: Callable[[Run], Run], told: str
) -> None:
    def compile_wrongly(launch: Launch[DeformAttnConfig], device: torch.device) -> Run:
        return change(shim(launch, device))

    device = torch.device("cpu")
    wrong = gpu_kernels.check(DeformAttnKernels(compile_wrongly), "wrong", CONFIG, device, ((4, 24),))
    right = gpu_kernels.check(DeformAttnKernels(shim), "right", CONFIG, device, ((4, 24),))
    assert not wrong["passed"]
    assert wrong[told]
    forms = ("kernel", "portable", "grid_sample")
    times = {"original in a graph": 70.0, "DCNv4 in a graph": 30.0} | {
        f"{form}{suffix}": 80.0 for form in forms for suffix in ("", ", with gradients")
    }
    timing = {
        "layer": "R50, T = 5, 360×640",
        "dtype": "float16",
        "references": "grid",
        "queries": 24_100,
        "kernels_used": False,
        "us": times | {"kernel in a graph": 20.0},
    }
    page = gpu_report.page(
        {
            "machine": [{"device": "D", "machine": "M"}],
            "checks": [right, wrong],
            "kernel_timings": [timing, timing | {"references": "random"}],
            "frame_timings": [{"name": "some masks", "us": {"kernel": 5.0, "host, wall clock": 40.0}}],
            "left_out": [{"what": "masks", "why": "No module named 'pycocotools'"}],
            "failed": [{"part": "network", "name": "R50", "why": "not ended after 60 s"}],
        }
    ).splitlines()
    assert "Checks against float64 (runs of masks: for equality): 1 of 2 passed." in page
    assert "- NOT CHECKED: masks, a package is missing (No module named 'pycocotools')" in page
    assert "- NOT DONE network, R50: not ended after 60 s" in page
    assert "### some masks" in page
    assert "| form | microseconds | against host |" in page
    assert "| kernel | 5.0 | 8.0× faster |" in page
    assert [line for line in page if line.startswith("- FAILED wrong: ")]
    assert not [line for line in page if line.startswith("- FAILED right")]
    assert "| kernel, in a CUDA graph | 20.0 | 4.0× faster | | |" in page
    assert page.count("In a graph on an H200: predicted 42 µs; target 40; here 20.0.") == 1, (
        "not of random ones"
    )
    assert [line for line in page if "grid references; a kernel was switched off" in line and "void" in line]
    assert [line for line in page if "target ≥ 3× | 70.0 (ours: 3.5× faster) |" in line]


def test_every_configuration_of_the_report_has_both_kernels() -> None:
    names = [name for name, _ in gpu_kernels.configs()]
    assert len(set(names)) == len(names) == 27
    for _, config in gpu_kernels.configs():
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
    lines = altered(preprocess_shim, 0, 38, 1)  # the line of luma of a picture of 38 columns and 5 next to it
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
    assert len(calls) == gpu_timing.DRY_ROUNDS + 1
    assert 1 < microseconds < 1e6


def dry(folder: Path) -> Any:
    return gpu_report.Setting(0, None, False, folder)


def test_a_dry_run_walks_all_cases_and_keeps_every_row(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--output", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "gpu-rows.jsonl").read_text().splitlines()]
    tables = json.loads((tmp_path / "gpu-dry-run.json").read_text())
    assert sum(map(len, tables.values())) == len(rows)
    assert "failed" not in tables
    assert "left_out" not in tables
    assert {row["part"] for row in tables["checks"]} == {"kernels", "frames", "network"}
    assert len(tables["checks"]) == 16
    assert all(row["passed"] for row in tables["checks"])
    assert [row["references"] for row in tables["kernel_timings"]] == ["grid", "random"]
    assert len(tables["frame_timings"]) == 2
    assert [row["streams"] for row in tables["network_timings"]] == [1, 2, 1]
    page = (tmp_path / "gpu-dry-run.md").read_text()
    assert "16 of 16 passed" in page
    assert "'fp16' is for GPUs" in page


def test_a_case_that_dies_hangs_or_raises_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(name: str, then: Callable[[], object]) -> Any:
        def rows(setting: Any) -> Any:
            yield "checks", {"name": name, "passed": True}
            then()
            yield "checks", {"name": f"{name}, later", "passed": True}

        return gpu_report.Case("kernels", name, 30.0 if name != "hangs" else 4.0, rows)

    def refuse() -> None:
        raise RuntimeError("an illegal memory access\nwas encountered")

    cases = [
        says("dies", lambda: os.kill(os.getpid(), signal.SIGKILL)),
        says("hangs", lambda: time.sleep(100)),
        says("raises", refuse),
        says("works", lambda: None),
    ]
    monkeypatch.setattr(gpu_report, "cases", lambda setting: cases)
    until = time.monotonic() + 60
    assert gpu_report.report(dry(tmp_path), ["kernels"], tmp_path, until=until) == 1
    tables = json.loads((tmp_path / "gpu-dry-run.json").read_text())
    names = [row["name"] for row in tables["checks"]]
    assert names == ["dies", "hangs", "raises", "works", "works, later"]
    assert [(row["name"], row["why"]) for row in tables["failed"]] == [
        ("dies", "its process died: SIGKILL"),
        ("hangs", "not ended after 4 s"),
        ("raises", "an illegal memory access"),
    ]


def test_a_line_left_half_by_a_dying_process_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    gpu_report.append_row(path, "checks", {"name": "whole"})
    with path.open("a") as file:
        file.write('{"table": "checks", "na')
    assert gpu_report.read_rows(path) == {"checks": [{"name": "whole"}]}


def test_when_the_time_is_over_what_is_left_is_named(tmp_path: Path) -> None:
    setting = dry(tmp_path)
    assert gpu_report.report(setting, ["kernels"], tmp_path, until=time.monotonic()) == 1
    tables = json.loads((tmp_path / "gpu-dry-run.json").read_text())
    assert {row["why"] for row in tables["failed"]} == {"no time was left"}
    assert len(tables["failed"]) == len(
        [case for case in gpu_report.cases(setting) if case.part == "kernels"]
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--parts", "kernels,masks"], "no such part: masks; there are kernels, frames, network, inductor"),
        (["--original", "nowhere.cuh"], "--original: no file nowhere.cuh"),
    ],
)
def test_mistyped_arguments_are_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu_report.parse(arguments)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("package", "what"), [("cv2", "pictures and masks"), ("pycocotools", "masks")])
def test_what_cannot_be_checked_because_a_package_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, what: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "benchmarks.gpu_frames")
    monkeypatch.delattr(benchmarks, "gpu_frames")
    ((table, row),) = gpu_report.frame_checks("masks", dry(tmp_path))
    assert (table, row["what"]) == ("left_out", what)
    assert package in row["why"]


def test_a_report_on_a_gpu_has_all_parts() -> None:
    cases = gpu_report.cases(gpu_report.Setting(0, None, False, None))
    assert {case.part for case in cases} == set(gpu_report.PARTS)
    assert len({case.name for case in cases}) == len(cases)


TINY = gpu_network.TINY
CASE = gpu_network.Case("tiny", TINY, "eager", "fp32", num_kept=4)


def test_the_reports_paper_network_is_the_configs() -> None:
    config = load_config(Path("configs/r50.yaml"))
    assert ModelConfig.from_dict(config.model.network) == gpu_network.R50


def test_the_reports_default_network_is_the_one_that_ships() -> None:
    assert load_weights(shipped_weights()).config == gpu_network.DEFAULT


def test_the_network_is_timed_with_one_stream_and_with_two() -> None:
    cases = (CASE, replace(CASE, num_streams=2), replace(CASE, precision="fp16"))
    one, two, refused = (gpu_network.time_case(case, CPU, seconds=0.0, least=4) for case in cases)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_kernels.SHAPES, "R50", (2, 8, 3, 2))
    path = tmp_path / "original.cuh"

    def compile_it(launch: Launch[Any], device: torch.device) -> Run:
        return KernelShim([launch], tmp_path)(launch, device)

    path.write_text(LOOK_ALIKE)
    original, row = gpu_kernels.check_original(path, compile_it, CPU)
    assert original is not None
    assert row["passed"], row
    assert 0 < row["error"] < row["limit"]
    path.write_text(LOOK_ALIKE.replace("* height - 0.5f", "* height - 0.4f"))
    assert not gpu_kernels.check_original(path, compile_it, CPU)[1]["passed"]
    path.write_text("// another file")
    original, row = gpu_kernels.check_original(path, compile_it, CPU)
    assert original is None
    assert "no ms_deform_attn_im2col_bilinear in it: give ms_deform_im2col_cuda.cuh" in row["why"]


def test_dcnv4_is_given_what_our_operator_samples() -> None:
    """Its samples, taken from value with grid_sample as its kernel is described to do, give our result."""
    config = DeformAttnConfig(torch.float32, torch.float32, torch.float32, 2, 8, 3, 2, 2, False)
    inputs = gpu_kernels.make(config, (8, 6), CPU, B=2, Q=5)
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


def test_without_its_package_dcnv4_is_a_failed_row_with_the_remedy() -> None:
    peer, row = gpu_kernels.check_dcnv4(CPU)
    assert peer is None
    assert not row["passed"]
    assert "install DCNv4_op" in row["why"]
