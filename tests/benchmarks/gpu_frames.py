"""The part of the GPU report on what surrounds the network: from YUV to its input, from mask logits to RLE.

Needs OpenCV besides torch, numpy and CuPy, and for masks pycocotools: the portable forms are theirs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from benchmarks.gpu_timing import (
    another_stream,
    capture,
    graph_time_us,
    synchronize,
    time_us,
    wall_time_us,
)
from torch import Tensor

from model.engines.cuda_graph import Upload
from ops.device_masks import DeviceRuns, MaskRunsKernels, crops_of_runs
from ops.device_preprocess import PreprocessKernels
from ops.kernel import Compiler
from ops.masks import crop_masks
from ops.preprocess import Fit, fit_image, fit_size
from ops.yuv import ColourMatrix, yuv_to_input

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
TOLERANCE = {
    F32: 1e-4,
    F16: 2e-3,
    BF16: 1.6e-2,
}  # of a value, 2.7 at most: a rounding of its type, or some of float32
MATRICES: tuple[ColourMatrix, ...] = ("bt601", "bt709", "bt2020")
# Source and model: halves, halves and linear, area, odd, enlarged, a pixel.
SIZES = (
    ((720, 1280), (192, 320)),
    ((1080, 1920), (360, 640)),
    ((481, 853), (192, 320)),
    ((45, 31), (12, 9)),
    ((9, 7), (24, 40)),
    ((1, 1), (3, 5)),
)
MASK_SOURCES = ((1080, 1920), (480, 854), (97, 211), (5, 3), (1, 1))
MASK_DTYPES = tuple(itertools.product((F32, F16, BF16), (F32, F64)))
NUM_MASKS = 20

Same = Callable[[Any, Any], bool]


def picture(size: tuple[int, int], kind: str) -> list[Tensor]:
    """Random levels; lines are a little longer than the picture."""
    generator = torch.Generator().manual_seed(0)
    half = (-(-size[0] // 2), -(-size[1] // 2))
    shapes = [size, (*half, 2)] if kind == "nv12" else [size, half, half]
    return [
        torch.randint(256, (shape[0], shape[1] + 5, *shape[2:]), generator=generator, dtype=torch.uint8)[
            :, : shape[1]
        ]
        for shape in shapes
    ]


def masks(fit: Fit, num: int, *, stride: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of ragged ellipses, and their boxes in source pixels, float64; the first box is the whole source."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = -(-fit.height // stride), -(-fit.width // stride)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    places = torch.rand(num, 4, 1, 1, generator=generator)
    cx, cy = places[:, 0] * fit.content_width / stride, places[:, 1] * fit.content_height / stride
    a, b = (1 + places[:, 2:] * min(rows, columns) / 3).unbind(1)
    ragged = torch.randn(num, rows, columns, generator=generator) * 0.3
    logits = 4 * (1 - torch.hypot((x - cx) / a, (y - cy) / b)) + ragged
    boxes = torch.stack([cx - a, cy - b, cx + a, cy + b], dim=-1).view(num, 4).double() * stride
    boxes /= torch.tensor([fit.scale_x, fit.scale_y] * 2, dtype=F64)
    boxes[0] = torch.tensor([0, 0, fit.source_width, fit.source_height])
    return logits, boxes


def check_preprocess(
    kernels: PreprocessKernels,
    dtype: torch.dtype,
    device: torch.device,
    sizes: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = SIZES,
) -> dict[str, Any]:
    """Every matrix, range and format at several sizes against the readable form in float64."""
    name = f"YUV to input, {str(dtype).removeprefix('torch.')}"
    worst = 0.0
    for source, model in sizes:
        for kind, matrix, full_range in itertools.product(("yuv420p", "nv12"), MATRICES, (False, True)):
            planes = [plane.to(device) for plane in picture(source, kind)]
            convert: dict[str, Any] = {"matrix": matrix, "full_range": full_range}
            convert |= {"height": model[0], "width": model[1]}
            found = kernels.preprocess(planes, **convert, dtype=dtype)
            if found is None:
                return {"name": name, "passed": False, "why": "; ".join(kernels.switched_off.values())}
            exact, _ = yuv_to_input(planes, **convert, dtype=F64)
            error = float((found[0].double() - exact).abs().max())
            worst = max(worst, math.inf if math.isnan(error) else error)
    return {"name": name, "passed": worst <= TOLERANCE[dtype], "error": worst, "limit": TOLERANCE[dtype]}


def uploader(device: torch.device) -> Callable[..., tuple[Tensor, ...]]:
    """What brings planes from the decoder's memory to the device in a stream; on a CPU nothing need be done."""
    return Upload(device) if device.type == "cuda" else lambda *tensors: tensors


