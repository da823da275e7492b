"""Where the time of a frame goes with the default model, and what the per-frame cache saves, in the same run.

    python tests/benchmarks/bench_frame.py [--json FILE] [--frames N]

The demo clip at cadence `source`, stride 1, on the CPU: stages of the report, the network cut at its seam and
into its parts, and the same stream with the cache switched off as the peer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.process import tune_process

tune_process()

import torch
from torch import nn

from model.config import ModelConfig
from model.network import FrameFeatures, Network, build_model
from ops.preprocess import fit_image
from pipeline import Stream
from pipeline.config_file import load_config
from pipeline.sources.demo import demo_frame

WARM_UP = 5
PARTS = ("backbone", "input_proj", "encoder", "decoder", "mask_branch", "mask_head")


def run_stream(*, cache: bool, num_frames: int) -> dict[str, Any]:
    """Stream the demo clip with the default model; return the report."""
    values = {
        "source": "demo",
        "cadence": {"fps": "source"},
        "model": {"cache": cache, "engine": "eager"},
        "max_frames": num_frames,
    }
    return Stream(load_config(values=values)).run()


def time_parts(*, rounds: int) -> dict[str, float]:
    """Median milliseconds of a stride-1 step: preprocessing, both sides of the seam, and the parts inside."""
    config = ModelConfig()
    network = build_model(config, seed=0, class_bias=0.0)
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for part in PARTS:
        _watch(network, part, spent)
    samples: dict[str, list[float]] = {}
    features: list[FrameFeatures] = []
    with torch.inference_mode():
        for index in range(config.num_frames + WARM_UP + rounds):
            spent.update(dict.fromkeys(PARTS, 0.0))
            image, _ = fit_image(demo_frame(0).rgb, height=config.height, width=config.width)
            fitted = time.perf_counter()
            features = [*features[-config.num_frames + 1 :], network.encode_frames(image[None])]
            encoded = time.perf_counter()
            if len(features) == config.num_frames:
                network.decode_window(FrameFeatures.stack(features), num_kept=30)
            decoded = time.perf_counter()
            if index >= config.num_frames + WARM_UP:
                row = {"encode_frames": encoded - fitted, "decode_window": decoded - encoded, **spent}
                for name, seconds in row.items():
                    samples.setdefault(name, []).append(seconds * 1e3)
    return {name: statistics.median(values) for name, values in samples.items()}


def _watch(network: Network, part: str, spent: dict[str, float]) -> None:
    """Add the seconds of each call of a part's public methods to `spent[part]`."""
    module: nn.Module = getattr(network, part)

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = call(*args, **kwargs)
            spent[part] += time.perf_counter() - begun
            return result

        return run

    if isinstance(module, nn.ModuleList):
        for child in module:
            child.forward = timed(child.forward)
        return
    for name in ("forward", "encode_frames", "encode_window", "prepare"):
        method = getattr(module, name, None)
        if method is not None:
            setattr(module, name, timed(method))


def main() -> int:
    """Print the metrics and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--frames", type=int, default=120)
    args = parser.parse_args()
    parts = time_parts(rounds=args.frames // 2)
    cached = run_stream(cache=True, num_frames=args.frames)
    plain = run_stream(cache=False, num_frames=args.frames)
    result = {
        "threads": torch.get_num_threads(),
        "num_frames": ModelConfig().num_frames,
        "network_ms": parts,
        "stages_ms": cached["latency_ms"],
        "fps": cached["fps"],
        "fps_without_cache": plain["fps"],
        "gain": cached["fps"] / plain["fps"],
    }
    for name, value in parts.items():
        print(f"{name:14} {value:7.2f} ms")
    for name, value in cached["latency_ms"].items():
        print(f"stage {name:10} p50 {value['p50']} p95 {value['p95']} ms")
    print(f"{cached['fps']:.1f} frames/s with the cache, {plain['fps']:.1f} without: {result['gain']:.2f}×")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
