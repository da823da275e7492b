"""The TensorRT plugin where there is no TensorRT: its kernel, its launch, its PTX, and what is missing."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.kernel_shim import ARCHITECTURES, KernelShim, check_cubin
from torch import Tensor

import ops.deform_attn  # noqa: F401  (registers the operator)
from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_bag
from ops.launch import DeformAttnConfig, Launch, plan_deform_attn
from ops.levels import level_sizes
from ops.tensorrt_plugin import PLUGIN, PluginCall, compile_ptx, entry_of, plan_call, register, why_not

F32, F16 = torch.float32, torch.float16
COMPILER = find_spec("cupy") or shutil.which("nvcc")
DEFAULT = DeformAttnConfig(F16, F16, F32, 4, 24, 4, 2, 4, False)
PER_LEVEL = DeformAttnConfig(F32, F32, F32, 2, 8, 3, 2, 2, True)


def make(
    config: DeformAttnConfig, *, B: int = 2, Q: int = 19
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, int]]:
    generator = torch.Generator().manual_seed(0)
    M, D, L, K = config.num_heads, config.head_dim, config.num_levels, config.num_points
    S = sum(height * width for height, width in level_sizes(9, 6, num_levels=L))
    points = (B, Q, L, config.coordinates) if config.per_level else (B, Q, config.coordinates)
    tensors = (
        torch.randn(B, S, M, D, generator=generator).to(config.value),
        torch.randn(B, Q, 3 * M * L * K, generator=generator).to(config.sampling),
        torch.rand(points, generator=generator).to(config.reference),
    )
    return tensors, {"height0": 9, "width0": 6, "num_levels": L, "num_points": K}


def planned(tensors: tuple[Tensor, Tensor, Tensor], geometry: dict[str, int]) -> PluginCall:
    value, sampling, reference = tensors
    return plan_call(
        (tuple(value.shape), tuple(sampling.shape), tuple(reference.shape)),
        (value.dtype, sampling.dtype, reference.dtype),
        **geometry,
    )


@pytest.mark.parametrize("config", [DEFAULT, PER_LEVEL], ids=["default model", "a point a level"])
def test_the_plan_launches_the_kernel_to_the_operators_result(
    config: DeformAttnConfig, tmp_path: Path
) -> None:
    tensors, geometry = make(config)
    call = planned(tensors, geometry)
    assert call.launch.config == config
    value, sampling, reference = tensors
    out = torch.full((2, 19, value.shape[2] * value.shape[3]), torch.nan, dtype=value.dtype)
    run = KernelShim([call.launch], tmp_path)(call.launch, torch.device("cpu"))
    # The shim fills pointers and integers in the order of the kernel's parameters: out is the last pointer.
    run(call.blocks, tuple(t.data_ptr() for t in (value, sampling, reference, out)), call.integers)
    exact = deform_attn_bag(DeformAttnArguments(*(t.double() for t in tensors), *geometry.values()))
    error = float((out.double() - exact).norm() / exact.norm())
    assert error < (2e-6 if config.value == F32 else 1e-3)


def test_parameters_are_inputs_then_integers_then_the_output() -> None:
    """TensorRT hands them over in that order, whatever the kernel calls them."""
    code = plan_deform_attn("plugin", DEFAULT).code
    signature = code[code.index("deform_attn_plugin(") :].partition(")")[0]
    names = [part.split()[-1] for part in signature.partition("(")[2].replace("\n", " ").split(",")]
    assert names == [
        "value",
        "sampling",
        "reference",
        "num_queries",
        "queries_per_element",
        "num_positions",
        "height0",
        "width0",
        "out",
    ]


@pytest.mark.skipif(not COMPILER, reason="needs CuPy or nvcc")
def test_ptx_has_one_entry_with_the_plans_parameters() -> None:
    call = planned(*make(DEFAULT))
    ptx = compile_ptx(call.launch, (8, 0))
    name = entry_of(ptx)
    assert "deform_attn_plugin" in name
    header = ptx[ptx.index(".entry") : ptx.index("{", ptx.index(".entry"))]
    kinds = [line.split()[1] for line in header.splitlines() if line.strip().startswith(".param")]
    assert kinds == [".u64"] * 3 + [".u32"] * 5 + [".u64"]
    assert f".maxntid {call.launch.threads}" in header
    assert ".extern .shared" not in ptx  # shared memory is static: TensorRT need not be asked for it
    with pytest.raises(RuntimeError, match="PTX of one kernel"):
        entry_of(ptx + ptx)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_builds_the_plugin_without_spills(architecture: str, tmp_path: Path) -> None:
    check_cubin([plan_deform_attn("plugin", DEFAULT)], architecture, tmp_path)


@pytest.mark.skipif(not COMPILER, reason="needs CuPy or nvcc")
def test_a_kernel_that_does_not_compile_comes_with_the_compilers_words() -> None:
    launch = plan_deform_attn("plugin", DEFAULT)
    broken: Launch[Any] = Launch(
        **{
            **vars(launch),
            "expression": launch.expression.replace("deform_attn_plugin", "deform_attn_absent"),
        }
    )
    with pytest.raises(RuntimeError, match="deform_attn_absent"):
        compile_ptx(broken, (8, 0))


def test_without_a_compiler_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.tensorrt_plugin.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"needs CuPy \(pip install 'mssts-stream\[gpu\]'\) or nvcc"):
        compile_ptx(plan_deform_attn("plugin", DEFAULT), (9, 9))


def test_the_plan_covers_all_queries_of_the_shipped_sizes() -> None:
    call = plan_call(
        ((5, 1280, 4, 24), (5, 1280, 96), (5, 1280, 2)),
        (F16, F16, F32),
        height0=24,
        width0=40,
        num_levels=4,
        num_points=2,
    )
    assert call.integers == (6400, 1280, 1280, 24, 40)
    assert call.blocks * call.launch.per_block >= 6400 > (call.blocks - 1) * call.launch.per_block


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ((-1, 54, 4, 24), F16, "static shapes"),
        ((2, 0, 4, 24), F16, "static shapes"),
        ((2, 2**27, 4, 24), F16, "32-bit indices"),
        ((2, 54, 4, 24), torch.float64, "no kernel for torch.float64"),
    ],
)
def test_what_the_plugin_cannot_do_is_named(value: tuple[int, ...], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_call(
            (value, (2, 19, 96), (2, 19, 2)),
            (dtype, dtype, F32),
            height0=9,
            width0=6,
            num_levels=4,
            num_points=2,
        )


def test_the_operators_schema_is_one_that_a_plugin_can_have() -> None:
    """Tensors first, then single ints, one result: what TensorRT's plugin attributes can carry."""
    schema = torch.ops.vis.deform_attn.default._schema
    kinds = [str(argument.type) for argument in schema.arguments]
    assert kinds == ["Tensor"] * 3 + ["int"] * 4
    assert [argument.name for argument in schema.arguments[3:]] == [
        "height0",
        "width0",
        "num_levels",
        "num_points",
    ]
    assert [str(result.type) for result in schema.returns] == ["Tensor"]


def test_why_not_names_what_is_missing() -> None:
    reason = why_not()
    try:
        import tensorrt.plugin  # noqa: F401
    except Exception:
        assert reason is not None
        assert reason.startswith("tensorrt.plugin cannot be imported")
    else:
        assert reason is None or "compile" in reason or "TensorRT" in reason


if why_not() is None:  # CI has no TensorRT, and there no test may skip

    def test_tensorrt_takes_the_plugin() -> None:
        """Where TensorRT is installed: its own checks of names and annotations."""
        register()
        from tensorrt.plugin._lib import QDP_REGISTRY

        definition = QDP_REGISTRY[PLUGIN]
        assert definition.input_tensor_names == ["value", "sampling", "reference"]
        assert list(definition.input_attrs) == ["height0", "width0", "num_levels", "num_points"]
        assert definition.aot_impl_func is not None
        assert np.dtype(np.int64) == np.dtype(definition.input_attrs["height0"].__args__[1].__args__[0])
