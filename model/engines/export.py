"""The two halves as torch.export programs on disk, for a runtime of one's own (ExecuTorch, TensorRT, C++).

    encode.pt2, decode.pt2   graphs of aten operators and ours (`vis::`), weights within, static shapes
    export.json              what they are: spec, config, dtype, names and shapes of inputs and outputs

Norms are folded, as in every engine. Source: torch.export; the description next to it is ours.

Dimensions: B windows, T frames, P positions of all levels, C width, Q queries, R cue planes, H × W pixels.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ops.box_masks
import ops.deform_attn  # noqa: F401  (with box_masks: the operators that programs call by name)
from model.config import ModelConfig
from model.engines.halves import DecodeHalf, EncodeHalf, Half, HalvesSpec, example_inputs, prepared
from model.engines.inductor import export_half
from model.errors import EngineError
from model.network import Network

__all__ = ["FORMAT_VERSION", "Exported", "export_network", "load_exported"]

FORMAT_VERSION = 1
"""Of the folder and its description; a reader refuses every other."""

DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Exported:
    """Both halves, reloaded; called like `EncodeHalf` and `DecodeHalf`."""

    encode: Half
    decode: Half
    spec: HalvesSpec
    config: ModelConfig
    dtype: torch.dtype
    """Of the images that the first half takes."""
    description: dict[str, Any]
    """All of export.json."""


def export_network(network: Network, spec: HalvesSpec, folder: Path) -> Path:
    """Write both halves of a network for the spec's shapes into a folder, made if need be; return it.

    Programs run on the device that the network is on. Files of an earlier export there are replaced.

    Raises OSError where the folder cannot be written, ValueError for shapes that the network does not take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready = prepared(network)
    frame, window = example_inputs(ready, spec)
    features = _feature_names(ready)
    encode = _write(folder / "encode.pt2", EncodeHalf(ready), frame, ["images", "cues"], features)
    operators = ["vis::deform_attn"]
    if frame[0].device.type == "cpu" and ready.config.mask_coordinates == "box":
        operators.append("vis::box_masks")
    answers = ["logits", "boxes", "mask_logits", "query_embeddings", "kept"]
    decode = _write(folder / "decode.pt2", DecodeHalf(ready, spec), window, features, answers)
    description = {
        "version": FORMAT_VERSION,
        "torch": torch.__version__,
        "operators": operators,
        "device": frame[0].device.type,
        "dtype": _name(frame[0].dtype),
        "spec": asdict(spec),
        "config": ready.config.to_dict(),
        "stages": {"encode": encode, "decode": decode},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


def load_exported(folder: Path) -> Exported:
    """Both halves of a folder that `export_network` filled.

    Raises EngineError for a missing folder or file, another version of the format, or a damaged program.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["version"]
    except FileNotFoundError as exc:
        raise EngineError(
            f"{str(folder)!r} is no exported network: {DESCRIPTION} is not there; write one by "
            f"python -m model export --output {folder}"
        ) from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EngineError(f"{str(path)!r} cannot be read: {type(exc).__name__}: {exc}; export again") from exc
    if version != FORMAT_VERSION:
        raise EngineError(
            f"{str(path)!r} is of version {version}, this program reads version {FORMAT_VERSION}; "
            "export again"
        )
    halves = description["stages"]
    return Exported(
        encode=_read(folder / halves["encode"]["file"], description),
        decode=_read(folder / halves["decode"]["file"], description),
        spec=_spec(description["spec"]),
        config=ModelConfig.from_dict(description["config"]),
        dtype=getattr(torch, description["dtype"]),
        description=description,
    )


def _spec(values: dict[str, Any]) -> HalvesSpec:
    """The spec of its JSON, which knows no tuples."""
    outputs = values.get("outputs")
    return HalvesSpec(**{**values, "outputs": None if outputs is None else tuple(outputs)})


def _feature_names(network: Network) -> list[str]:
    """Of the tensors of `halves.present`, in its order."""
    names = ["tokens"]
    names += ["narrow"] if network.config.variant != "baseline" else []
    names += ["c2"] if network.config.mask_source != "level1" else []
    return names + (["proposals"] if network.detector is not None else [])


def _write(
    path: Path,
    half: EncodeHalf | DecodeHalf,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
) -> dict[str, Any]:
    """Export a half to a file; what the description says of it. Names past those that there are stay out."""
    program = export_half(half, example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own: of a shared table it writes the whole
        torch.export.save(program, path)
        results = half(*example)
    return {
        "file": path.name,
        "inputs": [_entry(*pair) for pair in zip(inputs, example, strict=False)],
        "outputs": [_entry(*pair) for pair in zip(outputs, results, strict=True)],
    }


def _entry(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(tensor.shape), "dtype": _name(tensor.dtype)}


def _read(path: Path, description: dict[str, Any]) -> Half:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            program = torch.export.load(path)
    except Exception as exc:  # torch's reader has no error of its own
        cause = (str(exc).strip().splitlines() or [""])[0]
        raise EngineError(
            f"{str(path)!r} cannot be loaded: {type(exc).__name__}: {cause}; it was written by torch "
            f"{description.get('torch')}, this is torch {torch.__version__}; export again"
        ) from exc
    module = program.module()

    def half(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(*tensors))

    return half


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
