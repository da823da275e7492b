"""Launch plans: what is compiled, how many threads and blocks, and what has no kernel."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from ops.launch import (
    KERNEL_SOURCE,
    DeformAttnConfig,
    MaskRunsConfig,
    PreprocessConfig,
    plan_deform_attn,
    plan_mask_runs,
    plan_preprocess,
)

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
R50 = DeformAttnConfig(F16, F16, F32, 8, 32, 4, 4, 2, False)


def config(**changes: Any) -> DeformAttnConfig:
    return dataclasses.replace(R50, **changes)


def test_r50_in_half_precision_is_a_warp_a_query_with_16_byte_loads() -> None:
    launch = plan_deform_attn("forward", R50)
    assert launch.alignment == 16
    assert launch.threads == 32 * launch.per_block == 128
    assert launch.expression == "deform_attn_forward<half_t, half_t, float, 8, 32, 4, 4, 2, false, 8, 4>"
    assert KERNEL_SOURCE.is_file()


@pytest.mark.parametrize(("num_queries", "blocks"), [(1, 1), (4, 1), (5, 2), (24_100, 6025)])
def test_blocks_cover_all_queries_and_no_more(num_queries: int, blocks: int) -> None:
    assert plan_deform_attn("forward", R50).blocks(num_queries) == blocks


@pytest.mark.parametrize(
    ("dtype", "head_dim", "vector"),
    [(F32, 32, 4), (F32, 24, 4), (F32, 6, 2), (F32, 7, 1), (BF16, 64, 8), (BF16, 24, 8), (BF16, 12, 4)],
)
def test_loads_are_as_wide_as_the_channels_allow(dtype: torch.dtype, head_dim: int, vector: int) -> None:
    assert (
        plan_deform_attn("forward", config(value=dtype, head_dim=head_dim)).alignment
        == vector * dtype.itemsize
    )


@pytest.mark.parametrize("kernel", ["forward", "backward"])
@pytest.mark.parametrize("dtype", [F32, F16])
@pytest.mark.parametrize(("num_heads", "head_dim"), [(8, 32), (4, 24), (8, 64), (1, 1), (16, 16)])
@pytest.mark.parametrize("num_points", [1, 2, 4])
def test_every_plan_fits_a_block(
    kernel: str, dtype: torch.dtype, num_heads: int, head_dim: int, num_points: int
) -> None:
    launch = plan_deform_attn(
        kernel, config(value=dtype, num_heads=num_heads, head_dim=head_dim, num_points=num_points)
    )
    assert launch.threads == launch.per_block * num_heads * head_dim * dtype.itemsize // launch.alignment
    assert 1 <= launch.threads <= 128 or launch.per_block == 1
    assert launch.shared_bytes <= 48 * 1024


def test_a_block_serves_fewer_queries_where_its_memory_is_short() -> None:
    many = config(num_levels=4, num_points=6)
    assert plan_deform_attn("backward", many).per_block < 4
    assert plan_deform_attn("backward", many).per_block >= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": torch.float64}, "no kernel for torch.float64: float32, float16 and bfloat16"),
        ({"reference": torch.float64}, "no kernel for torch.float64"),
        ({"num_heads": 64, "head_dim": 256}, "64 heads of 256 channels: a query takes 2048 threads"),
        ({"num_levels": 8, "num_points": 64}, r"no backward kernel for 8·64 samples .* bytes of shared"),
    ],
)
def test_what_has_no_kernel_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_deform_attn("backward", config(**changes))


def test_a_thread_makes_a_pixel_of_the_input_and_a_block_a_mask() -> None:
    launch = plan_preprocess("preprocess", PreprocessConfig(BF16))
    assert launch.expression == "yuv_to_input<bfloat16_t>"
    assert launch.threads == launch.per_block
    assert launch.blocks(192 * 320 + 1) == 192 * 320 // launch.threads + 1
    masks = plan_mask_runs("mask_runs", MaskRunsConfig(F16, torch.float64))
    assert masks.expression == "mask_runs<half_t, double>"
    assert masks.blocks(20) == 20
    assert masks.shared_bytes < 48 * 1024


def test_an_instance_is_compiled_after_the_half_types() -> None:
    for launch in (plan_deform_attn("forward", R50), plan_preprocess("preprocess", PreprocessConfig(F32))):
        name = launch.expression.split("<")[0]
        assert 0 < launch.code.index("struct half_t") < launch.code.index(f"{name}(")
        assert "#include" not in launch.code
