"""The part of the GPU report on deformable attention: is every kernel right, and how long does a layer take.

References of an encoder layer are the centres of its pixels, as in a stream; random ones hit the caches less and
are timed as a second row. Peers are the original kernel (`gpu_original`) and DCNv4's function (`gpu_dcnv4`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from benchmarks import gpu_dcnv4, gpu_original
from benchmarks.gpu_timing import another_stream, capture, graph_time_us, synchronize, time_us
from torch import Tensor

from model.layers.position import pixel_centres
from ops import deform_attn
from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.cuda import DeformAttnKernels
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
LIMIT_US = {("R50, T = 5, 360×640", "float16"): 40.0}
"""The target for an H200: the kernel in a graph, grid references."""
PREDICTED_US = {("R50, T = 5, 360×640", "float16"): 42.0, ("R50, T = 5, 360×640", "bfloat16"): 50.0}
"""Computed for an H200 from the instructions that a query takes, at grid references: a floor."""
References = Literal["grid", "random"]


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


def check_stream(
    kernels: DeformAttnKernels, device: torch.device, shape: str = "R50", size0: tuple[int, int] = (45, 80)
) -> dict[str, Any]:
    """On a stream of its own, after work that is still running: another stream would read zeros."""
    config = DeformAttnConfig(F32, F32, F32, *SHAPES[shape], 2, False)
    inputs = make(config, size0, device, B=2, Q=300)
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    late = torch.zeros_like(inputs[0])
    kernels.forward(inputs)
    with another_stream(device, busy=True):
        late.copy_(inputs[0])
        result = kernels.forward(DeformAttnArguments(late, *inputs[1:]))
    if result is None:
        return {"name": "a stream of its own", "passed": False, "why": "kernel switched off"}
    error = worst([result], [wanted])
    return {
        "name": "a stream of its own",
        "passed": error <= TOLERANCE[F32],
        "error": error,
        "limit": TOLERANCE[F32],
    }


def check_graph(
    kernels: DeformAttnKernels, device: torch.device, shape: str = "R50", size0: tuple[int, int] = (45, 80)
) -> dict[str, Any]:
    """Captured once, replayed with other inputs."""
    config = DeformAttnConfig(F32, F32, F32, *SHAPES[shape], 2, False)
    inputs = make(config, size0, device, B=2, Q=300)
    graph, result = capture(lambda: kernels.forward(inputs), device)
    for tensor in inputs[:2]:
        tensor.copy_(tensor.flip(1))
    wanted = deform_attn_reference(*(t.double() for t in inputs[:3]), *inputs[3:])
    graph.replay()
    synchronize(device)
    if result is None:
        return {"name": "graph replay, changed inputs", "passed": False, "why": "kernel switched off"}
    error = worst([result], [wanted])
    return {
        "name": "graph replay, changed inputs",
        "passed": error <= TOLERANCE[F32],
        "error": error,
        "limit": TOLERANCE[F32],
    }


def check_original(
    path: Path, compiler: Compiler, device: torch.device
) -> tuple[gpu_original.Original | None, dict[str, Any]]:
    """The original kernel, if it is available, and whether it agrees: its time would mean nothing else."""
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
    *,
    references: References = "grid",
) -> dict[str, Any]:
    """Microseconds of an encoder layer's attention: kernels, portable form and grid_sample, in one run.

    The peers: the original kernel, always float32, with locations and weights ready made; DCNv4's function,
    always float16, with locations ready made.
    """
    shape, frames, size0 = LAYERS[layer]
    config = DeformAttnConfig(dtype, dtype, F32, *SHAPES[shape], 2, False)
    Q = sum(height * width for height, width in level_sizes(*size0, num_levels=config.num_levels))
    inputs = make(config, size0, device, B=frames, Q=Q)
    if references == "grid":
        sizes = tuple(level_sizes(*size0, num_levels=config.num_levels))
        centres = pixel_centres(sizes, device, F32).to(device).expand(frames, -1, -1).contiguous()
        inputs = inputs._replace(reference=centres)
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
        us = {
            "kernel in a graph": graph_time_us(lambda: kernels.forward(inputs), device),
            "kernel": time_us(lambda: kernels.forward(inputs), device, calls=50),
            "portable": time_us(lambda: deform_attn_bag(inputs), device, calls=5),
            "grid_sample": time_us(lambda: deform_attn_reference(*inputs), device, calls=5),
            "kernel, with gradients": time_us(kernel_with_gradients, device, calls=10),
            "portable, with gradients": time_us(portable_with_gradients, device, calls=2),
        }
        if original is not None:
            given = gpu_original.arguments(inputs)
            us["original in a graph"] = graph_time_us(lambda: original(*given), device)
        if dcnv4 is not None:
            packed = gpu_dcnv4.arguments(inputs)
            us["DCNv4 in a graph"] = graph_time_us(lambda: dcnv4(*packed), device)
    us["grid_sample, with gradients"] = time_us(textbook_with_gradients, device, calls=2)
    used = all(off != config for _, _, off in kernels.switched_off)
    return {
        "layer": layer,
        "dtype": str(dtype).removeprefix("torch."),
        "references": references,
        "queries": frames * Q,
        "kernels_used": used,
        "us": us,
    }


def page(rows: list[dict[str, Any]]) -> list[str]:
    """The timings as lines of Markdown."""
    lines = []
    for row in rows:
        us, key = row["us"], (row["layer"], row["dtype"])
        unused = "; a kernel was switched off: the kernel's times are void" if not row["kernels_used"] else ""
        title = f"{row['layer']}, {row['dtype']}, {row['queries']} queries, {row['references']} references"
        lines += [
            f"### {title}{unused}",
            "",
            *_expected(key, us["kernel in a graph"], references=row["references"]),
            "| form | forward, µs | against grid_sample | forward and backward, µs | against grid_sample |",
            "| --- | --- | --- | --- | --- |",
            f"| kernel, in a CUDA graph | {us['kernel in a graph']:.1f} "
            f"| {us['grid_sample'] / us['kernel in a graph']:.1f}× faster | | |",
        ]
        for peer, given in PEERS.items():
            if peer in us:
                ratio = us[peer] / us["kernel in a graph"]
                lines.append(
                    f"| {given} | {us[peer]:.1f} (ours: {ratio:.1f}× faster) "
                    f"| {us['grid_sample'] / us[peer]:.1f}× faster | | |"
                )
        for form in ("kernel", "portable", "grid_sample"):
            both = f"{form}, with gradients"
            lines.append(
                f"| {form} | {us[form]:.1f} | {us['grid_sample'] / us[form]:.1f}× faster "
                f"| {us[both]:.1f} | {us['grid_sample, with gradients'] / us[both]:.1f}× faster |"
            )
        lines.append("")
    return lines


PEERS = {
    "original in a graph": "original kernel, float32, locations and weights given, in a CUDA graph; target ≥ 3×",
    "DCNv4 in a graph": "DCNv4's function, float16, locations given, in a CUDA graph; target > 1×",
}


def _expected(key: tuple[str, str], measured: float, *, references: References) -> list[str]:
    """What was predicted and what is wanted, next to what came out; both are of grid references."""
    if references != "grid" or key not in PREDICTED_US:
        return []
    wanted = f"; target {LIMIT_US[key]:.0f}" if key in LIMIT_US else ""
    return [f"In a graph on an H200: predicted {PREDICTED_US[key]:.0f} µs{wanted}; here {measured:.1f}.", ""]