def check_uploaded(
    kernels: PreprocessKernels, device: torch.device, size: tuple[int, int] = (720, 1280)
) -> dict[str, Any]:
    """Pictures uploaded one after the other without waiting, lines longer than the picture, as those that lie
    on the device."""
    name = "YUV to input, planes uploaded as in a stream"
    convert: dict[str, Any] = {"matrix": "bt709", "full_range": False, "height": 192, "width": 320}
    convert["dtype"] = F16
    upload = uploader(device)
    pictures = [
        [plane.flip(0) for plane in picture(size, "nv12")] if odd else picture(size, "nv12")
        for odd in (0, 1) * 4
    ]
    got = [kernels.preprocess(upload(*planes), **convert) for planes in pictures]
    wanted = [kernels.preprocess([plane.to(device) for plane in planes], **convert) for planes in pictures]
    if None in got or None in wanted:
        return {"name": name, "passed": False, "why": "; ".join(kernels.switched_off.values())}
    wrong = sum(
        not torch.equal(one[0], other[0]) for one, other in zip(got, wanted, strict=True) if one and other
    )
    return {"name": name, "passed": wrong == 0, "error": wrong / len(pictures), "limit": 0.0}


def check_masks(
    kernels: MaskRunsKernels,
    dtypes: tuple[torch.dtype, torch.dtype],
    device: torch.device,
    sources: tuple[tuple[int, int], ...] = MASK_SOURCES,
) -> dict[str, Any]:
    """Runs equal to `crop_masks`', and those beyond a small capacity told. The error is the share that is not."""
    name = "masks to runs, " + ", boxes ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    wrong, num = 0, 0
    for source, stride in itertools.product(sources, (4, 8)):
        fit = fit_size(*source, height=192, width=320)
        logits, boxes = masks(fit, NUM_MASKS, stride=stride)
        logits, boxes = logits.to(dtypes[0]), boxes.to(dtypes[1])
        expected = crop_masks(logits.float().numpy(), boxes.numpy(), fit=fit, stride=stride)
        for capacity in (1 << 14, 64):
            runs = kernels.device_runs(
                logits.to(device), boxes.to(device), fit=fit, stride=stride, capacity=capacity
            )
            if runs is None:
                return {"name": name, "passed": False, "why": "; ".join(kernels.switched_off.values())}
            told = (runs.num_runs > capacity).tolist()
            for ours, theirs, beyond in zip(crops_of_runs(runs), expected, told, strict=True):
                wrong += ours != (None if beyond else theirs)
                num += 1
    return {"name": name, "passed": wrong == 0, "error": wrong / num, "limit": 0.0}


