"""The original one-thread-a-channel kernel of Deformable DETR, compiled from the user's copy of its source.

    python tests/benchmarks/gpu_report.py --original .../models/ops/src/cuda/ms_deform_im2col_cuda.cuh

Nothing of it is in this project: its forward kernel and the function that reads a cell are taken out of the file as
they stand, without the headers around them, and compiled as ours are. It takes locations and weights where our
operator takes offsets and logits, so what makes those is not in its time; float32 alone.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ops.kernel import Compiler
from ops.launch import DeformAttnConfig, Launch
from ops.levels import level_sizes

KERNEL = "ms_deformable_im2col_gpu_kernel"
FUNCTIONS = ("ms_deform_attn_im2col_bilinear", KERNEL)
THREADS = 1024  # of a block, as its CUDA_NUM_THREADS

_BEFORE = f"""
typedef long long original_int64;
#define int64_t original_int64
#define CUDA_KERNEL_LOOP(i, n) const int i = blockIdx.x * {THREADS} + threadIdx.x; if (i < (n))
"""
_AFTER = f"""
#undef int64_t
template <typename T>
__global__ void original_forward(const T* value, const original_int64* shapes, const original_int64* starts,
                                 const T* locations, const T* weights, T* result, int n, int batch, int positions,
                                 int heads, int channels, int levels, int queries, int points) {{
    {KERNEL}<T>(n, value, shapes, starts, locations, weights, batch, positions, heads, channels, levels, queries,
                points, result);
}}
"""


def extract(text: str) -> str:
    """The source that is compiled. Raises ValueError for a file without the two functions."""
    parts = [_BEFORE]
    for name in FUNCTIONS:
        found = re.search(
            rf"^template[^\n]*\n__(?:device|global)__[^\n]*\b{name}\(.*?(?=^template)", text, re.M | re.S
        )
        if found is None:
            raise ValueError(
                f"there is no {name} in it: give ms_deform_im2col_cuda.cuh of Deformable DETR's models/ops/src/cuda"
            )
        parts.append(found[0].replace("__global__", "__device__"))
    return "\n".join([*parts, _AFTER])


class Original:
    """The kernel on tensors of one device."""

    def __init__(
        self, path: Path, compiler: Compiler, device: torch.device, config: DeformAttnConfig
    ) -> None:
        """Raises OSError and ValueError for a file that is not it, and what the compiler raises."""
        self._config = config
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "original.cu"
            source.write_text(extract(path.read_text(encoding="utf-8")), encoding="utf-8")
            launch = Launch("original", config, (source,), "original_forward<float>", THREADS, THREADS, 0)
            self._run = compiler(launch, device)
            self._blocks = launch.blocks

    def __call__(
        self, value: Tensor, locations: Tensor, weights: Tensor, height0: int, width0: int
    ) -> Tensor:
        """value (B, S, M, D), locations (B, Q, M, L, K, 2) in 0..1, weights (B, Q, M, L, K) → (B, Q, M·D)."""
        B, S, M, D = value.shape
        Q, L, K = locations.shape[1], locations.shape[3], locations.shape[4]
        key = (height0, width0, L, value.device)
        if getattr(self, "_key", None) != key:
            sizes = level_sizes(height0, width0, num_levels=L)
            areas = [height * width for height, width in sizes]
            self._shapes = torch.tensor(sizes, device=value.device)
            self._starts = torch.tensor([sum(areas[:level]) for level in range(L)], device=value.device)
            self._key = key
        result = torch.empty(B, Q, M * D, device=value.device)
        tensors = (value, self._shapes, self._starts, locations, weights, result)
        num = result.numel()
        addresses = tuple(tensor.data_ptr() for tensor in tensors)
        self._run(self._blocks(num), addresses, (num, B, S, M, D, L, Q, K))
        return result


def arguments(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Our operator's inputs with points as references (`gpu_report.make`) → those of `Original`, float32."""
    value, sampling, reference, height0, width0, L, K = inputs
    B, _, M, _ = value.shape
    Q = sampling.shape[1]
    x, y, logits = sampling.float().view(B, Q, 3, M, L, K).unbind(2)
    weights = logits.flatten(-2).softmax(-1).view(B, Q, M, L, K)
    sizes = torch.tensor(level_sizes(height0, width0, num_levels=L), device=value.device)
    offsets = torch.stack([x, y], dim=-1) / sizes.flip(1)[:, None].float()  # (B, Q, M, L, K, 2)
    locations = reference.float()[:, :, None, None, None] + offsets
    return value.float().contiguous(), locations.contiguous(), weights.contiguous(), height0, width0
