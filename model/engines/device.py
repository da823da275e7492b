"""What a network runs on and in which arithmetic: a config's words, as torch's device and dtype. Ours."""

from __future__ import annotations

from typing import get_args

import torch

from model.config import Precision
from model.errors import EngineError

__all__ = ["PRECISIONS", "choose_device", "choose_dtype", "cpu_has_bf16"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose_device(name: str) -> torch.device:
    """cpu, cuda, cuda:N, or auto: a GPU where there is one.

    Raises EngineError for a device that this machine does not have, ValueError for no device at all.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EngineError(f"device {name!r}: {_no_such_gpu(count)}")
    return device


def _no_such_gpu(count: int) -> str:
    """Why a GPU is not available, and what can be done."""
    if count:
        there = ", ".join(f"cuda:{index}" for index in range(count))
        return f"torch sees {count} GPUs here: use {there}" if count > 1 else "torch sees one GPU: use cuda:0"
    if torch.version.cuda is None:
        return "torch sees 0 GPUs, it is built without CUDA: use device 'cpu', or install torch with CUDA"
    return (
        f"torch sees 0 GPUs: it is built for CUDA {torch.version.cuda}, so the driver may be missing or too "
        "old (nvidia-smi tells its CUDA version); use device 'cpu', or install a torch for that version"
    )


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself, and torch and oneDNN may use that (their own environment
    variables, ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA, limit them)."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.cpu._is_avx512_bf16_supported()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """fp32, bf16, fp16, or auto: bf16 on a GPU and on a CPU that has its arithmetic, else fp32.

    Raises EngineError for a precision that the device has no arithmetic for, ValueError for none.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" or cpu_has_bf16() else "fp32"
    if device.type == "cpu" and precision == "fp16":
        raise EngineError("precision 'fp16' is for GPUs; a CPU runs fp32")
    if device.type == "cpu" and precision == "bf16" and not cpu_has_bf16():
        raise EngineError(
            "precision 'bf16': this CPU has no bf16 arithmetic and would take ten times as long; use fp32"
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
