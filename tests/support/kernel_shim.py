"""Runs the CUDA kernels on the CPU: g++ builds their source with kernel_shim.h, fibres stand for threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ops.kernel import Run, Scalar
from ops.launch import Launch

HEADER = Path(__file__).parent / "kernel_shim.h"
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100") if shutil.which("nvcc") else ()
"""What cubins are built for; none where there is no nvcc: then there is nothing to be tested."""


def _wrapper(index: int, launch: Launch[Any]) -> str:
    """A C function that launches one instance; 1 for a wrong number of arguments, else 0."""
    return f"""
extern "C" int kernel_{index}(void** pointers, int num_pointers, const double* scalars, int num_scalars,
                              int blocks, int threads, int backward) {{
    return shim::launch({launch.expression}, pointers, num_pointers, scalars, num_scalars, blocks, threads,
                        backward);
}}"""


class KernelShim:
    """A compiler of kernels as `ops.kernel` takes one, for tensors on the CPU. One g++ run for all."""

    def __init__(self, launches: Iterable[Launch[Any]], folder: Path) -> None:
        """Compiles launches of one source into `folder`, unless they have been compiled there before."""
        self.lanes_backward = False
        """Whether the threads of a block run from the last to the first."""
        self.num_runs = 0
        self._index = {launch: index for index, launch in enumerate(dict.fromkeys(launches))}
        (code,) = {launch.code for launch in self._index}
        wrappers = (_wrapper(index, launch) for launch, index in self._index.items())
        source = "\n".join([f'#include "{HEADER}"', code, *wrappers])
        name = hashlib.sha256((source + HEADER.read_text()).encode()).hexdigest()[:16]
        library = folder / f"kernels_{name}.so"
        if not library.exists():
            text = folder / f"{library.stem}_{os.getpid()}.cpp"
            text.write_text(source)
            built = text.with_suffix(".so")
            flags = ["-std=c++17", "-O1", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
            subprocess.run(["g++", *flags, "-o", built, text], check=True, timeout=110)
            built.replace(library)
        self._library = ctypes.CDLL(str(library))

    def __call__(self, launch: Launch[Any], device: torch.device) -> Run:
        assert device.type == "cpu"
        function = getattr(self._library, f"kernel_{self._index[launch]}")

        def run(blocks: int, pointers: tuple[int, ...], scalars: tuple[Scalar, ...]) -> None:
            self.num_runs += 1
            wrong = function(
                (ctypes.c_void_p * len(pointers))(*pointers),
                len(pointers),
                (ctypes.c_double * len(scalars))(*scalars),
                len(scalars),
                blocks,
                launch.threads,
                int(self.lanes_backward),
            )
            assert not wrong, f"{launch.expression} does not take {len(pointers)} + {len(scalars)} arguments"

        return run


def ptx(launch: Launch[Any], architecture: str, folder: Path) -> str:
    """A launch's assembly, as nvcc makes it."""
    source, made = folder / "instance.cu", folder / "instance.ptx"
    source.write_text(f"{launch.code}\nauto* use = &{launch.expression};")
    command = ["nvcc", "-std=c++17", f"-arch={architecture.replace('sm', 'compute')}", "-ptx", "-o"]
    subprocess.run([*command, made, source], check=True, capture_output=True, timeout=110)
    return made.read_text()


def check_cubin(launches: Sequence[Launch[Any]], architecture: str, folder: Path) -> None:
    """Build launches of one source by nvcc: none spills, each takes the shared memory it was planned with."""
    (code,) = {launch.code for launch in launches}
    # Taking an instance's address makes the compiler build it.
    uses = [f"auto* use_{i} = &{launch.expression};" for i, launch in enumerate(launches)]
    source = folder / "instances.cu"
    source.write_text("\n".join([code, *uses]))
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas", "-v", "-o"]
    done = subprocess.run(
        [*command, folder / "instances.cubin", source],
        check=True,
        capture_output=True,
        text=True,
        timeout=110,
    )
    lines = done.stderr.splitlines()
    assert not [line for line in lines if "warning" in line], lines
    spills = [line for line in lines if "spill stores" in line]
    assert len(spills) == len(launches), lines
    for line in spills:
        assert line.strip().startswith("0 bytes stack frame, 0 bytes spill stores"), lines
    # "Used 40 registers, used 1 barriers, 4128 bytes smem, 400 bytes cmem[0]": no smem where there is none.
    used = [line for line in lines if "Used " in line and " registers" in line]
    shared = [int(line.split(" bytes smem")[0].split()[-1]) if "smem" in line else 0 for line in used]
    assert sorted(shared) == sorted(launch.shared_bytes for launch in launches), lines
