"""The compiled CPU operator: it equals the portable form, whatever the threads, and is never needed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_backward_bag, deform_attn_bag
from ops.levels import level_sizes
from ops.library import build_kernel
from ops.native import NativeKernels, load, native_kernels, usable

ROOT = Path(__file__).parents[2]

# height0, width0, levels, points, heads, channels of a head: those with a function of their own, and others
SHAPES = {
    "the shipped network's": (12, 20, 4, 2, 4, 24),
    "the paper's": (9, 7, 4, 4, 8, 32),
    "odd widths": (13, 9, 3, 3, 2, 5),
    "down to a pixel": (5, 7, 4, 2, 2, 8),
    "one column": (6, 1, 3, 4, 2, 4),
    "one pixel": (1, 1, 1, 1, 1, 1),
}


@pytest.fixture(scope="module")
def kernels() -> NativeKernels:
    found = native_kernels()
    assert found is not None, "the tests need a C++ compiler"
    return found


def make(
    shape: tuple[int, ...], coordinates: int, per_level: bool, dtype: torch.dtype, *, Q: int = 70
) -> DeformAttnArguments:
    height0, width0, L, K, M, D = shape
    generator = torch.Generator().manual_seed(0)
    S = sum(height * width for height, width in level_sizes(height0, width0, num_levels=L))
    value = torch.randn(3, S, M, D, generator=generator, dtype=torch.float64)
    sampling = torch.randn(3, Q, 3 * M * L * K, generator=generator, dtype=torch.float64) * 3
    points = (3, Q, L, coordinates) if per_level else (3, Q, coordinates)
    reference = torch.rand(points, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    tensors = (tensor.to(dtype) for tensor in (value, sampling, reference))
    return DeformAttnArguments(*tensors, height0, width0, L, K)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("per_level", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_the_portable_form_with_its_gradients(
    kernels: NativeKernels,
    shape: tuple[int, ...],
    per_level: bool,
    coordinates: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    inputs = make(shape, coordinates, per_level, dtype)
    exact = make(shape, coordinates, per_level, torch.float64)
    result = kernels.forward(inputs)
    expected = deform_attn_bag(exact)
    assert result.dtype == dtype
    assert (result.double() - expected).norm() <= tolerance * expected.norm()
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = kernels.backward(grad.to(dtype), inputs)
    # float32 rounds a position to the other side of a kink now and then: the derivative there is another.
    loose = tolerance if dtype == torch.float64 else 5e-3
    for name, ours, theirs in zip(
        ("value", "sampling", "reference"), got, deform_attn_backward_bag(grad, exact), strict=True
    ):
        assert (ours.double() - theirs).norm() <= loose * theirs.norm() + 1e-12, name


def test_bits_do_not_depend_on_threads_or_on_the_rest_of_the_batch(kernels: NativeKernels) -> None:
    inputs = make(SHAPES["the shipped network's"], 4, True, torch.float32)
    grad = torch.randn(3, 70, 96, generator=torch.Generator().manual_seed(1))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    kernels.forward(inputs),
                    *kernels.backward(grad, inputs),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))
    alone = kernels.forward(
        DeformAttnArguments(*(tensor[1:2] for tensor in inputs.tensors), *inputs.geometry)
    )
    assert torch.equal(alone[0], results[0][0][1])


def test_attention_of_extreme_logits_is_that_of_softmax(kernels: NativeKernels) -> None:
    inputs = make(SHAPES["the shipped network's"], 2, False, torch.float32)
    logits = inputs.sampling[..., 64:]
    logits.copy_(torch.linspace(-120, 120, logits.numel()).view_as(logits).roll(7, dims=-1) * 0.8)
    logits[0, :5, ::3] = float("-inf")
    logits[1, 3, 2] = float("nan")
    result = kernels.forward(inputs)
    expected = deform_attn_bag(inputs)
    assert torch.equal(result.isnan(), expected.isnan())
    assert result.isnan().any()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_room_for_samples_is_known_before_the_call() -> None:
    inputs = make((4, 4, 1, 1, 1, 4), 2, False, torch.float32)
    assert usable(inputs._replace(num_levels=4, num_points=16))
    assert not usable(inputs._replace(num_levels=5, num_points=13))
    assert not usable(inputs._replace(num_levels=17))
    assert not usable(inputs._replace(reference=inputs.reference[:, :0]))
    assert not usable(inputs._replace(value=inputs.value[:0]))


def test_more_samples_than_there_is_room_for_run_in_the_portable_form() -> None:
    from ops import deform_attn

    inputs = make((4, 4, 1, 80, 1, 4), 2, False, torch.float32)
    assert torch.equal(deform_attn(*inputs), deform_attn_bag(inputs))


_ALONE = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stderr)
import torch
from ops import deform_attn
torch.manual_seed(0)
for _ in range(3):
    deform_attn(torch.randn(1, 5, 2, 4), torch.randn(1, 3, 24), torch.rand(1, 3, 2), 2, 2, 2, 2)
from ops.native import native_kernels
print(native_kernels() is not None)
"""


def run_alone(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )


def test_it_is_compiled_once_and_found_on_disk_later(tmp_path: Path) -> None:
    assert run_alone(tmp_path).stdout == "True\n"
    (library,) = (tmp_path / "mssts-stream").glob("deform_attn-*.so")
    stamp = library.stat().st_mtime_ns
    # Nothing is compiled now: there is no compiler.
    assert run_alone(tmp_path, CXX="/nonexistent/compiler").stdout == "True\n"
    assert library.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CXX": "/nonexistent/compiler"}, "is not there; install g++"),
        ({"CXX": "false"}, "false ended with 1"),
        ({"MSSTS_NATIVE": "0"}, ""),
    ],
    ids=["no compiler", "a compiler that fails", "switched off"],
)
def test_without_it_the_portable_form_runs_and_that_is_said_once(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    done = run_alone(tmp_path, **environment)
    assert done.stdout == "False\n"
    assert done.stderr.count("runs in its portable form") == (1 if said else 0)
    assert said in done.stderr


def test_a_library_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tmp_path / "wrong.cpp"
    source = (ROOT / "ops" / "kernels" / "deform_attn.cpp").read_text(encoding="utf-8")
    wrong.write_text(source.replace("point[0] * width - (T)0.5", "point[0] * width"), encoding="utf-8")
    monkeypatch.setattr("ops.native.SOURCE", wrong)
    with pytest.raises(ArithmeticError, match="differs from the portable form"):
        load(tmp_path / "cache")
    assert build_kernel(wrong, tmp_path / "cache").is_file()
    native_kernels.cache_clear()
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with caplog.at_level(logging.WARNING):
            assert native_kernels() is None
        assert "no compiled CPU operator" in caplog.text
    finally:
        native_kernels.cache_clear()
