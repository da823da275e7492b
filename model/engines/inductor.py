"""The two halves compiled ahead of time for a CPU by inductor (AOTInductor), as packages on disk.

A package has the weights in it, folded and laid out for this machine, needs no Python to run but for our
operator, and can never recompile. Building takes a minute or two of a laptop and a C++ compiler; loading a
fraction of a second. Source: torch.export and AOTInductor.

Why `lifted` is there: tables that the network keeps (sines, cells) enter an exported graph as constants, and
inductor's freezing loses those that are read twice; as buffers it folds them like weights.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import ops.box_masks
import ops.deform_attn  # noqa: F401  (with box_masks: the operators that packages call by name)
from model.engines.halves import DecodeHalf, EncodeHalf, Half, HalvesSpec, example_inputs
from model.engines.package_runner import PackageRunner, runner_library
from model.errors import EngineError
from model.network import Network
from ops.library import find_compiler

__all__ = ["build_packages", "compile_halves", "export_half", "load_packages"]

logger = logging.getLogger(__name__)


ENCODE, DECODE = "encode.pt2", "decode.pt2"

_SETTINGS = {"freezing": True, "aot_inductor.compile_wrapper_opt_level": "O0"}
"""Weights are laid out for this machine; the code between kernels is not worth the time to optimise it."""


def export_half(half: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The half as a graph of tensor operations with static shapes; the network's tables are its buffers."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        return torch.export.export(lifted(_export(half, example)), example, strict=False)


def _export(half: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half(*example)  # tables that are made at the first call must be there before the trace
        return torch.export.export(half, example, strict=False)


def lifted(program: torch.export.ExportedProgram) -> nn.Module:
    """The program as a module whose constants are buffers."""
    module = program.module()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor):
                delattr(part, name)
                part.register_buffer(name, value.clone())
    return module


def build_packages(network: Network, spec: HalvesSpec, folder: Path) -> None:
    """Compile both halves of a `prepared` network into `folder`.

    What calls them (`model.engines.package_runner`) is built, too. Raises RuntimeError where there is no
    compiler, torch's own errors (with the compiler's words) where it fails.
    """
    find_compiler()  # known before the trace, which takes a while
    frame, window = example_inputs(network, spec)
    for name, half, example in (
        (ENCODE, EncodeHalf(network), frame),
        (DECODE, DecodeHalf(network, spec), window),
    ):
        # A package reads its inputs with the strides of the example: contiguous, as `_load` hands them over.
        program = export_half(half, tuple(tensor.contiguous() for tensor in example))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / name), inductor_configs=_SETTINGS
            )
    with contextlib.suppress(RuntimeError, OSError, subprocess.SubprocessError):
        runner_library()  # said where it is used


def compile_halves(network: Network, spec: HalvesSpec) -> tuple[Half, Half]:
    """Both halves compiled in this process, for a GPU: torch keeps the kernels in its own cache on disk.

    One graph each and static shapes: another shape is an error, not a recompilation.
    """
    frame, window = example_inputs(network, spec)
    encode, decode = (
        torch.compile(lifted(_export(half, example)), fullgraph=True, dynamic=False)
        for half, example in ((EncodeHalf(network), frame), (DecodeHalf(network, spec), window))
    )
    return encode, decode


def load_packages(folder: Path, *, side_by_side: bool = False) -> tuple[Half, Half]:
    """Both halves of a folder that `build_packages` filled.

    Halves that leave Python's lock free; where what calls them cannot be built, those that do not, or with
    side_by_side EngineError. Raises RuntimeError for a damaged file.
    """
    try:
        runner_library()
    except (RuntimeError, OSError, subprocess.SubprocessError) as exc:
        if side_by_side:
            raise EngineError(f"compiled halves would not run side by side here ({exc})") from exc
        logger.warning("compiled halves will not run side by side: %s", exc)
        return _loaded_by_torch(folder / ENCODE), _loaded_by_torch(folder / DECODE)
    return PackageRunner(folder / ENCODE), PackageRunner(folder / DECODE)


def _loaded_by_torch(path: Path) -> Half:
    """The package through torch's own binding, which holds Python's lock while it runs."""
    package = torch._inductor.aoti_load_package(str(path))

    def half(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(package(*(tensor.contiguous() for tensor in tensors)))

    return half
