"""Check and time kernels and network on this machine's GPU; write docs/performance/gpu-<device>.md and .json.

    python tests/benchmarks/gpu_report.py [--output FOLDER] [--device N] [--original FILE] [--dcnv4]

Needs torch with CUDA, numpy and CuPy, and for the kernels beside attention OpenCV and pycocotools (the page says
if those were left out); takes up to ten minutes, most of it compilers'. Exit code 0: all checks passed; 1: a check
failed (the page says which); 2: nothing could be run, and why. `--original`: gpu_original.py, `--dcnv4`: gpu_dcnv4.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from benchmarks import gpu_dcnv4, gpu_network, gpu_original
from benchmarks.gpu_timing import capture, graph_time_us, time_us
from torch import Tensor

from ops import deform_attn
from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.cuda import CupyCompiler, DeformAttnKernels
from ops.cuda import kernels as kernels_of_the_operator
from ops.kernel import Compiler
from ops.launch import DeformAttnConfig
from ops.levels import level_sizes
from ops.reference import deform_attn_reference

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# heads, channels of a head, levels, points
SHAPES = {"default model": (4, 24, 4, 2), "R50": (8, 32, 4, 4), "wide heads": (8, 64, 4, 4)}
REFERENCES = {"points": (2, False), "boxes": (4, False), "a box a level": (4, True)}
PYRAMIDS = ((13, 9), (5, 3), (1, 1), (45, 80))
TOLERANCE = {F32: 1e-4, F16: 4e-3, BF16: 3e-2}  # norm of the error, relative to float64: a few roundings

# An encoder layer: frames, levels from; the first two shapes at the sizes of their configurations.
LAYERS = {
    "R50, T = 5, 360×640": ("R50", 5, (45, 80)),
    "default model, T = 5, 192×320": ("default model", 5, (24, 40)),
}
LIMIT_US = {"R50, T = 5, 360×640": 40.0}  # float16, the target for an H200


def make(
    config: DeformAttnConfig, size0: tuple[int, int], device: torch.device, *, B: int, Q: int
) -> DeformAttnArguments:
    """Random inputs: references reach a little outside 0..1, offsets a few pixels outside the levels."""
    generator = torch.Generator().manual_seed(0)
    M, D, L, K = config.num_heads, config.head_dim, config.num_levels, config.num_points
    S = sum(height * width for height, width in level_sizes(*size0, num_levels=L))
    value = torch.randn(B, S, M, D, generator=generator)
    sampling = torch.randn(B, Q, 3 * M * L * K, generator=generator) * 2
    points = (B, Q, L, config.coordinates) if config.per_level else (B, Q, config.coordinates)
    reference = torch.rand(points, generator=generator) * 1.4 - 0.2
    return DeformAttnArguments(
        value.to(device, config.value),
        sampling.to(device, config.sampling),
        reference.to(device, config.reference),
        *size0,
        L,
        K,
    )


def exact(inputs: DeformAttnArguments, grad: Tensor) -> list[Tensor]:
    """Result and gradients of the textbook form in float64."""
    leaves = [tensor.double().requires_grad_() for tensor in inputs[:3]]
    result = deform_attn_reference(*leaves, *inputs[3:])
    return [result.detach(), *torch.autograd.grad(result, leaves, grad.double())]


def worst(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest relative error by norm; NaN counts as infinite."""
    errors = [
        float((ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-3))
        for ours, theirs in zip(got, wanted, strict=True)
    ]
    return max(error if error == error else float("inf") for error in errors)


def configs() -> Iterator[tuple[str, DeformAttnConfig]]:
    for shape_name, shape in SHAPES.items():
        for reference_name, (coordinates, per_level) in REFERENCES.items():
            for dtype in (F32, F16, BF16):
                name = f"{shape_name}, {reference_name}, {str(dtype).removeprefix('torch.')}"
                yield name, DeformAttnConfig(dtype, dtype, F32, *shape, coordinates, per_level)


def check(
    kernels: DeformAttnKernels,
    name: str,
    config: DeformAttnConfig,
    device: torch.device,
    pyramids: tuple[tuple[int, int], ...] = PYRAMIDS,
) -> dict[str, Any]:
    """Forward and backward kernel against float64 on several pyramids."""
    errors = []
    for size0 in pyramids:
        inputs = make(config, size0, device, B=2, Q=37)
        grad = torch.randn(2, 37, config.num_heads * config.head_dim).to(device, config.value)
        result, grads = kernels.forward(inputs), kernels.backward(grad, inputs)
        if result is None or grads is None:
            return {"name": name, "passed": False, "why": "; ".join(kernels.switched_off.values())}
        errors.append(worst([result, *grads], exact(inputs, grad)))
    limit = TOLERANCE[config.value]
    return {"name": name, "passed": max(errors) <= limit, "error": max(errors), "limit": limit}


