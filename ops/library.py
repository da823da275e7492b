"""Compiling a C++ source of ours into a library that is kept on disk and found there by later processes."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["build_library", "cache_folder", "find_compiler"]

_COMPILERS = ("g++", "c++", "clang++")
_COMPILE_SECONDS = 120


def cache_folder() -> Path:
    """Where compiled libraries are kept: `$XDG_CACHE_HOME/mssts-stream` or `~/.cache/mssts-stream`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mssts-stream"


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


def _run(command: list[str]) -> None:
    """Raises subprocess.SubprocessError with the end of what the compiler said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-3:]
        raise subprocess.SubprocessError(f"{command[0]} ended with {done.returncode}: {' '.join(said)}")
