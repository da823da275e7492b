"""Build the shipped network's TensorRT engines on this machine's GPU, compare them with eager, time both.

    python tests/benchmarks/trt_check.py [--weights FILE] [--dtype float16] [--no-plugin]

Needs an NVIDIA GPU, torch with CUDA, torch_tensorrt with TensorRT's libraries, and CuPy or nvcc for the attention
plugin (without: attention runs in PyTorch between the engines, and the page says so). Takes minutes. Writes
docs/performance/tensorrt-<device>-<dtype>.md and .json. Exit code 0: both halves agree with eager; 1: they do not, or
something is missing, and what.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from benchmarks.gpu_timing import wall_time_us
from torch import Tensor

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.engines.halves import DecodeHalf, EncodeHalf, Half, HalvesSpec, example_inputs, prepared
from model.engines.tensorrt import build_engines, count_attention, import_torch_tensorrt, load_engines
from model.errors import EngineError
from ops import tensorrt_plugin

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Largest difference from eager in the same type, relative to the output's largest value.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
SEEDS = 3  # where two queries nearly tie, rounding may choose otherwise: wrong only if wrong on all


def missing() -> str | None:
    """What this machine lacks, or None."""
    if not torch.cuda.is_available():
        return f"no NVIDIA GPU that torch {torch.__version__} sees; TensorRT needs one"
    try:
        import_torch_tensorrt()
    except EngineError as exc:
        return str(exc)
    return None


def error(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The largest difference relative to the largest value, of all floating-point outputs."""
    return max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
        for one, other in zip(ours, theirs, strict=True)
        if other.is_floating_point()
    )


def check(
    weights: Path, dtype: torch.dtype, num_kept: int, device: torch.device, *, plugin: bool
) -> dict[str, Any]:
    """Build, load, compare and time both halves of a file of weights."""
    network = prepared(load_weights(weights)).to_precision(dtype).to(device)
    config = network.config
    spec = HalvesSpec(
        height=config.height,
        width=config.width,
        num_frames=config.num_frames,
        num_kept=num_kept,
        with_cues=bool(config.cues),
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build_engines(network, spec, Path(folder), plugin=plugin)
        seconds = time.monotonic() - began
        names = ("encode", "decode")
        programs = {name: torch.export.load(Path(folder) / f"{name}.pt2").graph_module for name in names}
        engines: dict[str, Half] = dict(zip(names, load_engines(Path(folder)), strict=True))
    eager: dict[str, Half] = {"encode": EncodeHalf(network), "decode": DecodeHalf(network, spec)}
    return {
        "weights": weights.name,
        "dtype": str(dtype).removeprefix("torch."),
        "spec": vars(spec),
        "build_seconds": seconds,
        "stages": {
            name: {
                **compare(
                    engines[name],
                    eager[name],
                    [example_inputs(network, spec, seed=seed)[index] for seed in range(SEEDS)],
                    device,
                    TOLERANCE[dtype],
                ),
                "attention_in_pytorch": count_attention(programs[name]),
            }
            for index, name in enumerate(names)
        },
    }


@torch.inference_mode()
def compare(
    engine: Half, eager: Half, examples: list[tuple[Tensor, ...]], device: torch.device, tolerance: float
) -> dict[str, Any]:
    """Errors on each of the examples, times on the first."""
    errors = [error(engine(*example), eager(*example)) for example in examples]
    first = examples[0]
    return {
        "errors": errors,
        "agrees": min(errors) <= tolerance,
        "tensorrt_us": wall_time_us(lambda: engine(*first), device),
        "eager_us": wall_time_us(lambda: eager(*first), device),
    }


def page(report: dict[str, Any]) -> str:
    """The report for readers."""
    where, run = report["where"], report["run"]
    lines = [
        f"# TensorRT on {where['device']}",
        "",
        f"{report['date']}, torch {where['torch']}, torch_tensorrt {where['torch_tensorrt']}, weights {run['weights']}, "
        f"{run['dtype']}, built in {run['build_seconds']:.0f} s. Time of a call by the host's clock, median of 15.",
        "",
        "| stage | TensorRT | eager | largest difference | attention operators left to PyTorch |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in run["stages"].items():
        verdict = "" if row["agrees"] else " (**too large**)"
        lines.append(
            f"| {name} | {row['tensorrt_us'] / 1e3:.2f} ms | {row['eager_us'] / 1e3:.2f} ms | "
            f"{min(row['errors']):.1e}{verdict} | {row['attention_in_pytorch']} |"
        )
    lines += ["", f"Plugin: {where['plugin']}. Command: `make trt-check`.", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a .safetensors file (default: what is shipped)")
    parser.add_argument("--dtype", default="float16", choices=list(DTYPES))
    parser.add_argument("--num-kept", type=int, default=20, help="model.max_instances (default: 20)")
    parser.add_argument("--no-plugin", action="store_true", help="leave attention to PyTorch")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance")
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"trt-check: {lacking}", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    weights, plugin = options.weights or shipped_weights(), not options.no_plugin
    run = check(weights, DTYPES[options.dtype], options.num_kept, device, plugin=plugin)
    report = {
        "date": date.today().isoformat(),
        "where": {
            "device": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "torch": torch.__version__,
            "torch_tensorrt": import_torch_tensorrt().__version__,
            "python": platform.python_version(),
            "plugin": (tensorrt_plugin.why_not() or "where torch_tensorrt takes it")
            if plugin
            else "not asked for",
        },
        "run": run,
    }
    name = f"{report['where']['device']} {options.dtype}" + ("" if plugin else " no plugin")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    target = options.output / f"tensorrt-{slug}.md"
    options.output.mkdir(parents=True, exist_ok=True)
    target.write_text(page(report), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(target.read_text(encoding="utf-8"))
    return 0 if all(stage["agrees"] for stage in run["stages"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