def check_operator(device: torch.device) -> dict[str, Any]:
    """`ops.deform_attn` with autograd, as training calls it; it must have taken the kernels."""
    name = "the operator with autograd"
    config = DeformAttnConfig(BF16, BF16, F32, *SHAPES["default model"], 4, False)
    inputs = make(config, (24, 40), device, B=2, Q=300)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs[:3]]
    result = deform_attn(*leaves, *inputs[3:])
    grad = torch.randn_like(result)
    got = [result.detach(), *torch.autograd.grad(result, leaves, grad)]
    usable = kernels_of_the_operator()
    if usable is None or usable.switched_off:
        why = "; ".join(usable.switched_off.values()) if usable is not None else "CuPy is not usable"
        return {"name": name, "passed": False, "why": why}
    error = worst(got, exact(inputs, grad))
    return {"name": name, "passed": error <= TOLERANCE[BF16], "error": error, "limit": TOLERANCE[BF16]}


def check_portable(device: torch.device) -> dict[str, Any]:
    """The form that runs where a kernel does not."""
    name = "the portable form"
    inputs = make(DeformAttnConfig(F32, F32, F32, *SHAPES["R50"], 4, True), (13, 9), device, B=2, Q=37)
    grad = torch.randn(2, 37, 256, device=device)
    try:
        got = [deform_attn_bag(inputs), *deform_attn_backward_bag(grad, inputs)]
    except RuntimeError as exc:
        return {"name": name, "passed": False, "why": str(exc).splitlines()[0]}
    error = worst(got, exact(inputs, grad))
    return {"name": name, "passed": error <= TOLERANCE[F32], "error": error, "limit": TOLERANCE[F32]}


def check_stream(kernels: DeformAttnKernels, device: torch.device) -> dict[str, Any]:
    """On a stream of its own, after work that is still running: another stream would read zeros."""
    config = DeformAttnConfig(F32, F32, F32, *SHAPES["R50"], 2, False)
    inputs = make(config, (45, 80), device, B=2, Q=300)
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    late = torch.zeros_like(inputs[0])
    kernels.forward(inputs)
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(inputs[0])
        result = kernels.forward(DeformAttnArguments(late, *inputs[1:]))
    stream.synchronize()
    if result is None:
        return {"name": "a stream of its own", "passed": False, "why": "kernel switched off"}
    error = worst([result], [wanted])
    return {
        "name": "a stream of its own",
        "passed": error <= TOLERANCE[F32],
        "error": error,
        "limit": TOLERANCE[F32],
    }


def check_graph(kernels: DeformAttnKernels, device: torch.device) -> dict[str, Any]:
    """Captured once, replayed with other inputs."""
    config = DeformAttnConfig(F16, F16, F32, *SHAPES["R50"], 2, False)
    inputs = make(config, (45, 80), device, B=2, Q=300)
    graph, result = capture(lambda: kernels.forward(inputs), device)
    for tensor in inputs[:2]:
        tensor.copy_(tensor.flip(1))
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    graph.replay()
    torch.cuda.synchronize(device)
    if result is None:
        return {"name": "graph replay, changed inputs", "passed": False, "why": "kernel switched off"}
    error = worst([result], [wanted])
    return {
        "name": "graph replay, changed inputs",
        "passed": error <= TOLERANCE[F16],
        "error": error,
        "limit": TOLERANCE[F16],
    }


def check_original(
    path: Path, compiler: Compiler, device: torch.device
) -> tuple[gpu_original.Original | None, dict[str, Any]]:
    """The original kernel, if it can be had, and whether it agrees: its time would mean nothing else."""
    name = "the original kernel"
    config = DeformAttnConfig(F32, F32, F32, *SHAPES["R50"], 2, False)
    try:
        original = gpu_original.Original(path, compiler, device, config)
    except Exception as exc:  # the file, or what a compiler says of it
        return None, {"name": name, "passed": False, "why": f"{path}: {str(exc).splitlines()[0]}"}
    inputs = make(config, (13, 9), device, B=2, Q=37)
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    error = worst([original(*gpu_original.arguments(inputs))], [wanted])
    row = {"name": name, "passed": error <= TOLERANCE[F32], "error": error, "limit": TOLERANCE[F32]}
    return original, row


def check_dcnv4(device: torch.device) -> tuple[gpu_dcnv4.Peer | None, dict[str, Any]]:
    """DCNv4's function, if it is installed, and whether it agrees."""
    name = "DCNv4's function"
    config = DeformAttnConfig(F16, F16, F32, *SHAPES["R50"], 2, False)
    try:
        peer = gpu_dcnv4.load()
        inputs = make(config, (13, 9), device, B=2, Q=40)
        got = peer(*gpu_dcnv4.arguments(inputs))
    except Exception as exc:  # an extension for another torch or GPU raises whatever it likes
        return None, {"name": name, "passed": False, "why": f"{type(exc).__name__}: {exc}".splitlines()[0]}
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    error, limit = worst([got], [wanted]), 10 * TOLERANCE[F16]  # its locations are float16, too
    return peer, {"name": name, "passed": error <= limit, "error": error, "limit": limit}


