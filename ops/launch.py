"""What a launch of a CUDA kernel is made of: which instance of a template, how many threads, how much memory.

Arithmetic alone: no CUDA, no tensors. `ops.cuda` compiles and launches what is planned here; the tests run
the same plans on the CPU. The kernels are in `ops/kernels`.

Dimensions: M heads, D channels of a head, L levels, K points.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

__all__ = [
    "KERNEL_SOURCE",
    "MASK_RUNS_HEADER",
    "DeformAttnConfig",
    "Launch",
    "MaskRunsConfig",
    "PreprocessConfig",
    "plan_deform_attn",
    "plan_mask_runs",
    "plan_preprocess",
]

_FOLDER = Path(__file__).parent / "kernels"
_NUMBERS_SOURCE = _FOLDER / "numbers.cu"
KERNEL_SOURCE = _FOLDER / "deform_attn.cu"

MASK_RUNS_HEADER = 6
"""`HEADER` of mask_rle.cu: ints before the counts of a mask."""

_C_TYPES = {torch.float32: "float", torch.float16: "half_t", torch.bfloat16: "bfloat16_t"}
_BOX_C_TYPES = {torch.float32: "float", torch.float64: "double"}

_PREPROCESS_THREADS = 256
"""`THREADS` of preprocess.cu."""
_MASK_RUNS_THREADS = 512
"""`THREADS` of mask_rle.cu."""
_MASK_RUNS_GROUPS = 32
"""`GROUPS` of mask_rle.cu."""

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
class PreprocessConfig:
    """What the kernel from YUV to the network's input is compiled for."""

    output: torch.dtype


@dataclass(frozen=True)
class MaskRunsConfig:
    """What the kernel from mask logits to runs is compiled for."""

    logits: torch.dtype
    boxes: torch.dtype


ConfigT = TypeVar("ConfigT", bound=Hashable)


@dataclass(frozen=True)
class Launch(Generic[ConfigT]):
    """One instance of a kernel template."""

    kernel: str
    """Its name within its operator."""
    config: ConfigT
    sources: tuple[Path, ...]
    """The files that are compiled as one text, in this order."""
    expression: str
    """The instance as C++ names it."""
    per_block: int
    """Queries, pixels or masks that a block serves."""
    threads: int
    """Of a block."""
    shared_bytes: int
    """Of a block, static."""
    alignment: int = 1
    """Bytes to which the tensors that are read or written by the pack must be aligned."""

    def blocks(self, num: int) -> int:
        """Blocks for num queries (B·Q), pixels or masks."""
        return -(-num // self.per_block)

    @property
    def code(self) -> str:
        """The text that is compiled."""
        return "\n".join(source.read_text(encoding="utf-8") for source in self.sources)


def plan_deform_attn(kernel: str, config: DeformAttnConfig) -> Launch[DeformAttnConfig]:
    """The launch of one pass, "forward" or "backward", or of "plugin", forward as TensorRT calls it.

    Raises ValueError for what the kernels do not do: other dtypes than float32, float16 and bfloat16, or more
    than a block has room for.
    """
    dtypes = (config.value, config.sampling, config.reference)
    c_types = [_c_type(dtype) for dtype in dtypes]
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
        *c_types,
        *map(str, shape),
        "true" if config.per_level else "false",
        str(vector),
        str(queries),
    ]
    return Launch(
        kernel=kernel,
        config=config,
        sources=(_NUMBERS_SOURCE, KERNEL_SOURCE),
        expression=f"deform_attn_{kernel}<{', '.join(arguments)}>",
        per_block=queries,
        threads=queries * threads,
        shared_bytes=shared_bytes,
        alignment=vector * config.value.itemsize,
    )


def plan_preprocess(kernel: str, config: PreprocessConfig) -> Launch[PreprocessConfig]:
    """The launch of the kernel from YUV to the network's input: a thread a pixel of the input.

    Raises ValueError for other dtypes than float32, float16 and bfloat16.
    """
    return Launch(
        kernel=kernel,
        config=config,
        sources=(_NUMBERS_SOURCE, _FOLDER / "preprocess.cu"),
        expression=f"yuv_to_input<{_c_type(config.output)}>",
        per_block=_PREPROCESS_THREADS,
        threads=_PREPROCESS_THREADS,
        shared_bytes=0,
    )


def plan_mask_runs(kernel: str, config: MaskRunsConfig) -> Launch[MaskRunsConfig]:
    """The launch of the kernel from mask logits to runs: a block a mask.

    Raises ValueError for logits of other dtypes than float32, float16 and bfloat16, for boxes of others than
    float32 and float64.
    """
    if config.boxes not in _BOX_C_TYPES:
        raise ValueError(f"no kernel for boxes of {config.boxes}: float32 and float64 have one")
    return Launch(
        kernel=kernel,
        config=config,
        sources=(_NUMBERS_SOURCE, _FOLDER / "mask_rle.cu"),
        expression=f"mask_runs<{_c_type(config.logits)}, {_BOX_C_TYPES[config.boxes]}>",
        per_block=1,
        threads=_MASK_RUNS_THREADS,
        shared_bytes=(4 + 4 + _MASK_RUNS_THREADS + _MASK_RUNS_GROUPS + 1) * 4,
    )


def _c_type(dtype: torch.dtype) -> str:
    if dtype not in _C_TYPES:
        raise ValueError(f"no kernel for {dtype}: float32, float16 and bfloat16 have one")
    return _C_TYPES[dtype]


def _shared_bytes(kernel: str, config: DeformAttnConfig, queries: int, threads: int) -> int:
    """The `__shared__` arrays of the kernel, in the order of their declaration; threads are a query's."""
    samples = config.num_levels * config.num_points
    slots = queries * config.num_heads * (samples | 1)
    if kernel != "backward":
        return slots * (16 + 8)
    return slots * (16 + 4) + queries * threads * (samples * 3 + 1) * 4
