"""What a launch of a CUDA kernel is made of: which instance of a template, how many threads, how much memory.

Arithmetic alone: no CUDA, no tensors. `ops.cuda` compiles and launches what is planned here; the tests run
the same plans on the CPU. The kernels are in `ops/kernels/deform_attn.cu`.

Dimensions: M heads, D channels of a head, L levels, K points.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

__all__ = ["KERNEL_SOURCE", "DeformAttnConfig", "Launch", "Pass", "plan_deform_attn"]

Pass = Literal["forward", "backward"]

KERNEL_SOURCE = Path(__file__).parent / "kernels" / "deform_attn.cu"

_C_TYPES = {torch.float32: "float", torch.float16: "half_t", torch.bfloat16: "bfloat16_t"}

_TARGET_THREADS = 128
"""Threads of a block: small blocks wait less at their barriers and end more evenly."""

_MAX_THREADS = 1024
_MAX_SHARED_BYTES = 48 * 1024
"""What every device gives a block without being asked for more."""

_LOAD_BYTES = 16
"""The widest load of a thread."""


@dataclass(frozen=True)
class DeformAttnConfig:
    """What the kernels are compiled for; everything else is given at launch."""

    value: torch.dtype
    """Of value, result and the gradient that comes in."""
    sampling: torch.dtype
    reference: torch.dtype
    num_heads: int
    head_dim: int
    num_levels: int
    num_points: int
    coordinates: int
    """Of a reference point: 2 or 4."""
    per_level: bool
    """Whether each level has reference points of its own."""


@dataclass(frozen=True)
class Launch:
    """One instance of a kernel template."""

    kernel: Pass
    config: DeformAttnConfig
    expression: str
    """The instance as C++ names it."""
    vector: int
    """Channels that a thread loads at once; value, result and their gradients are aligned to as many."""
    queries_per_block: int
    threads: int
    """Of a block."""
    shared_bytes: int
    """Of a block, static."""

    def blocks(self, num_queries: int) -> int:
        """Blocks for num_queries = B·Q."""
        return -(-num_queries // self.queries_per_block)

    @property
    def alignment(self) -> int:
        """Bytes to which value, result and their gradients must be aligned."""
        return self.vector * self.config.value.itemsize


def plan_deform_attn(kernel: Pass, config: DeformAttnConfig) -> Launch:
    """The launch of one pass.

    Raises ValueError for what the kernels do not do: other dtypes than float32, float16 and bfloat16, or more
    than a block has room for.
    """
    dtypes = (config.value, config.sampling, config.reference)
    for dtype in dtypes:
        if dtype not in _C_TYPES:
            raise ValueError(f"no kernel for {dtype}: float32, float16 and bfloat16 have one")
    widest = _LOAD_BYTES // config.value.itemsize
    vector = next(v for v in (8, 4, 2, 1) if v <= widest and config.head_dim % v == 0)
    threads = config.num_heads * (config.head_dim // vector)  # of a query
    if threads > _MAX_THREADS:
        raise ValueError(
            f"no kernel for {config.num_heads} heads of {config.head_dim} channels: a query takes {threads} "
            f"threads, a block has {_MAX_THREADS} at most"
        )
    queries = max(1, _TARGET_THREADS // threads)
    while queries > 1 and _shared_bytes(kernel, config, queries, threads) > _MAX_SHARED_BYTES:
        queries -= 1
    shared_bytes = _shared_bytes(kernel, config, queries, threads)
    if shared_bytes > _MAX_SHARED_BYTES:
        raise ValueError(
            f"no {kernel} kernel for {config.num_levels}·{config.num_points} samples in "
            f"{config.num_heads} heads of {config.head_dim} channels: they take {shared_bytes} bytes "
            f"of shared memory, a block has {_MAX_SHARED_BYTES}"
        )
    shape = (config.num_heads, config.head_dim, config.num_levels, config.num_points, config.coordinates)
    arguments = [
        *(_C_TYPES[dtype] for dtype in dtypes),
        *map(str, shape),
        "true" if config.per_level else "false",
        str(vector),
        str(queries),
    ]
    return Launch(
        kernel=kernel,
        config=config,
        expression=f"deform_attn_{kernel}<{', '.join(arguments)}>",
        vector=vector,
        queries_per_block=queries,
        threads=queries * threads,
        shared_bytes=shared_bytes,
    )


def _shared_bytes(kernel: Pass, config: DeformAttnConfig, queries: int, threads: int) -> int:
    """The `__shared__` arrays of the kernel, in the order of their declaration; threads are a query's."""
    samples = config.num_levels * config.num_points
    slots = queries * config.num_heads * (samples | 1)
    if kernel == "forward":
        return slots * (16 + 8)
    return slots * (16 + 4) + queries * threads * (samples * 3 + 1) * 4