def time_layer(
    kernels: DeformAttnKernels,
    layer: str,
    dtype: torch.dtype,
    device: torch.device,
    original: gpu_original.Original | None = None,
    dcnv4: gpu_dcnv4.Peer | None = None,
) -> dict[str, Any]:
    """Microseconds of an encoder layer's attention: kernels, portable form and grid_sample, in one run; and of
    the peers: the original kernel, always float32, with locations and weights ready made, and DCNv4's function,
    always float16, with locations ready made."""
    shape, frames, size0 = LAYERS[layer]
    config = DeformAttnConfig(dtype, dtype, F32, *SHAPES[shape], 2, False)
    Q = sum(height * width for height, width in level_sizes(*size0, num_levels=config.num_levels))
    inputs = make(config, size0, device, B=frames, Q=Q)
    grad = torch.randn(frames, Q, config.num_heads * config.head_dim, device=device).to(dtype)

    def textbook_with_gradients() -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
        torch.autograd.grad(deform_attn_reference(*leaves, *inputs[3:]), leaves, grad)

    def kernel_with_gradients() -> None:
        kernels.forward(inputs)
        kernels.backward(grad, inputs)

    def portable_with_gradients() -> None:
        deform_attn_bag(inputs)
        deform_attn_backward_bag(grad, inputs)

    with torch.no_grad():
        metrics = {
            "kernel in a graph": graph_time_us(lambda: kernels.forward(inputs), device),
            "kernel": time_us(lambda: kernels.forward(inputs), device, calls=50),
            "portable": time_us(lambda: deform_attn_bag(inputs), device, calls=5),
            "grid_sample": time_us(lambda: deform_attn_reference(*inputs), device, calls=5),
            "kernel, with gradients": time_us(kernel_with_gradients, device, calls=10),
            "portable, with gradients": time_us(portable_with_gradients, device, calls=2),
        }
        if original is not None:
            given = gpu_original.arguments(inputs)
            metrics["original in a graph"] = graph_time_us(lambda: original(*given), device)
        if dcnv4 is not None:
            packed = gpu_dcnv4.arguments(inputs)
            metrics["DCNv4 in a graph"] = graph_time_us(lambda: dcnv4(*packed), device)
    metrics["grid_sample, with gradients"] = time_us(textbook_with_gradients, device, calls=2)
    used = all(off != config for _, _, off in kernels.switched_off)
    return {
        "layer": layer,
        "dtype": str(dtype).removeprefix("torch."),
        "queries": frames * Q,
        "kernels_used": used,
        "us": metrics,
    }


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    failed = [row for row in report["checks"] if not row["passed"]]
    lines = [
        f"# Speed on {report['device']}",
        "",
        "Written by `make gpu-report` (`tests/benchmarks/gpu_report.py`). Ratios are within one run.",
        "",
        f"Machine: {report['machine']}",
        "",
        f"Checks against float64 (runs of masks: for equality): {len(report['checks']) - len(failed)} of "
        f"{len(report['checks'])} passed.",
        "",
        *([f"NOT CHECKED: {report['left_out']}", ""] if report["left_out"] else []),
        *(f"- FAILED {row['name']}: {row.get('why') or format(row['error'], '.1e')}" for row in failed),
        *([""] if failed else []),
        "## Deformable attention, one encoder layer, microseconds",
        "",
    ]
    for row in report["timings"]:
        us = row["us"]
        limit = LIMIT_US.get(row["layer"]) if row["dtype"] == "float16" else None
        target = f"; target on an H200: {limit:.0f} in a graph" if limit else ""
        unused = "" if row["kernels_used"] else "; a kernel was switched off: the kernel's metrics are void"
        lines += [
            f"### {row['layer']}, {row['dtype']}, {row['queries']} queries{target}{unused}",
            "",
            "| form | forward | against grid_sample | forward and backward | against grid_sample |",
            "| --- | --- | --- | --- | --- |",
            f"| kernel, in a CUDA graph | {us['kernel in a graph']:.1f} "
            f"| {us['grid_sample'] / us['kernel in a graph']:.1f}× faster | | |",
        ]
        if "original in a graph" in us:
            ratio = us["original in a graph"] / us["kernel in a graph"]
            lines.append(
                f"| original kernel, float32, locations and weights given, in a CUDA graph "
                f"| {us['original in a graph']:.1f} (ours: {ratio:.1f}× faster; target ≥ 3) "
                f"| {us['grid_sample'] / us['original in a graph']:.1f}× faster | | |"
            )
        if "DCNv4 in a graph" in us:
            ratio = us["DCNv4 in a graph"] / us["kernel in a graph"]
            lines.append(
                f"| DCNv4's function, float16, locations given, in a CUDA graph "
                f"| {us['DCNv4 in a graph']:.1f} (ours: {ratio:.1f}× faster; target > 1) "
                f"| {us['grid_sample'] / us['DCNv4 in a graph']:.1f}× faster | | |"
            )
        for form in ("kernel", "portable", "grid_sample"):
            both = f"{form}, with gradients"
            lines.append(
                f"| {form} | {us[form]:.1f} | {us['grid_sample'] / us[form]:.1f}× faster "
                f"| {us[both]:.1f} | {us['grid_sample, with gradients'] / us[both]:.1f}× faster |"
            )
        lines.append("")
    if report["network_timings"]:
        lines += ["## The network", "", *gpu_network.page(report["network_timings"])]
    if report["frame_timings"]:
        from benchmarks import gpu_frames

        lines += ["## Around the network", "", *gpu_frames.page(report["frame_timings"])]
    return "\n".join(lines)


