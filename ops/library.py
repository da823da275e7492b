"""Compiling a C++ source of ours into a library that is kept on disk and found there by later processes.

CPU kernels are such libraries. None is needed for a result: where there is no compiler, or it fails, that is
said once and the portable form runs. Threads are torch's own: the code has no OpenMP runtime but the one that
torch has loaded (two of them would fight for the cores).
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ops.files import cache_folder

__all__ = ["build_kernel", "build_library", "find_compiler", "kernel_or_none"]

logger = logging.getLogger(__name__)

SWITCH = "MSSTS_NATIVE"
"""Environment variable; 0 leaves the CPU kernels out."""

_KERNEL_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")

Kernel = TypeVar("Kernel")

_COMPILERS = ("g++", "c++", "clang++")
_COMPILE_SECONDS = 120


def find_compiler() -> str:
    """The C++ compiler: CXX, or the first of the usual names. Raises RuntimeError with the remedy."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler; install g++, or name one in CXX")
    if shutil.which(compiler.split()[0]) is None:
        raise RuntimeError(f"the C++ compiler {compiler!r} (CXX) is not there; install g++, or name another")
    return compiler


def build_library(
    source: Path, folder: Path, *, flags: Sequence[str], link_flags: Sequence[str] = ()
) -> Path:
    """The library of a source file in `folder`, compiled if it is not there yet.

    `flags` are the compiler's and name the library together with the source and the kind of machine;
    `link_flags` the linker's.
    Raises RuntimeError with the remedy where there is no compiler, OSError where the folder cannot be
    written, subprocess.SubprocessError where the compiler fails.
    """
    spelt = " ".join((*flags, platform.machine()))
    digest = hashlib.sha256(source.read_bytes() + spelt.encode()).hexdigest()
    library = folder / f"{source.stem}-{digest[:16]}.so"
    if library.is_file():
        return library
    compiler = find_compiler()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / f"{source.stem}.o"
        _run([*compiler.split(), *flags, "-c", str(source), "-o", str(made)])
        linked = made.with_suffix(".so")
        _run([*compiler.split(), "-shared", str(made), "-o", str(linked), *link_flags])
        os.replace(linked, library)
    return library


def build_kernel(source: Path, folder: Path) -> Path:
    """The library of a CPU kernel in `folder`, compiled for this CPU if it is not there yet (3 s).

    Raises as `build_library`."""
    # Linked without -fopenmp: its symbols are those of the runtime that torch has loaded.
    return build_library(source, folder, flags=(*_KERNEL_FLAGS, *_instruction_flags()))


def kernel_or_none(load: Callable[[Path], Kernel], *, operator: str) -> Kernel | None:
    """What `load` makes of the folder of libraries; None, said, where there is none or `MSSTS_NATIVE=0`."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return load(cache_folder())
    except (RuntimeError, OSError, subprocess.SubprocessError, ArithmeticError) as exc:
        logger.warning("no compiled CPU operator, %s runs in its portable form: %s", operator, exc)
        return None


def _instruction_flags() -> tuple[str, ...]:
    """What torch itself uses of this CPU (ATEN_CPU_CAPABILITY limits both): 256-bit vectors at most."""
    return ("-mavx2", "-mfma") if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else ()


def _run(command: list[str]) -> None:
    """Raises subprocess.SubprocessError with the end of what the compiler said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-3:]
        raise subprocess.SubprocessError(f"{command[0]} ended with {done.returncode}: {' '.join(said)}")