def check_stream_and_graph(
    name: str,
    call: Callable[[list[Tensor]], Any],
    inputs: list[Tensor],
    same: Same,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """On a stream of its own, after work that is still running; in a graph, replayed with changed inputs."""
    changed = [tensor.flip(0) for tensor in inputs]
    wanted, wanted_of_changed = call(inputs), call(changed)
    if wanted is None or wanted_of_changed is None or same(wanted, wanted_of_changed):
        yield {"name": f"{name}, stream and graph", "passed": False, "why": "there is nothing to compare"}
        return
    late = [torch.zeros_like(tensor) for tensor in inputs]
    with another_stream(device, busy=True):
        for tensor, given in zip(late, inputs, strict=True):
            tensor.copy_(given)
        result = call(late)
    differs = "the result is another than on the default stream"
    passed = result is not None and same(result, wanted)
    yield {"name": f"{name}, a stream of its own", "passed": passed, "why": "" if passed else differs}

    graph, result = capture(lambda: call(late), device)
    for tensor, given in zip(late, changed, strict=True):
        tensor.copy_(given)
    graph.replay()
    synchronize(device)
    passed = result is not None and same(result, wanted_of_changed)
    yield {"name": f"{name}, graph replay", "passed": passed, "why": "" if passed else differs}


def preprocess_forms(
    kernels: PreprocessKernels, source: tuple[int, int], model: tuple[int, int], device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Ways from a picture's planes to a float16 input on the device."""
    planes = [plane.clamp(16, 235) for plane in picture(source, "yuv420p")]  # below, OpenCV clamps otherwise
    on_device, upload = [plane.to(device) for plane in planes], uploader(device)
    together = np.concatenate([plane.numpy().ravel() for plane in planes]).reshape(-1, source[1])
    convert: dict[str, Any] = {"matrix": "bt601", "full_range": False, "dtype": F16}
    convert |= {"height": model[0], "width": model[1]}

    def kernel() -> Tensor:
        found = kernels.preprocess(on_device, **convert)
        if found is None:
            raise RuntimeError("kernel switched off")
        return found[0]

    def uploaded() -> Tensor:
        found = kernels.preprocess(upload(*planes), **convert)
        if found is None:
            raise RuntimeError("kernel switched off")
        return found[0]

    def over_rgb() -> Tensor:
        rgb = np.asarray(cv2.cvtColor(together, cv2.COLOR_YUV2RGB_I420), dtype=np.uint8)
        return fit_image(rgb, height=model[0], width=model[1])[0].half().to(device)

    return {
        "kernel": kernel,
        "planes uploaded, kernel": uploaded,
        "readable form, on the GPU": lambda: yuv_to_input(on_device, **convert)[0],
        "RGB and resize on the host, copied": over_rgb,
    }


def mask_forms(
    kernels: MaskRunsKernels, source: tuple[int, int], model: tuple[int, int], device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Ways from logits on the device to CropRLEs on the host; "kernel" ends with the runs on the device."""
    fit = fit_size(*source, height=model[0], width=model[1])
    logits, boxes = masks(fit, NUM_MASKS)
    logits, boxes = logits.half().to(device), boxes.float().to(device)

    def kernel() -> DeviceRuns:
        runs = kernels.device_runs(logits, boxes, fit=fit)
        if runs is None:
            raise RuntimeError("kernel switched off")
        return runs

    return {
        "kernel": kernel,
        "kernel, copied and encoded": lambda: crops_of_runs(kernel()),
        "logits copied, crop_masks on the host": lambda: crop_masks(
            logits.float().cpu().numpy(), boxes.cpu().numpy(), fit=fit
        ),
    }


def time_forms(name: str, forms: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, Any]:
    """Microseconds of each form; the last one is the portable path that the others are compared with."""
    us = {}
    try:
        us["kernel, in a graph"] = graph_time_us(forms["kernel"], device)
        us["kernel, one after the other"] = time_us(forms["kernel"], device, calls=50)
    except RuntimeError as exc:
        us["kernel, in a graph"] = us["kernel, one after the other"] = math.nan
        print(f"not timed: {exc}")
    for form, step in forms.items():
        try:
            us[f"{form}, wall clock"] = wall_time_us(step, device)
        except RuntimeError as exc:
            us[f"{form}, wall clock"] = math.nan
            print(f"not timed: {exc}")
    return {"name": name, "us": us}


Size = tuple[int, int]


def preprocess_checks(
    compiler: Compiler,
    device: torch.device,
    *,
    dtypes: Sequence[torch.dtype] = (F32, F16, BF16),
    sizes: Sequence[tuple[Size, Size]] = SIZES,
    size: Size = (720, 1280),
) -> Iterator[dict[str, Any]]:
    """Rows: is the picture's kernel right, alone, with uploads, on a stream of its own and in a graph."""
    kernels = PreprocessKernels(compiler)
    for dtype in dtypes:
        yield check_preprocess(kernels, dtype, device, tuple(sizes))
    yield check_uploaded(kernels, device, size)

    def to_input(planes: list[Tensor]) -> Tensor | None:
        found = kernels.preprocess(
            planes, matrix="bt709", full_range=False, height=192, width=320, dtype=dtypes[0]
        )
        return None if found is None else found[0]

    planes = [plane.to(device) for plane in picture(size, "nv12")]
    yield from check_stream_and_graph("YUV to input", to_input, planes, torch.equal, device)


def mask_checks(
    compiler: Compiler,
    device: torch.device,
    *,
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]] = MASK_DTYPES,
    sources: Sequence[Size] = MASK_SOURCES,
    size: Size = (720, 1280),
) -> Iterator[dict[str, Any]]:
    """Rows: is the masks' kernel right, alone, on a stream of its own and in a graph."""
    kernels = MaskRunsKernels(compiler)
    for pair in dtypes:
        yield check_masks(kernels, pair, device, tuple(sources))
    fit = fit_size(*size, height=192, width=320)
    logits, boxes = masks(fit, NUM_MASKS)
    tensors = [logits.to(device, dtypes[0][0]), boxes.to(device, dtypes[0][1])]
    yield from check_stream_and_graph(
        "masks to runs",
        lambda given: kernels.device_runs(given[0], given[1], fit=fit),
        tensors,
        lambda one, other: crops_of_runs(one) == crops_of_runs(other),
        device,
    )


def time_preprocess(compiler: Compiler, device: torch.device, source: Size, model: Size) -> dict[str, Any]:
    """The ways of a picture into the model."""
    sizes = f"{source[1]}×{source[0]} to {model[1]}×{model[0]}"
    forms = preprocess_forms(PreprocessKernels(compiler), source, model, device)
    return time_forms(f"YUV to input, {sizes}, float16", forms, device)


def time_masks(compiler: Compiler, device: torch.device, source: Size, model: Size) -> dict[str, Any]:
    """The ways of a window's masks to the wire."""
    forms = mask_forms(MaskRunsKernels(compiler), source, model, device)
    back = f"{NUM_MASKS} masks of {model[1]}×{model[0]} to {source[1]}×{source[0]}"
    return time_forms(f"{back}, float16", forms, device)


def page(rows: list[dict[str, Any]]) -> list[str]:
    """The timings as lines of Markdown."""
    lines = []
    for row in rows:
        portable = list(row["us"])[-1]
        lines += [
            f"### {row['name']}",
            "",
            f"| form | microseconds | against {portable.removesuffix(', wall clock')} |",
            "| --- | --- | --- |",
        ]
        for form, us in row["us"].items():
            lines.append(f"| {form} | {us:.1f} | {row['us'][portable] / us:.1f}× faster |")
        lines.append("")
    return lines