def frame_rows(compiler: Compiler, device: torch.device) -> Iterator[tuple[str, Any]]:
    """Rows on the kernels around the network; or the one that says why they are left out."""
    try:
        from benchmarks import gpu_frames
    except ModuleNotFoundError as exc:
        yield "left_out", f"preprocessing and mask encoding, for want of a package ({exc})"
        return
    yield from gpu_frames.report(compiler, device)


def refuse() -> CupyCompiler | str:
    """The compiler of kernels, or why there is nothing to report on."""
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return f"gpu-report needs an NVIDIA GPU: torch {torch.__version__}, {built}, sees none"
    try:
        return CupyCompiler()
    except RuntimeError as exc:
        return f"gpu-report needs CuPy: {exc}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance", metavar="FOLDER")
    parser.add_argument("--device", type=int, default=0, metavar="N")
    parser.add_argument(
        "--original",
        type=Path,
        metavar="FILE",
        help="ms_deform_im2col_cuda.cuh of Deformable DETR, as a peer",
    )
    parser.add_argument("--dcnv4", action="store_true", help="DCNv4's package, which is installed, as a peer")
    arguments = parser.parse_args()
    compiler = refuse()
    if isinstance(compiler, str):
        print(compiler, file=sys.stderr)
        return 2
    kernels = DeformAttnKernels(compiler)

    device = torch.device("cuda", arguments.device)
    torch.cuda.set_device(device)
    properties = torch.cuda.get_device_properties(device)
    report: dict[str, Any] = {
        "device": properties.name,
        "machine": f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.multi_processor_count} "
        f"multiprocessors, {properties.total_memory / 2**30:.0f} GiB; Python {platform.python_version()}, "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}; {date.today().isoformat()}",
        "checks": [],
        "timings": [],
        "frame_timings": [],
        "network_timings": [],
        "left_out": "",
    }
    for name, config in configs():
        report["checks"].append(check(kernels, name, config, device))
        print(report["checks"][-1], flush=True)
    for special in (check_stream, check_graph):
        report["checks"].append(special(kernels, device))
        print(report["checks"][-1], flush=True)
    for plain in (check_operator, check_portable):
        report["checks"].append(plain(device))
        print(report["checks"][-1], flush=True)
    for part, row in frame_rows(compiler, device):
        if part == "left_out":
            report[part] = row
        else:
            report[part].append(row)
        print(row, flush=True)
    original = None
    if arguments.original is not None:
        original, row = check_original(arguments.original, compiler, device)
        report["checks"].append(row)
        print(row, flush=True)
    dcnv4 = None
    if arguments.dcnv4:
        dcnv4, row = check_dcnv4(device)
        report["checks"].append(row)
        print(row, flush=True)
    for layer in LAYERS:
        for dtype in (F16, BF16, F32):
            report["timings"].append(time_layer(kernels, layer, dtype, device, original, dcnv4))
            print(report["timings"][-1], flush=True)
    write(report, arguments.output)  # what is known so far, if the time ends here
    for part, row in gpu_network.report(device):
        report[part].append(row)
        print(row, flush=True)
    target = write(report, arguments.output)
    print(f"wrote {target}")
    return 0 if all(row["passed"] for row in report["checks"]) else 1


def write(report: dict[str, Any], folder: Path) -> Path:
    """The page and its JSON; return the page's path."""
    slug = re.sub(r"[^a-z0-9]+", "-", report["device"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"gpu-{slug}.md"
    target.write_text(page(report), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    sys.exit(main())
