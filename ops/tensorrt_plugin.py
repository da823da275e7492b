"""`vis::deform_attn` as a TensorRT plugin whose kernel is compiled ahead and lies in the engine.

The only importer of tensorrt, and only once an engine is built. TensorRT launches the kernel itself, without
Python, and hands over input pointers, then 32-bit integers, then output pointers: `deform_attn_plugin` of
ops/kernels/deform_attn.cu takes them in that order. Launch arithmetic is that of `ops.launch`; shapes are
static. Source: `tensorrt.plugin` (register, aot_impl); never run on a GPU yet (docs/gpu-pending.md).

Dimensions: B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ops.cuda import nvrtc_ptx
from ops.launch import DeformAttnConfig, Launch, plan_deform_attn

__all__ = ["PLUGIN", "PluginCall", "compile_ptx", "entry_of", "plan_call", "register", "why_not"]

PLUGIN = "vis::deform_attn"

_MAX_INDEX = 2**31

_NO_COMPILER = "the plugin's kernel needs CuPy (pip install 'mssts-stream[gpu]') or nvcc on the path"

Attribute = np.ndarray[Any, np.dtype[np.int64]]
"""An int of the operator as TensorRT carries it: an array of one element."""


@dataclass(frozen=True)
class PluginCall:
    """What TensorRT is told of one call: the kernel, the blocks, and the integers between the pointers."""

    launch: Launch[DeformAttnConfig]
    blocks: int
    integers: tuple[int, ...]
    """num_queries, queries_per_element, num_positions, height0, width0."""


def plan_call(
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    *,
    height0: int,
    width0: int,
    num_levels: int,
    num_points: int,
) -> PluginCall:
    """The call for value (B, S, M, D), sampling (B, Q, 3·M·L·K) and reference (B, Q, [L,] 2|4).

    Raises ValueError for a dimension that is not known, for empty tensors, for what the kernels' 32-bit
    indices do not reach, and for dtypes and sizes that have no kernel.
    """
    value, sampling, reference = shapes
    if min(min(shape) for shape in shapes) < 1:
        raise ValueError(f"the plugin needs static shapes with something in them, got {shapes}")
    num_queries = sampling[0] * sampling[1]
    if max(value[1] * value[2] * value[3], num_queries) >= _MAX_INDEX:
        raise ValueError(f"value {value} or sampling {sampling} is beyond the kernel's 32-bit indices")
    config = DeformAttnConfig(
        *dtypes,
        num_heads=value[2],
        head_dim=value[3],
        num_levels=num_levels,
        num_points=num_points,
        coordinates=reference[-1],
        per_level=len(reference) == 4,
    )
    launch = plan_deform_attn("plugin", config)
    return PluginCall(
        launch=launch,
        blocks=launch.blocks(num_queries),
        integers=(num_queries, sampling[1], value[1], height0, width0),
    )


@lru_cache(maxsize=64)  # TensorRT asks for the same kernel many times while it builds
def compile_ptx(launch: Launch[DeformAttnConfig], capability: tuple[int, int]) -> str:
    """The launch's kernel as PTX for a compute capability: by CuPy's NVRTC, or by nvcc where CuPy is not.

    Raises RuntimeError where there is neither, or with the compiler's words where it fails.
    """
    if find_spec("cupy") is not None:
        return nvrtc_ptx(launch, capability)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError(_NO_COMPILER)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.cu"), Path(folder, "kernel.ptx")
        # Taking an instance's address makes the compiler build it.
        source.write_text(f"{launch.code}\nauto* instance = &{launch.expression};\n", encoding="utf-8")
        major, minor = capability
        command = [
            nvcc,
            "-std=c++17",
            f"-arch=compute_{major}{minor}",
            "-ptx",
            "-o",
            str(target),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"nvcc: {done.stderr.strip()}")
        return target.read_text(encoding="utf-8")


def entry_of(ptx: str) -> str:
    """The name of the one kernel in a text of PTX. Raises RuntimeError for none or several."""
    names = re.findall(r"\.entry\s+([\w$]+)", ptx)
    if len(names) != 1:
        raise RuntimeError(f"PTX of one kernel was expected, it has {names}")
    return str(names[0])


def why_not() -> str | None:
    """Why this machine has no plugin, or None where it should have one."""
    try:
        import tensorrt
        import tensorrt.plugin
    except Exception as exc:  # its loader raises more than ImportError where libraries are missing
        return f"tensorrt.plugin cannot be imported: {type(exc).__name__}: {exc}"
    if tensorrt.__version__.startswith(("10.14.", "10.15.")):
        return f"plugins do not work in TensorRT {tensorrt.__version__}"
    if not hasattr(tensorrt.plugin, "aot_impl"):
        return f"TensorRT {tensorrt.__version__} has no plugins compiled ahead (tensorrt.plugin.aot_impl)"
    if find_spec("cupy") is None and shutil.which("nvcc") is None:
        return _NO_COMPILER
    return None


@lru_cache(maxsize=1)
def register() -> None:
    """Tell TensorRT of the plugin: what it returns, and how its kernel is compiled and launched. Once.

    Raises what TensorRT raises where it does not take it.
    """
    import tensorrt
    import tensorrt.plugin as plugin

    types = {
        tensorrt.DataType.FLOAT: torch.float32,
        tensorrt.DataType.HALF: torch.float16,
        tensorrt.DataType.BF16: torch.bfloat16,
    }

    # TensorRT reads the annotations, so they must be its own types.
    def describe(
        value: plugin.TensorDesc,
        sampling: plugin.TensorDesc,
        reference: plugin.TensorDesc,
        height0: Attribute,
        width0: Attribute,
        num_levels: Attribute,
        num_points: Attribute,
    ) -> plugin.TensorDesc:
        shape = value.shape_expr
        return plugin.from_shape_expr((shape[0], sampling.shape_expr[1], shape[2] * shape[3]), value.dtype)

    def implement(
        value: plugin.TensorDesc,
        sampling: plugin.TensorDesc,
        reference: plugin.TensorDesc,
        height0: Attribute,
        width0: Attribute,
        num_levels: Attribute,
        num_points: Attribute,
        outputs: tuple[plugin.TensorDesc],
        tactic: int,
    ) -> tuple[str, str, plugin.KernelLaunchParams, plugin.SymExprs]:
        tensors = (value, sampling, reference)
        call = plan_call(
            tuple(tuple(tensor.shape) for tensor in tensors),  # type: ignore[arg-type]
            tuple(types[tensor.dtype] for tensor in tensors),  # type: ignore[arg-type]
            height0=_scalar(height0),
            width0=_scalar(width0),
            num_levels=_scalar(num_levels),
            num_points=_scalar(num_points),
        )
        ptx = compile_ptx(call.launch, torch.cuda.get_device_capability())
        # Shared memory is static: the kernel has it of itself.
        parameters = plugin.KernelLaunchParams(grid_x=call.blocks, block_x=call.launch.threads)
        integers = plugin.SymIntExprs(len(call.integers))
        for index, integer in enumerate(call.integers):
            integers[index] = plugin.SymInt32(integer)
        return entry_of(ptx), ptx, parameters, integers

    plugin.register(PLUGIN)(describe)
    plugin.aot_impl(PLUGIN)(implement)


def _scalar(attribute: Attribute) -> int:
    return int(np.asarray(attribute).reshape(()))
