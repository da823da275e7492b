"""Exported programs: reloaded they equal eager, say what they are, and are refused where they are no good."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.small_models import live_model, small_config

from model.__main__ import main
from model.checkpoint.weights_file import save_weights
from model.engines.export import FORMAT_VERSION, export_network, load_exported
from model.engines.halves import DecodeHalf, EncodeHalf, HalvesSpec, example_inputs, prepared
from model.errors import EngineError
from model.network import Network

ROOT = Path(__file__).parents[3]
SPEC = HalvesSpec(height=64, width=96, num_frames=2, num_kept=4, with_cues=True, outputs=(0, 3))


@pytest.fixture(scope="module")
def network() -> Network:
    return live_model(
        small_config(
            encoder_layers=1,
            num_frames=2,
            num_levels=3,
            num_points=2,
            cues=["background"],
            class_list="ovis",
        )
    )


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command, as a user does."""
    root = tmp_path_factory.mktemp("export")
    weights = root / "small.safetensors"
    save_weights(network, weights, name="small", trained=False)
    options = ["--num-kept", "4", "--classes", "dog", "person"]
    assert main(["export", "--weights", str(weights), *options, "--output", str(root / "out")]) == 0
    return root / "out"


@torch.inference_mode()
def test_reloaded_programs_equal_eager(network: Network, folder: Path) -> None:
    exported = load_exported(folder)
    assert exported.spec == SPEC
    assert exported.config == network.config
    assert exported.dtype == torch.float32
    ready = prepared(network)
    encode, decode = EncodeHalf(ready), DecodeHalf(ready, SPEC)
    for seed in range(3):  # the graphs were traced on seed 0
        frame, window = example_inputs(ready, SPEC, seed=seed)
        for ours, theirs in zip(exported.encode(*frame), encode(*frame), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        results, wanted = exported.decode(*window), decode(*window)
        assert torch.equal(results[-1], wanted[-1])
        for ours, theirs in zip(results[:-1], wanted[:-1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_description_names_inputs_and_outputs_with_their_shapes(network: Network, folder: Path) -> None:
    description = json.loads((folder / "export.json").read_text())
    ready = prepared(network)
    frame, window = example_inputs(ready, SPEC)
    encode, decode = description["stages"]["encode"], description["stages"]["decode"]
    assert [entry["name"] for entry in encode["inputs"]] == ["images", "cues"]
    assert [entry["shape"] for entry in encode["inputs"]] == [list(tensor.shape) for tensor in frame]
    assert [entry["name"] for entry in decode["inputs"]] == [entry["name"] for entry in encode["outputs"]]
    assert [entry["shape"] for entry in decode["inputs"]] == [list(tensor.shape) for tensor in window]
    answers = {entry["name"]: entry for entry in decode["outputs"]}
    assert answers["mask_logits"]["shape"] == [1, 4, 2, 16, 24]
    assert answers["kept"] == {"name": "kept", "shape": [1, 4], "dtype": "int64"}
    assert description["operators"] == ["vis::deform_attn"]


def test_attention_stays_one_operator_in_the_graph(folder: Path) -> None:
    program = torch.export.load(folder / "decode.pt2")
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("vis.deform_attn" in target for target in targets) == 2  # of the decoder's layers
    assert not [target for target in targets if "grid_sample" in target or "embedding_bag" in target]


def test_heads_that_leave_autocast_leave_nothing_of_it_in_the_graphs(folder: Path) -> None:
    for half in ("encode.pt2", "decode.pt2"):
        program = torch.export.load(folder / half)
        nodes = [node for module in program.graph_module.modules() for node in module.graph.nodes]
        assert not [node.name for node in nodes if "autocast" in str(node.target)]
        assert {node.op for node in nodes} <= {"placeholder", "call_function", "output"}


def test_a_fresh_process_loads_what_another_wrote(folder: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from model.engines.export import load_exported\n"
        "exported = load_exported(Path(sys.argv[1]))\n"
        "tokens = exported.encode(torch.zeros(1, 3, 64, 96), torch.zeros(1, 1, 64, 96))[0]\n"
        "print(tokens.shape[0], bool(tokens.isfinite().all()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["1", "True"], done.stderr


def test_a_half_network_says_its_dtype(network: Network, tmp_path: Path) -> None:
    half = prepared(network).to_precision(torch.bfloat16)
    exported = load_exported(export_network(half, SPEC, tmp_path))
    assert exported.dtype == torch.bfloat16
    frame, _ = example_inputs(half, SPEC)
    assert frame[0].dtype == torch.bfloat16
    wanted = EncodeHalf(half)(*frame)[0]
    torch.testing.assert_close(exported.encode(*frame)[0], wanted, rtol=0.05, atol=0.05)


def test_a_folder_that_is_none_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"nowhere.*export\.json is not there.*python -m model export"):
        load_exported(tmp_path / "nowhere")


def copy_with(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    path = target / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    other = copy_with(folder, tmp_path / "other", version=FORMAT_VERSION + 1)
    with pytest.raises(EngineError, match=r"version 2, this program reads version 1; export again"):
        load_exported(other)


def test_a_damaged_program_is_named_with_the_torch_that_wrote_it(folder: Path, tmp_path: Path) -> None:
    damaged = copy_with(folder, tmp_path / "damaged", torch="9.9.9")
    program = damaged / "decode.pt2"
    program.write_bytes(program.read_bytes()[:1000])
    with pytest.raises(EngineError, match=r"decode\.pt2' cannot be loaded.*torch 9\.9\.9"):
        load_exported(damaged)


def test_a_damaged_description_is_named(folder: Path, tmp_path: Path) -> None:
    damaged = copy_with(folder, tmp_path / "damaged")
    (damaged / "export.json").write_text("{")
    with pytest.raises(EngineError, match=r"export\.json' cannot be read"):
        load_exported(damaged)


def test_the_command_ends_with_1_where_it_cannot_write(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, taken = tmp_path / "small.safetensors", tmp_path / "taken"
    save_weights(network, weights, name="small", trained=False)
    taken.write_text("a file")
    assert main(["export", "--weights", str(weights), "--output", str(taken)]) == 1
    assert "taken" in capsys.readouterr().err
