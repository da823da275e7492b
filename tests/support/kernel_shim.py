"""Runs the CUDA kernels on the CPU: g++ builds their source with kernel_shim.h, fibres stand for threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ops.launch import KERNEL_SOURCE, Launch

HEADER = Path(__file__).parent / "kernel_shim.h"
NUM_POINTERS = {"forward": 4, "backward": 7}
NUM_INTS = 5


def _wrapper(index: int, launch: Launch) -> str:
    """A C function that launches one instance; pointer types follow from the kernel's parameters."""
    pointers = ", ".join(f"Any{{pointers[{i}]}}" for i in range(NUM_POINTERS[launch.kernel]))
    ints = ", ".join(f"ints[{i}]" for i in range(NUM_INTS))
    return f"""
extern "C" void kernel_{index}(void** pointers, const int* ints, int blocks, int threads, int backward) {{
    shim::launch(blocks, threads, backward, [&] {{ {launch.expression}({pointers}, {ints}); }});
}}"""


class KernelShim:
    """A compiler of kernels as `ops.cuda` takes one, for tensors on the CPU. One g++ run for all launches."""

    def __init__(self, launches: Iterable[Launch], folder: Path) -> None:
        """Compiles into `folder`, unless the same sources have been compiled there before."""
        self.lanes_backward = False
        """Whether the threads of a block run from the last to the first."""
        self.num_runs = 0
        self._index = {launch: index for index, launch in enumerate(dict.fromkeys(launches))}
        parts = [
            f'#include "{HEADER}"',
            f'#include "{KERNEL_SOURCE}"',
            "struct Any { void* to; template <typename T> operator T*() const { return (T*)to; } };",
            *(_wrapper(index, launch) for launch, index in self._index.items()),
        ]
        source = "\n".join(parts)
        content = source + HEADER.read_text() + KERNEL_SOURCE.read_text()
        library = folder / f"kernels_{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"
        if not library.exists():
            code = folder / f"{library.stem}_{os.getpid()}.cpp"
            code.write_text(source)
            built = code.with_suffix(".so")
            command = [
                "g++",
                "-std=c++17",
                "-O1",
                "-Wno-unknown-pragmas",
                "-shared",
                "-fPIC",
                "-o",
                built,
                code,
            ]
            subprocess.run(command, check=True, timeout=110)
            built.replace(library)
        self._library = ctypes.CDLL(str(library))

    def __call__(
        self, launch: Launch, device: torch.device
    ) -> Callable[[int, tuple[int, ...], tuple[int, ...]], None]:
        assert device.type == "cpu"
        function = getattr(self._library, f"kernel_{self._index[launch]}")

        def run(blocks: int, pointers: tuple[int, ...], ints: tuple[int, ...]) -> None:
            assert len(pointers) == NUM_POINTERS[launch.kernel]
            assert len(ints) == NUM_INTS
            self.num_runs += 1
            function(
                (ctypes.c_void_p * len(pointers))(*pointers),
                (ctypes.c_int * len(ints))(*ints),
                blocks,
                launch.threads,
                int(self.lanes_backward),
            )

        return run
