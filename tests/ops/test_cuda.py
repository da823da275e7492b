"""CUDA dispatch where there is no CuPy: said once, and the portable form gives the result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops import deform_attn

ROOT = Path(__file__).parents[2]


def run_without_cupy(code: str) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter that cannot import CuPy, whether it is installed or not."""
    return subprocess.run(
        [sys.executable, "-c", "import sys\nsys.modules['cupy'] = None\n" + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )


def test_without_cupy_the_portable_form_runs_and_the_remedy_is_said_once() -> None:
    done = run_without_cupy(
        "import logging, torch\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from ops.cuda import deform_attn_backward_cuda, deform_attn_cuda, kernels\n"
        "from ops.arguments import DeformAttnArguments\n"
        "from ops.bag import deform_attn_backward_bag, deform_attn_bag\n"
        "tensors = torch.randn(1, 20, 2, 4), torch.randn(1, 3, 24), torch.rand(1, 3, 2)\n"
        "inputs = DeformAttnArguments(*tensors, 4, 4, 2, 2)\n"
        "grad = torch.randn(1, 3, 8)\n"
        "assert kernels() is None\n"
        "assert torch.equal(deform_attn_cuda(inputs), deform_attn_bag(inputs))\n"
        "pairs = zip(deform_attn_backward_cuda(grad, inputs), deform_attn_backward_bag(grad, inputs))\n"
        "assert all(torch.equal(ours, theirs) for ours, theirs in pairs)\n"
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING:ops.cuda:no CUDA kernels, the portable forms run: CuPy is")
    assert "pip install 'mssts-stream[cu12]'" in line
    assert "'mssts-stream[cu13]'" in line


def test_nothing_on_the_cpu_asks_for_cupy() -> None:
    done = run_without_cupy(
        "import logging, torch\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from ops import deform_attn\n"
        "value = torch.randn(1, 20, 2, 4, requires_grad=True)\n"
        "deform_attn(value, torch.randn(1, 3, 24), torch.rand(1, 3, 2), 4, 4, 2, 2).sum().backward()\n"
        "from ops.device_masks import crop_masks_on\n"
        "from ops.device_preprocess import preprocess_cuda\n"
        "from ops.preprocess import fit_size\n"
        "fit = fit_size(8, 8, height=8, width=8)\n"
        "crop = crop_masks_on(torch.device('cpu'))\n"
        "assert crop(torch.ones(1, 2, 2).numpy(), torch.rand(1, 4).numpy(), fit=fit)[0].area\n"
        "planes = [torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(4, 4, 2, dtype=torch.uint8)]\n"
        "assert preprocess_cuda(planes, matrix='bt709', full_range=False, height=8, width=8) is None\n"
    )
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["deform_attn", "deform_attn_backward"])
def test_cuda_has_an_implementation_of_its_own(name: str) -> None:
    assert callable(deform_attn)  # defines the operator
    for key in ("CUDA", "CompositeExplicitAutograd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vis::{name}", key)
