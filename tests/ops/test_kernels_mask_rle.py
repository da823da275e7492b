"""The CUDA kernel from mask logits to run lengths, run on the CPU by the shim: equal to `crop_masks`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernel_shim import ARCHITECTURES, KernelShim, check_cubin
from support.predictors import FixedPredictor
from support.small_models import live_model, small_config
from torch import Tensor

from ops import crop_masks, encode_crop
from ops.device_masks import (
    CAPACITY,
    CropMasksOnDevice,
    DeviceSums,
    MaskRunsKernels,
    crop_masks_on,
    crops_of_runs,
    mask_runs_cuda,
)
from ops.kernel import Run, Scalar
from ops.launch import Launch, MaskRunsConfig, plan_mask_runs
from ops.preprocess import Fit, fit_size
from ops.rle import CropRLE
from pipeline.config_file import load_config
from pipeline.inference.network_predictor import NetworkPredictor
from pipeline.inference.predictor import Capabilities, Finish
from pipeline.live.stream import Stream
from pipeline.types import Window

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
CONFIGS = [
    MaskRunsConfig(F32, F64),
    MaskRunsConfig(F32, F32),
    MaskRunsConfig(F16, F32),
    MaskRunsConfig(BF16, F64),
]
SOURCES = [(720, 1280), (480, 854), (1000, 333), (97, 211), (23, 31), (5, 3), (1, 90), (1, 1)]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> KernelShim:
    launches = [plan_mask_runs("mask_runs", config) for config in CONFIGS]
    return KernelShim(launches, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def kernels(shim: KernelShim) -> MaskRunsKernels:
    return MaskRunsKernels(shim)


def on_host(logits: Tensor, boxes: Tensor, fit: Fit, **options: Any) -> list[CropRLE]:
    return crop_masks(logits.float().numpy(), boxes.numpy(), fit=fit, **options)


def blobs(fit: Fit, *, stride: int, num: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of ellipses with ragged edges, some cut by the border, and their boxes in source pixels."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = -(-fit.height // stride), -(-fit.width // stride)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    logits, boxes = [], []
    for cx, cy, a, b in torch.rand(num, 4, generator=generator).tolist():
        cx, cy = cx * fit.content_width / stride, cy * fit.content_height / stride
        a, b = 2.5 + 7 * a, 2.5 + 7 * b
        ragged = torch.randn(rows, columns, generator=generator)
        logits.append(4 * (1 - torch.hypot((x - cx) / a, (y - cy) / b)) + ragged)
        boxes.append([(cx - a) * stride, (cy - b) * stride, (cx + a) * stride, (cy + b) * stride])
    scale = torch.tensor([fit.scale_x, fit.scale_y] * 2, dtype=F64)
    return torch.stack(logits), torch.tensor(boxes, dtype=F64) / scale


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", SOURCES)
def test_runs_equal_those_of_crop_masks(kernels: MaskRunsKernels, size: tuple[int, int], stride: int) -> None:
    fit = fit_size(*size, height=96, width=160)
    logits, boxes = blobs(fit, stride=stride)
    some = 0
    for config in CONFIGS if stride == 4 else CONFIGS[:1]:
        given, its_boxes = logits.to(config.logits), boxes.to(config.boxes)
        runs = kernels.device_runs(given, its_boxes, fit=fit, stride=stride)
        assert runs is not None, kernels.switched_off
        expected = on_host(given, its_boxes, fit, stride=stride)
        assert crops_of_runs(runs) == expected
        for rle in expected:
            some += rle.area
            # The counts are COCO's own of the mask within its ones.
            assert rle == encode_crop(rle.decode_crop(), rle.x, rle.y)
    assert some or size == (1, 1)


@pytest.mark.parametrize(("model_size", "grow"), [((33, 50), 0.0), ((8, 8), 0.25), ((4, 90), 0.1)])
@pytest.mark.parametrize("size", [(97, 211), (5, 3), (1, 1)])
def test_noise_in_boxes_of_any_size_equals_crop_masks(
    kernels: MaskRunsKernels, size: tuple[int, int], model_size: tuple[int, int], grow: float
) -> None:
    """Up and down, several runs a column, boxes small, whole, outside and impossible in one call."""
    fit = fit_size(*size, height=model_size[0], width=model_size[1])
    generator = torch.Generator().manual_seed(0)
    for stride in (1, 4):
        shape = (12, -(-fit.height // stride), -(-fit.width // stride))
        logits = torch.randn(shape, generator=generator)
        logits[torch.rand(shape, generator=generator) < 0.2] = 0.0  # lines that touch 0 and turn back
        corners = (torch.rand(12, 2, 2, generator=generator, dtype=F64) * 1.6 - 0.3) * torch.tensor(
            size[::-1]
        )
        boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
        boxes[3], boxes[4] = torch.nan, torch.tensor([0, 0, torch.inf, 1])
        boxes[5], boxes[6] = torch.tensor([0, 0, *size[::-1]]), torch.tensor([50, 50, -90, -90])
        for dtype in (F64, F32):
            runs = kernels.device_runs(logits, boxes.to(dtype), fit=fit, stride=stride, grow=grow)
            assert runs is not None
            assert crops_of_runs(runs) == on_host(logits, boxes.to(dtype), fit, stride=stride, grow=grow)


def test_runs_that_fill_columns_are_one_run(kernels: MaskRunsKernels) -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    logits = torch.ones(2, 48, 80)
    logits[1, :, 20:] = -1.0
    boxes = torch.tensor([[320.0, 160, 420, 260], [0, 0, 1280, 720]])
    runs = kernels.device_runs(logits, boxes, fit=fit, grow=0.25)
    assert runs is not None
    assert runs.rectangles[0].tolist() == [320 - 25 - 16, 160 - 25 - 16, 150 + 32, 150 + 32]
    assert runs.num_runs.tolist() == [2, 2]
    assert runs.counts[0, :2].tolist() == [0, 182 * 182]
    # Logits cross 0 between cells 19 and 20, at the edge of 16 source pixels each.
    assert runs.rectangles[1].tolist() == [0, 0, 320, 720]
    assert runs.counts[1, :2].tolist() == [0, 320 * 720]
    assert crops_of_runs(runs) == on_host(logits, boxes, fit, grow=0.25)


def test_masks_without_ones_and_masks_of_a_row_or_a_column(kernels: MaskRunsKernels) -> None:
    fit = fit_size(20, 30, height=20, width=30)
    logits = torch.full((5, 20, 30), -1.0)
    logits[1, 7, 3:28] = 0.5
    logits[2, 4:9, 11] = 0.5
    logits[3, 19, 29] = 0.5
    logits[4] = 0.0  # a logit of 0 is not in the mask
    boxes = torch.tensor([[0.0, 0, 30, 20]] * 5)
    runs = kernels.device_runs(logits, boxes, fit=fit, stride=1)
    assert runs is not None
    assert runs.num_runs.tolist() == [0, 2, 2, 2, 0]
    assert runs.rectangles.tolist() == [[0] * 4, [3, 7, 25, 1], [11, 4, 1, 5], [29, 19, 1, 1], [0] * 4]
    assert [rle is not None and rle.area for rle in crops_of_runs(runs)] == [0, 25, 5, 1, 0]


def test_infinite_logits_and_cells_that_are_no_number(kernels: MaskRunsKernels) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    logits[0][logits[0] > 0] = torch.inf
    logits[1][logits[1] < 0] = -torch.inf
    logits[2, 5:9, 10:30] = torch.nan
    logits[3] = torch.nan
    runs = kernels.device_runs(logits, boxes, fit=fit)
    assert runs is not None
    assert crops_of_runs(runs) == on_host(logits, boxes, fit)


def test_a_mask_beyond_the_capacity_is_told_with_its_true_count(kernels: MaskRunsKernels) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    logits[1:3] = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))
    boxes[1:3] = torch.tensor([0.0, 0, 211, 97])
    whole = kernels.device_runs(logits, boxes, fit=fit)
    assert whole is not None
    assert not whole.overflowed.any()
    assert whole.counts.shape == (6, CAPACITY)
    counts = whole.num_runs.tolist()
    limit = sorted(counts)[3]  # of six masks, three fit and one is as long as may be
    short = kernels.device_runs(logits, boxes, fit=fit, capacity=limit)
    assert short is not None
    assert short.num_runs.tolist() == counts
    assert short.overflowed.tolist() == [int(count > limit) for count in counts]
    assert short.overflowed.sum() == 2
    expected = [
        None if count > limit else rle for count, rle in zip(counts, on_host(logits, boxes, fit), strict=True)
    ]
    assert crops_of_runs(short) == expected
    tiny = kernels.device_runs(logits, boxes, fit=fit, capacity=1)
    assert tiny is not None
    assert tiny.num_runs.tolist() == counts
    assert crops_of_runs(tiny) == [
        None if count > 1 else rle for count, rle in zip(counts, expected, strict=True)
    ]


def test_no_write_leaves_the_mask(shim: KernelShim) -> None:
    """Each mask's counts end where its row does, overflowed or not: what stands behind stays."""
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4, num=1)
    behind = []

    def guarded(launch: Launch[Any], device: torch.device) -> Run:
        run = shim(launch, device)

        def run_guarded(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            capacity, width = int(scalars[0]), int(scalars[4])
            packed = torch.full((blocks * (6 + capacity) + 64,), -7, dtype=torch.int32)
            scratch = torch.full((blocks * 3 * width + 64,), -7, dtype=torch.int32)
            run(blocks, (packed.data_ptr(), scratch.data_ptr(), *addresses[2:]), scalars)
            behind.extend((packed[-64:], scratch[-64:]))
            run(blocks, addresses, scalars)

        return run_guarded

    kernels = MaskRunsKernels(guarded)
    for capacity in (1, 2, 100, CAPACITY):
        assert kernels.device_runs(logits, boxes, fit=fit, capacity=capacity) is not None
    assert len(behind) >= 8
    assert all(values.eq(-7).all() for values in behind)


def test_the_order_of_threads_does_not_matter(shim: KernelShim, kernels: MaskRunsKernels) -> None:
    fit = fit_size(480, 854, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    # Ones in more columns than there are threads.
    logits[0] = torch.randn(logits[0].shape, generator=torch.Generator().manual_seed(0))
    boxes[0] = torch.tensor([0.0, 0, 854, 480])
    crops = []
    for shim.lanes_backward in (False, True):
        runs = kernels.device_runs(logits, boxes, fit=fit, capacity=1 << 15)
        assert runs is not None
        crops.append(crops_of_runs(runs))
    shim.lanes_backward = False
    assert crops[0] == crops[1] == on_host(logits, boxes, fit)


def test_no_mask_and_strided_tensors(shim: KernelShim, kernels: MaskRunsKernels) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    strided = logits.transpose(1, 2).contiguous().transpose(1, 2)
    runs = kernels.device_runs(strided, boxes.T.contiguous().T, fit=fit)
    assert runs is not None
    assert crops_of_runs(runs) == on_host(logits, boxes, fit)
    before = shim.num_runs
    none = kernels.device_runs(logits[:0], boxes[:0], fit=fit)
    assert none is not None
    assert crops_of_runs(none) == []
    assert shim.num_runs == before  # a launch of no block is an error to CUDA


@pytest.mark.parametrize(
    ("logits", "boxes", "options", "message"),
    [
        ((48, 80), (1, 4), {}, r"must be \(N, 48, 80\) for a model input of 192×320 at stride 4"),
        ((2, 48, 80), (3, 4), {}, r"boxes_xyxy \(N, 4\), got \(2, 48, 80\) and \(3, 4\)"),
        ((2, 45, 80), (2, 4), {}, r"got \(2, 45, 80\) and \(2, 4\)"),
        ((2, 48, 80), (2, 4), {"capacity": 0}, "capacity must be at least 1, got 0"),
    ],
)
def test_contradicting_shapes_are_named(
    kernels: MaskRunsKernels,
    logits: tuple[int, ...],
    boxes: tuple[int, ...],
    options: dict[str, int],
    message: str,
) -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    with pytest.raises(ValueError, match=message):
        kernels.device_runs(torch.zeros(logits), torch.zeros(boxes), fit=fit, **options)


def test_tensors_on_the_cpu_go_to_crop_masks() -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    assert mask_runs_cuda(logits, boxes, fit=fit) is None
    assert crop_masks_on(torch.device("cpu")) is crop_masks
    crop = CropMasksOnDevice(torch.device("cpu"))
    assert crop(logits.numpy(), boxes.numpy(), fit=fit) == on_host(logits, boxes, fit)
    assert crop(logits[:0].numpy(), boxes[:0].numpy(), fit=fit) == []
    with pytest.raises(ValueError, match=r"boxes_xyxy \(N, 4\)"):
        crop(logits[:2].numpy(), boxes.numpy(), fit=fit)


class PredictorOnDevice(FixedPredictor):
    """Makes its masks on its device, and says so."""

    capabilities = Capabilities(crop_masks=CropMasksOnDevice(torch.device("cpu")))

    def begin(self, windows: Sequence[Window]) -> Finish:
        return lambda: [self.predict(window) for window in windows]


def test_a_stream_takes_its_masks_from_the_predictor_s_device(
    kernels: MaskRunsKernels, shim: KernelShim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.device_masks.mask_runs_cuda", kernels.device_runs)
    config = load_config(None, values={"source": {"inputs": {"demo": "demo"}}, "max_frames": 12})
    before = shim.num_runs
    on_host = list(Stream(config, predictor=FixedPredictor(num_frames=3)))
    assert shim.num_runs == before
    on_device = list(Stream(config, predictor=PredictorOnDevice(num_frames=3)))
    assert shim.num_runs > before
    assert sum(len(result.instances) for result in on_host) > 20
    for ours, theirs in zip(on_device, on_host, strict=True):
        assert ours.instances == theirs.instances


class SumsOnDevice(FixedPredictor):
    """Leaves its masks on its device, where their sums are made, and says so."""

    capabilities = Capabilities(
        mask_sums=partial(DeviceSums, crop=CropMasksOnDevice(torch.device("cpu"))), overlaps=True
    )

    def begin(self, windows: Sequence[Window]) -> Finish:
        predictions = [self.predict(window) for window in windows]
        tensors = [torch.tensor(each.mask_logits) for each in predictions]
        return lambda: [
            replace(each, on_device=tensor) for each, tensor in zip(predictions, tensors, strict=True)
        ]


@pytest.mark.parametrize("emission", ["first", "both"])
def test_masks_that_stay_on_the_device_are_those_of_the_host(
    kernels: MaskRunsKernels, shim: KernelShim, monkeypatch: pytest.MonkeyPatch, emission: str
) -> None:
    monkeypatch.setattr("ops.device_masks.mask_runs_cuda", kernels.device_runs)
    monkeypatch.setattr("ops.device_masks._FIRST_ROWS", 1)  # so that there is something to grow
    values = {"source": {"inputs": {"demo": "demo"}}, "max_frames": 12, "emission": emission}
    config = load_config(None, values=values)
    on_host = list(Stream(config, predictor=FixedPredictor(num_frames=3)))
    before = shim.num_runs
    on_device = list(Stream(config, predictor=SumsOnDevice(num_frames=3)))
    assert shim.num_runs > before
    assert sum(len(result.instances) for result in on_host) > 20
    for ours, theirs in zip(on_device, on_host, strict=True):
        assert ours.instances == theirs.instances


def test_the_network_s_masks_can_stay_on_its_device() -> None:
    config = small_config()
    network = live_model(config)
    sums = partial(DeviceSums, crop=CropMasksOnDevice(torch.device("cpu")))
    values = {"source": {"inputs": {"demo": "demo"}}, "max_frames": 8, "window": {"stride": 1}}
    loaded = load_config(None, values=values)
    found = []
    for mask_sums in (None, sums):
        predictor = NetworkPredictor(network, config, name="small", mask_sums=mask_sums)
        found.append(list(Stream(loaded, predictor=predictor)))
    assert any(result.instances for result in found[0])
    for ours, theirs in zip(*found, strict=True):
        assert ours.instances == theirs.instances


def test_sums_hold_what_was_added_and_not_cleared() -> None:
    sums = DeviceSums(20, 3, (2, 2), crop=CropMasksOnDevice(torch.device("cpu")))
    logits = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 2, 2) - 9
    sums.add(np.array([12, 3]), np.array([2, 0]), logits, np.array([0, 1]), 1)
    sums.add(np.array([12]), np.array([2, 0]), logits, np.array([0]), 1)
    sums.clear(slice(0, 20), [0])
    fit = fit_size(8, 8, height=8, width=8)
    empty, left = sums.crops([12, 3], 2, fit=fit, stride=4)
    expected = crop_masks(2 * logits[:1, 1].numpy(), np.array([[0.0, 0, 8, 8]]), fit=fit, grow=0.0)
    assert (empty, left) == (expected[0], CropRLE(0, 0, 8, 8, left.counts))
    assert all(crop.is_empty for crop in sums.crops([12, 3], 0, fit=fit, stride=4))


def test_without_the_kernel_nothing_goes_to_the_device_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    asked: list[int] = []
    monkeypatch.setattr("ops.device_masks.mask_runs_cuda", lambda *_, **__: asked.append(1))
    crop = CropMasksOnDevice(torch.device("cpu"))
    for _ in range(3):
        assert crop(logits.numpy(), boxes.numpy(), fit=fit) == on_host(logits, boxes, fit)
    assert len(asked) == 1


def test_masks_that_overflow_are_done_on_the_host(
    kernels: MaskRunsKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    counts = kernels.device_runs(logits, boxes, fit=fit)
    assert counts is not None
    capacity = int(counts.num_runs.median())
    assert (counts.num_runs > capacity).any()
    assert (counts.num_runs <= capacity).any()
    # What a GPU would do with less room: only the question whether there is one is answered for it.
    monkeypatch.setattr("ops.device_masks.mask_runs_cuda", partial(kernels.device_runs, capacity=capacity))
    crop = CropMasksOnDevice(torch.device("cpu"))
    assert crop(logits.numpy(), boxes.numpy(), fit=fit) == on_host(logits, boxes, fit)


@pytest.mark.parametrize(
    ("index", "change"), [(2, -1), (5, 0.01), (6, -0.01), (7, 0.05), (9, 3.0)]
)  # columns of the map, ratios, what boxes grow by, a cell
def test_a_kernel_that_computes_wrongly_is_switched_off_and_said_once(
    shim: KernelShim, caplog: pytest.LogCaptureFixture, index: int, change: float
) -> None:
    def compile_wrongly(launch: Launch[Any], device: torch.device) -> Run:
        run = shim(launch, device)

        def run_wrongly(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            changed = list(scalars)
            changed[index] = type(scalars[index])(scalars[index] + change)
            run(blocks, addresses, tuple(changed))

        return run_wrongly

    kernels = MaskRunsKernels(compile_wrongly)
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    with caplog.at_level(logging.WARNING, logger="ops.kernel"):
        for _ in range(2):
            assert kernels.device_runs(logits, boxes, fit=fit) is None
    (record,) = caplog.records
    assert "kernel mask_runs<float, double> switched off" in record.getMessage()
    assert "differs from the portable form" in record.getMessage()


def test_a_launch_that_fails_switches_the_kernel_off(
    shim: KernelShim, caplog: pytest.LogCaptureFixture
) -> None:
    runs_left = 1  # the check's own

    def fragile(launch: Launch[Any], device: torch.device) -> Run:
        run = shim(launch, device)

        def run_or_fail(blocks: int, addresses: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            nonlocal runs_left
            if not runs_left:
                raise OSError("the driver is gone")
            runs_left -= 1
            run(blocks, addresses, scalars)

        return run_or_fail

    kernels = MaskRunsKernels(fragile)
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    with caplog.at_level(logging.WARNING, logger="ops.kernel"):
        assert [kernels.device_runs(logits, boxes, fit=fit) for _ in range(2)] == [None, None]
    (record,) = caplog.records
    assert "the driver is gone" in record.getMessage()


def test_what_has_no_kernel_is_said_and_left_to_the_portable_form(
    kernels: MaskRunsKernels, caplog: pytest.LogCaptureFixture
) -> None:
    fit = fit_size(97, 211, height=96, width=160)
    logits, boxes = blobs(fit, stride=4)
    with caplog.at_level(logging.INFO, logger="ops.kernel"):
        assert kernels.device_runs(logits.double(), boxes, fit=fit) is None
        assert kernels.device_runs(logits, boxes.half(), fit=fit) is None
    assert [record.getMessage() for record in caplog.records] == [
        "mask encoding runs in its portable form: no kernel for torch.float64: "
        "float32, float16 and bfloat16 have one",
        "mask encoding runs in its portable form: no kernel for boxes of torch.float16: "
        "float32 and float64 have one",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_builds_cubins_without_spills(architecture: str, tmp_path: Path) -> None:
    check_cubin([plan_mask_runs("mask_runs", MaskRunsConfig(F16, F32))], architecture, tmp_path)
