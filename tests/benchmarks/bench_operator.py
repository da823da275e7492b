"""Time of `ops.deform_attn` against `grid_sample` per level, on one encoder layer of one 360×640 frame.

    python tests/benchmarks/bench_operator.py [--json FILE] [--rounds N] [--threads N] [--backward]

The operator (compiled where there is a compiler), the portable form and grid_sample are run in turn within each
round, so that what else the machine does hits all; the ratios are those of the medians. Targets 0.05 and 0.15,
limit 0.4: beyond the limit the exit code is 1.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ops import deform_attn
from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_bag
from ops.levels import level_sizes
from ops.reference import deform_attn_reference

HEIGHT0, WIDTH0, L, K, M, D = 45, 80, 4, 4, 8, 32
TARGET, PORTABLE_TARGET, LIMIT = 0.05, 0.15, 0.4
WARM_UP = 2


def encoder_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres as references and offsets of a few pixels, as in a trained encoder."""
    generator = torch.Generator().manual_seed(0)
    sizes = level_sizes(HEIGHT0, WIDTH0, num_levels=L)
    centres = []
    for height, width in sizes:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append(torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).view(-1, 2))
    reference = torch.cat(centres).unsqueeze(0)
    Q = reference.shape[1]
    value = torch.randn(1, Q, M, D, generator=generator)
    sampling = torch.randn(1, Q, 3 * M * L * K, generator=generator) * 2
    return value, sampling, reference


def step(operator: Callable[..., Tensor], inputs: tuple[Tensor, ...], *, backward: bool) -> Tensor:
    """One call, and with `backward` the gradients of all three tensors."""
    if not backward:
        with torch.inference_mode():
            return operator(*inputs, HEIGHT0, WIDTH0, L, K)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = operator(*leaves, HEIGHT0, WIDTH0, L, K)
    torch.autograd.grad(result.sum(), leaves)
    return result.detach()


def measure(*, rounds: int, backward: bool) -> dict[str, Any]:
    """Medians and minima in milliseconds over the rounds, ratio of medians, largest difference."""
    inputs = encoder_inputs()
    operators = {
        "deform_attn": deform_attn,
        "portable": lambda *flat: deform_attn_bag(DeformAttnArguments(*flat)),
        "grid_sample": deform_attn_reference,
    }
    results = {name: step(operator, inputs, backward=backward) for name, operator in operators.items()}
    times: dict[str, list[float]] = {name: [] for name in operators}
    for round_index in range(WARM_UP + rounds):
        for name, operator in operators.items():
            start = time.perf_counter()
            step(operator, inputs, backward=backward)
            if round_index >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "queries": inputs[1].shape[1],
        "backward": backward,
        "median_ms": medians,
        "min_ms": {name: min(values) for name, values in times.items()},
        "ratio": medians["deform_attn"] / medians["grid_sample"],
        "portable_ratio": medians["portable"] / medians["grid_sample"],
        "max_difference": float((results["deform_attn"] - results["grid_sample"]).abs().max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice by default")
    parser.add_argument("--backward", action="store_true", help="also time forward and backward together")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    forward = measure(rounds=arguments.rounds, backward=False)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "target": TARGET,
        "portable_target": PORTABLE_TARGET,
        "limit": LIMIT,
        "forward": forward,
    }
    if arguments.backward:
        report["forward_backward"] = measure(rounds=max(3, arguments.rounds // 5), backward=True)

    print(f"torch {report['torch']}, {report['threads']} threads, {forward['queries']} queries, float32")
    print(f"{'':18}{'deform_attn':>13}{'portable':>13}{'grid_sample':>13}{'ratios':>15}   medians in ms")
    for name in ("forward", "forward_backward"):
        if name in report:
            row = report[name]
            times = "".join(f"{time:13.1f}" for time in row["median_ms"].values())
            print(f"{name:18}{times}{row['ratio']:8.3f}{row['portable_ratio']:8.3f}")
    print(
        f"targets {TARGET} and {PORTABLE_TARGET}, limit {LIMIT}; largest difference of results "
        f"{forward['max_difference']:.1e}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if forward["ratio"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
