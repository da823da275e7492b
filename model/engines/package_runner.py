"""Packages of AOTInductor run with Python's lock free, so that frames are prepared while a window is decoded.

torch's own binding holds the lock for as long as a package runs (torch 2.11 to 2.13; 16 to 19 ms at a time
with the default network), and every other thread stands still. A few lines of C++ around torch's loader
(`package_runner.cpp`), compiled once and called through ctypes, do not. Ours.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ops.files import cache_folder
from ops.library import build_library

__all__ = ["PackageRunner", "runner_library"]

SOURCE = Path(__file__).parent / "package_runner.cpp"
_TYPES = (torch.float32, torch.int64, torch.bfloat16)
"""By their number in the C++ part."""
_MAX_DIMS = 8


@lru_cache(maxsize=1)
def runner_library() -> ctypes.CDLL:
    """The compiled library, built at the first use (about 7 s of a core).

    Raises RuntimeError where there is no compiler, subprocess.SubprocessError where it fails, OSError for a
    folder that cannot be written or a library that cannot be loaded.
    """
    root = Path(torch.__file__).parent
    headers = (root / "include", root / "include" / "torch" / "csrc" / "api" / "include")
    libraries = root / "lib"
    # The version is in the library's name through the flags: another torch has another interface.
    flags = ["-std=c++20", "-O1", "-fPIC", f"-DTORCH_VERSION_USED={torch.__version__}"]
    flags += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    for folder in headers:
        flags += ["-isystem", str(folder)]
    link_flags = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10"]
    library = ctypes.CDLL(str(build_library(SOURCE, cache_folder(), flags=flags, link_flags=link_flags)))
    for name in ("runner_run", "runner_sizes", "runner_type"):
        library[name].restype = ctypes.c_int64
    library.runner_load.restype = ctypes.c_void_p
    library.runner_error.restype = ctypes.c_char_p
    return library


class _Loaded:
    """The C++ part of a package, until it is freed, which waits for a call that is under way."""

    def __init__(self, library: ctypes.CDLL, runner: int) -> None:
        self.lock = threading.Lock()
        self.runner: ctypes.c_void_p | None = ctypes.c_void_p(runner)
        self._library = library

    def free(self) -> None:
        with self.lock:
            if self.runner is not None:
                self._library.runner_free(self.runner)
            self.runner = None


class PackageRunner:
    """A loaded package: CPU tensors in, tensors out, in float32, bfloat16 or int64; calls take turns."""

    def __init__(self, path: Path) -> None:
        """Raises RuntimeError for a damaged file and what `runner_library` raises."""
        self._library = runner_library()
        runner = self._library.runner_load(str(path).encode())
        if not runner:
            raise RuntimeError(self._error())
        self._loaded = _Loaded(self._library, runner)
        # At the end of the program, too, and a thread of a stream may still be at it.
        weakref.finalize(self, self._loaded.free)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors must be as many and as large as the package was made for: it does not look.

        Raises ValueError for another type, RuntimeError with torch's words where the package fails, and when
        the program has ended.
        """
        foreign = [tensor.dtype for tensor in tensors if tensor.dtype not in _TYPES]
        if foreign:
            raise ValueError(f"a package takes no {foreign[0]}, only {', '.join(map(str, _TYPES))}")
        with self._loaded.lock:
            runner = self._loaded.runner
            if runner is None:
                raise RuntimeError("the program ends: the package is closed")
            num_results = self._run(runner, [tensor.contiguous() for tensor in tensors])
            return tuple(self._take(runner, index) for index in range(num_results))

    def _run(self, runner: ctypes.c_void_p, inputs: list[Tensor]) -> int:
        """How many results there are to be taken."""
        num_results: int = self._library.runner_run(
            runner,
            ctypes.c_int64(len(inputs)),
            (ctypes.c_void_p * len(inputs))(*(tensor.data_ptr() for tensor in inputs)),
            _numbers([_TYPES.index(tensor.dtype) for tensor in inputs]),
            _numbers([tensor.dim() for tensor in inputs]),
            _numbers([size for tensor in inputs for size in tensor.shape]),
        )
        if num_results < 0:
            raise RuntimeError(self._error())
        return num_results

    def _take(self, runner: ctypes.c_void_p, index: int) -> Tensor:
        sizes = (ctypes.c_int64 * _MAX_DIMS)()
        place = ctypes.c_int64(index)
        rank = self._library.runner_sizes(runner, place, sizes)
        result = torch.empty(sizes[:rank], dtype=_TYPES[self._library.runner_type(runner, place)])
        self._library.runner_take(runner, place, ctypes.c_void_p(result.data_ptr()))
        return result

    def _error(self) -> str:
        said: bytes = self._library.runner_error()
        return said.decode(errors="replace")


def _numbers(values: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
