"""The two halves as TensorRT engines, by torch_tensorrt: built on the GPU that runs them, kept on disk.

The only importer of torch_tensorrt, which needs libraries that come from NVIDIA's own package index. The
network comes cast (`Network.to_precision`): TensorRT is strongly typed and keeps each operation's type, so
what must stay float32 does. Deformable attention is a plugin (`ops.tensorrt_plugin`) where versions allow it;
else it runs in PyTorch between engines. It never becomes grid_sample, which several releases compute wrongly
(NVIDIA/TensorRT#4813, #4646). Same shape as `model.engines.inductor`. Never run on a GPU yet
(docs/gpu-pending.md).
"""

from __future__ import annotations

import contextlib
import io
import logging
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ops.deform_attn  # noqa: F401  (registers vis::deform_attn, which programs call by name)
from model.engines.halves import DecodeHalf, EncodeHalf, Half, HalvesSpec, example_inputs
from model.engines.inductor import DECODE, ENCODE, export_half
from model.errors import EngineError
from model.network import Network
from ops import tensorrt_plugin

__all__ = [
    "SETTINGS",
    "build_engines",
    "count_attention",
    "import_torch_tensorrt",
    "load_engines",
    "versions",
]

logger = logging.getLogger(__name__)


SETTINGS: dict[str, Any] = {
    "disable_tf32": True,
    "cache_built_engines": False,
    "reuse_cached_engines": False,
}
"""Of `torch_tensorrt.dynamo.compile`: what is float32 is computed so; engines are cached by us alone."""

_PLUGIN_SINCE = (2, 13)
"""torch_tensorrt passes single ints to plugins as arrays since then, which TensorRT's plugins need."""

_REMEDY = (
    "pip install 'mssts-stream[tensorrt]'; TensorRT's own libraries come from NVIDIA's package index, see "
    "docs/runtime.md, TensorRT; model.engine=eager runs without"
)


def build_engines(network: Network, spec: HalvesSpec, folder: Path, *, plugin: bool = True) -> None:
    """Compile both halves of a `prepared` network on a GPU into `folder`; takes minutes.

    plugin=False leaves attention to PyTorch even where it could be in the engines.

    Raises EngineError where the network is not on a GPU, torch_tensorrt cannot be imported, or attention was
    changed on the way; torch_tensorrt's own errors where it fails.
    """
    device = next(network.parameters()).device
    if device.type != "cuda":
        raise EngineError(
            f"engine 'tensorrt' is not available: it needs an NVIDIA GPU, the network is on {device}; "
            "model.engine=eager runs without"
        )
    torch_tensorrt = import_torch_tensorrt()
    with_plugin = plugin and _has_plugin(torch_tensorrt)
    frame, window = example_inputs(network, spec)
    for name, half, example in (
        (ENCODE, EncodeHalf(network), frame),
        (DECODE, DecodeHalf(network, spec), window),
    ):
        program = export_half(half, example)
        wanted = count_attention(program.graph_module)
        settings = {**SETTINGS, "timing_cache_path": str(folder / "timing.bin")}
        if not with_plugin:
            settings["torch_executed_ops"] = {torch.ops.vis.deform_attn.default}
        module = torch_tensorrt.dynamo.compile(program, arg_inputs=list(example), **settings)
        _check(name, module, wanted=wanted, with_plugin=with_plugin)
        torch_tensorrt.save(
            module, str(folder / name), output_format="exported_program", arg_inputs=list(example)
        )


def load_engines(folder: Path) -> tuple[Half, Half]:
    """Both halves of a folder that `build_engines` filled.

    Raises EngineError where torch_tensorrt cannot be imported, torch's own errors for a bad file.
    """
    import_torch_tensorrt()  # its operators run the engines
    return _load(folder / ENCODE), _load(folder / DECODE)


def versions() -> dict[str, str]:
    """What an engine depends on besides `engine_cache.engine_key`; "" for what is not installed. No
    import."""
    found = {}
    for name in ("torch_tensorrt", "tensorrt"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def import_torch_tensorrt() -> Any:
    """The module. Raises EngineError with cause and remedy where it or TensorRT's libraries are missing."""
    module, cause = _import()
    if module is None:
        raise EngineError(f"engine 'tensorrt' is not available: {cause}; {_REMEDY}")
    return module


@lru_cache(maxsize=1)  # a second attempt at a half-imported package fails differently
def _import() -> tuple[Any, str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # it prints why it fails, then raises a bare Exception
            import torch_tensorrt
    except Exception as exc:
        lines = str(exc).strip().splitlines() or [""]
        return None, f"torch_tensorrt cannot be imported: {type(exc).__name__}: {lines[0]}"
    finally:
        logger.debug("torch_tensorrt said: %s", said.getvalue().strip())
    return torch_tensorrt, ""


@lru_cache(maxsize=1)
def _has_plugin(torch_tensorrt: Any) -> bool:
    """Whether attention can be a plugin; registered with both then. Says why not, once."""
    version = tuple(int(part) for part in torch_tensorrt.__version__.split(".")[:2])
    if version < _PLUGIN_SINCE or not torch_tensorrt.ENABLED_FEATURES.qdp_plugin:
        reason: str | None = f"torch_tensorrt {torch_tensorrt.__version__} has no such plugins here"
    else:
        reason = tensorrt_plugin.why_not()
    if reason is None:
        # Imported before ours is registered: it mends TensorRT's checks of annotations for Python 3.13.
        from torch_tensorrt.dynamo.conversion.plugins import generate_plugin_converter

        try:
            tensorrt_plugin.register()
            generate_plugin_converter(tensorrt_plugin.PLUGIN, supports_dynamic_shapes=False)
        except Exception as exc:  # experimental interfaces of two packages
            reason = f"the plugin was refused: {type(exc).__name__}: {exc}"
        else:
            return True
    logger.info("attention runs in PyTorch between the engines: %s", reason)
    return False


def count_attention(module: torch.nn.Module) -> int:
    """How many nodes of all graphs in a module are `vis::deform_attn`.

    Raises EngineError where one samples a grid instead.
    """
    count = 0
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in part.graph.nodes:
            if node.op != "call_function":
                continue
            if "grid_sampl" in str(node.target):
                raise EngineError(
                    f"{node.target} in a graph for TensorRT: attention must stay vis::deform_attn"
                )
            count += node.target == torch.ops.vis.deform_attn.default
    return count


def _check(name: str, module: torch.nn.Module, *, wanted: int, with_plugin: bool) -> None:
    """Raises EngineError where attention is neither in the engines as a plugin nor left in PyTorch."""
    left = count_attention(module)
    if with_plugin:
        logger.info("%s: %d of %d attention operators run in PyTorch", name, left, wanted)
    elif left != wanted:
        raise EngineError(
            f"engine 'tensorrt' is not available: of {wanted} attention operators of {name} {left} were left"
        )


def _load(path: Path) -> Half:
    module = torch.export.load(path).module()

    def half(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(*(tensor.contiguous() for tensor in tensors)))

    return half
