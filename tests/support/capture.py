"""Whether a half can be captured into a CUDA graph, seen without a GPU: it is traced with fake CUDA tensors.

A capture holds what runs on the device. What breaks it is a tensor on the host that takes part in an
operation (a constant made in the call, a copy to or from the device) and a value or a size that the host has
to read.
"""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import ModelConfig
from model.engines.halves import DecodeHalf, EncodeHalf, HalvesSpec, prepared
from model.network import Network
from ops.files import cache_folder
from ops.library import build_library

ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda", 0)


@contextmanager
def fake_cuda(mode: FakeTensorMode | None = None) -> Iterator[None]:
    """Tensors made within are fake; those on DEVICE act as on a GPU. What reads a value is torch's error.

    Tensors can be used again in another context with the same `mode`.
    """
    if not torch.backends.cuda.is_built():
        _cuda_guard()
    with mode or FakeTensorMode(), torch.no_grad():
        yield


@lru_cache(maxsize=1)
def _cuda_guard() -> ctypes.CDLL:
    """Registers the guard for as long as the process runs."""
    root = Path(torch.__file__).parent
    # The version is in the library's name through the flags: another torch has another interface.
    flags = ["-std=c++20", "-O1", "-fPIC", f"-DTORCH_VERSION_USED={torch.__version__}"]
    flags += ["-isystem", str(root / "include")]
    link_flags = [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-lc10"]
    source = Path(__file__).parent / "cuda_guard.cpp"
    return ctypes.CDLL(str(build_library(source, cache_folder(), flags=flags, link_flags=link_flags)))


class HostOperations(TorchDispatchMode):
    """Notes operations in which a tensor on the host takes part, with the line of ours that asks for each."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.num_operations += 1
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(f"{func} at {_line_of_ours()}")
        return result


def _line_of_ours() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path != Path(__file__) and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "torch"


def host_operations(call: Callable[[], object]) -> list[str]:
    """What touches the host in the second call of two: constants are there then, and kernels are chosen."""
    call()
    with HostOperations() as operations:
        call()
    assert operations.num_operations
    return operations.found


def fake_network(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Network:
    """A network as engines capture it, without values; within `fake_cuda`."""
    with unset_fake_temporarily(), torch.device("meta"):
        network = Network(config)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ready = prepared(network)
        if dtype != torch.float32:
            ready.to_precision(dtype)
    for module in ready.modules():
        for name, value in module.named_parameters(recurse=False):
            empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
        assert not list(module.buffers(recurse=False)), "norms are folded"
    return ready


def encode_call(network: Network, *, num_frames: int, with_cues: bool) -> Callable[[], tuple[Tensor, ...]]:
    """The first half on `num_frames` frames of the config's size; within `fake_cuda`."""
    config, half = network.config, EncodeHalf(network)
    dtype = network.level_embed.dtype
    planes = [3, config.num_cue_planes] if with_cues else [3]
    shapes = [(num_frames, channels, config.height, config.width) for channels in planes]
    inputs = [torch.empty(shape, dtype=dtype, device=DEVICE) for shape in shapes]
    return lambda: half(*inputs)


def decode_call(network: Network, *, num_frames: int, num_windows: int) -> Callable[[], tuple[Tensor, ...]]:
    """The second half on windows of `num_frames` frames, 20 queries kept; within `fake_cuda`."""
    config = network.config
    spec = HalvesSpec(
        height=config.height,
        width=config.width,
        num_frames=num_frames,
        num_kept=20,
        with_cues=False,
        num_windows=num_windows,
    )
    features = encode_call(network, num_frames=num_frames * num_windows, with_cues=False)()
    half = DecodeHalf(network, spec)
    return lambda: half(*features)
