"""Verbs that make a network run elsewhere or faster: compile, export."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ops.cores import usable_cores

if TYPE_CHECKING:
    from model.engines.halves import HalvesSpec
    from model.network import Network


def compile_engine(arguments: Sequence[str]) -> None:
    """Compile a network for this machine, so that streams find it compiled (docs/runtime.md)."""
    parser = argparse.ArgumentParser(prog="python -m model compile", description=compile_engine.__doc__)
    add_network_options(parser)
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of the network (default: half the cores, as streams)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="as model.precision of the stream (default: auto)",
    )
    parser.add_argument("--cache", metavar="DIR", help="folder of engines (default: in the user's cache)")
    parser.add_argument("--low-priority", action="store_true", help="leave the cores to other programs")
    options = parser.parse_args(arguments)
    import torch

    from model.engines.cache import EngineCache
    from model.engines.device import choose_dtype
    from model.engines.halves import prepared
    from model.engines.runtime import build_engine

    if options.low_priority:
        os.nice(10)
    # As pipeline.process.tune_process sets them for a stream: an engine is made for a number of threads.
    usual = os.environ.get("OMP_NUM_THREADS") or max(1, usable_cores() // 2)
    torch.set_num_threads(options.threads or int(usual))
    network, spec = network_and_spec(options)
    ready = prepared(network)
    dtype = choose_dtype(options.precision, torch.device("cpu"))
    if dtype != torch.float32:
        ready.to_precision(dtype)
    began = time.monotonic()
    folder = build_engine(ready, spec, cache=EngineCache(Path(options.cache) if options.cache else None))
    print(f"{folder}: {time.monotonic() - began:.0f} s")


def export(arguments: Sequence[str]) -> None:
    """Write a network as torch.export programs, for other runtimes (docs/runtime.md)."""
    parser = argparse.ArgumentParser(prog="python -m model export", description=export.__doc__)
    add_network_options(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the programs")
    options = parser.parse_args(arguments)
    from model.engines.export import export_network

    network, spec = network_and_spec(options)
    print(export_network(network, spec, Path(options.output)))


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network, and for which shapes."""
    parser.add_argument("--weights", default="default", help="a .safetensors file, or default (shipped)")
    parser.add_argument("--height", type=int, help="rows of the network's input (default: the weights')")
    parser.add_argument("--width", type=int, help="columns (default: the weights')")
    parser.add_argument("--num-frames", type=int, help="T (default: the weights')")
    parser.add_argument("--num-kept", type=int, default=20, help="model.max_instances (default: 20)")
    parser.add_argument("--no-cues", action="store_true", help="for streams with model.cues=false")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="model.classes of the stream (default: what the weights' class list recommends)",
    )


def network_and_spec(options: argparse.Namespace) -> tuple[Network, HalvesSpec]:
    from model.checkpoint.weights_file import load_weights, weights_path
    from model.engines.halves import HalvesSpec, spec_outputs

    network = load_weights(weights_path(options.weights))
    config = network.config
    return network, HalvesSpec(
        height=options.height or config.height,
        width=options.width or config.width,
        num_frames=options.num_frames or config.num_frames,
        num_kept=options.num_kept,
        with_cues=bool(config.cues) and not options.no_cues,
        outputs=spec_outputs(config, options.classes),
    )
