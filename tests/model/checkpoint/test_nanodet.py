"""The reader of NanoDet-g, on files of its graph's form with random weights, and on files that go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.__main__ import main
from model.checkpoint.nanodet import load_detector, read_nanodet, save_detector
from model.checkpoint.weights_file import load_weights, shipped_weights, weights_path
from model.config import FORMER_WEIGHTS
from model.errors import CheckpointError
from model.layers.csp import CspTrunk, Detector
from ops.preprocess import fit_size, normalise_content

REFERENCE = Path(__file__).parents[2] / "reference" / "csp_detector" / "ref_96x160.npz"
"""What the package's graph computes (tests/reference/README.md)."""


def random_parts() -> tuple[CspTrunk, Detector]:
    torch.manual_seed(3)
    trunk, detector = CspTrunk(), Detector()
    with torch.no_grad():
        for part in (trunk, detector):
            for parameter in part.parameters():
                parameter.copy_(parameter.half())
    return trunk.eval(), detector.eval()


def in_graph_order(trunk: CspTrunk, detector: Detector) -> list[torch.nn.Conv2d]:
    """Stem, stages, the neck's three, then two a head."""
    found: list[torch.nn.Conv2d] = [trunk.stem]
    for stage in trunk.stages:
        found.append(stage.enter)
        for pair in zip(stage.first, stage.second, strict=True):
            found.extend(pair)
        found.append(stage.leave)
    return [
        *found,
        *detector.neck.reduce,
        *(conv for head in detector.heads for conv in (head.conv, head.predict)),
    ]


def write_graph(folder: Path, trunk: CspTrunk, detector: Detector) -> Path:
    """The two files as a converter to TensorFlow.js writes them: half precision, HWIO, bias in an Add."""
    nodes: list[dict[str, Any]] = [{"name": "input_1", "op": "Placeholder", "input": []}]
    weights: list[dict[str, Any]] = [{"name": "axis", "shape": [3], "dtype": "int32"}]
    content = np.arange(3, dtype=np.int32).tobytes()
    for number, conv in enumerate(in_graph_order(trunk, detector)):
        kernel = conv.weight.detach()
        kernel = (kernel.flip(1) if number == 0 else kernel).permute(2, 3, 1, 0)
        assert conv.bias is not None
        for name, tensor in ((f"kernel_{number}", kernel), (f"bias_{number}", conv.bias.detach())):
            values = tensor.numpy().astype(np.float16)
            weights.append(
                {
                    "name": name,
                    "shape": list(values.shape),
                    "dtype": "float32",
                    "quantization": {"dtype": "float16", "original_dtype": "float32"},
                }
            )
            content += np.ascontiguousarray(values).tobytes()
        name = "PartitionedCall/convolution" + (f"_{number}" if number else "")
        nodes.append({"name": name, "op": "Conv2D", "input": ["before", f"kernel_{number}"]})
        nodes.append({"name": f"{name}/add", "op": "Add", "input": [name, f"bias_{number}"]})
    graph = {
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["nanodet.bin"], "weights": weights}],
    }
    (folder / "nanodet.json").write_text(json.dumps(graph), encoding="utf-8")
    (folder / "nanodet.bin").write_bytes(content)
    return folder / "nanodet.json"


def test_every_convolution_is_read_into_its_place(tmp_path: Path) -> None:
    trunk, detector = random_parts()
    path = write_graph(tmp_path, trunk, detector)
    for given in (path, tmp_path):
        found = read_nanodet(given, check=False)
        for part, read in zip((trunk, detector), found, strict=True):
            wanted = part.state_dict()
            assert wanted.keys() == read.state_dict().keys()
            assert all(torch.equal(value, wanted[key]) for key, value in read.state_dict().items())


def test_a_saved_detector_comes_back(tmp_path: Path) -> None:
    trunk, detector = random_parts()
    save_detector(trunk, detector, tmp_path / "detector.safetensors")
    back, heads = load_detector(tmp_path / "detector.safetensors")
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        _, ours = detector(*trunk(images)[1:])
        _, theirs = heads(*back(images)[1:])
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    assert ours.logits.shape == (1, 8 * 12 + 4 * 6 + 2 * 3, 80)


def test_files_that_go_wrong_say_which_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"nanodet\.json: No such file.*human-models 3\.0\.4"):
        read_nanodet(tmp_path)
    trunk, detector = random_parts()
    path = write_graph(tmp_path, trunk, detector)
    with pytest.raises(CheckpointError, match=r"another version, or cut short.*expected sha256 4495eb0e"):
        read_nanodet(path)
    binary = (tmp_path / "nanodet.bin").read_bytes()
    (tmp_path / "nanodet.bin").write_bytes(binary[:-100])
    with pytest.raises(CheckpointError, match=r"nanodet\.bin ends within bias_33"):
        read_nanodet(path, check=False)
    (tmp_path / "nanodet.bin").write_bytes(binary)
    graph = json.loads(path.read_text(encoding="utf-8"))
    graph["modelTopology"]["node"] = graph["modelTopology"]["node"][:-2]
    path.write_text(json.dumps(graph), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has no convolution 33 with a bias"):
        read_nanodet(path, check=False)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is no TensorFlow\.js graph model"):
        read_nanodet(path, check=False)
    assert main(["import-detector", str(tmp_path), str(tmp_path / "out.safetensors")]) == 1
    assert "nanodet.json" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="import-detector"):
        load_detector(other)


def test_the_shipped_detector_meets_the_published_graph() -> None:
    """The default weights hold NanoDet-g unchanged: half precision, as the package has it."""
    network = load_weights(shipped_weights())
    assert network.detector is not None
    _, alone = load_detector(shipped_weights())
    for key, value in alone.state_dict().items():
        assert torch.equal(value, network.detector.state_dict()[key])
    with pytest.raises(CheckpointError, match="import-detector"):
        load_detector(weights_path(FORMER_WEIGHTS))
    assert network.metadata["detector"].startswith("NanoDet-g (RangiLyu/nanodet, Apache-2.0)")
    assert "MIT" in network.metadata["detector_package"]
    with np.load(REFERENCE) as reference:
        images = torch.from_numpy(reference["input"]).flip(1)  # BGR → RGB
        with torch.inference_mode():
            maps = network.backbone(images)
            levels = network.detector.neck(*maps[1:])
            for x, stride in zip(maps, (4, 8, 16, 32), strict=True):
                assert_close(x.mean(dim=(0, 2, 3)), reference[f"trunk_s{stride}_mean"])
            for x, head, stride in zip(levels, network.detector.heads, (8, 16, 32), strict=True):
                assert_close(head(x)[0], reference[f"head_s{stride}"])


def test_a_picture_s_normalisation_is_the_detector_s() -> None:
    with np.load(REFERENCE) as reference:
        rgb = np.ascontiguousarray(reference["image_bgr"][..., ::-1])
        fit = fit_size(96, 160, height=96, width=160)
        assert torch.allclose(
            normalise_content(rgb, fit)[None], torch.from_numpy(reference["input"]).flip(1), atol=1e-2
        )


def assert_close(found: torch.Tensor, wanted: Any) -> None:
    assert (found - torch.from_numpy(wanted)).abs().max() < 1e-4
