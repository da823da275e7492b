"""TensorRT where there is none: what is missing is said once, and what would be called has those names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.small_models import live_model, small_config

from model.engines.halves import DecodeHalf, HalvesSpec, example_inputs, prepared
from model.engines.inductor import export_half
from model.engines.tensorrt import SETTINGS, build_engines, count_attention, versions
from model.errors import EngineError

ROOT = Path(__file__).parents[3]
SPEC = HalvesSpec(height=64, width=96, num_frames=2, num_kept=4, with_cues=False)
INSTALLED = find_spec("torch_tensorrt") is not None

ATTEMPT = (
    "from pathlib import Path\n"
    "from model.errors import EngineError\n"
    "from model.engines.tensorrt import load_engines\n"
    "for _ in range(2):\n"
    "    try:\n"
    "        load_engines(Path('nowhere'))\n"
    "    except EngineError as exc:\n"
    "        print(exc)\n"
)


def attempt(*, before: str = "") -> list[str]:
    """What a fresh process says, line by line, that loads engines twice."""
    done = subprocess.run(
        [sys.executable, "-c", before + ATTEMPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.splitlines()


def test_without_the_package_the_error_names_it_and_the_remedy() -> None:
    said = attempt(before="import sys\nsys.modules['torch_tensorrt'] = None\n")
    assert len(said) == 2
    assert said[0] == said[1]
    for words in (
        "engine 'tensorrt' is not available",
        "torch_tensorrt cannot be imported",
        "pip install 'mssts-stream[tensorrt]'",
        "NVIDIA's package index",
        "docs/runtime.md",
        "model.engine=eager",
    ):
        assert words in said[0]


def test_a_package_without_its_libraries_is_the_same_error_and_prints_nothing(tmp_path: Path) -> None:
    """The package prints and raises a bare Exception then, once; a second import finds it half there."""
    package = tmp_path / "torch_tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text(
        "print('make sure tensorrt lib is in the LD_LIBRARY_PATH: None')\n"
        "raise Exception('got error Could not find libnvinfer.so.11\\n  Search paths: []')\n"
    )
    said = attempt(before=f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n")
    assert len(said) == 2
    assert said[0] == said[1]
    assert "Exception: got error Could not find libnvinfer.so.11; pip install" in said[0]


def test_importing_the_module_asks_for_nothing() -> None:
    code = (
        "import sys, model.engines.tensorrt; "
        "print('torch_tensorrt' in sys.modules, 'tensorrt' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.split() == ["False", "False"]


def test_a_network_that_is_not_on_a_gpu_is_refused(tmp_path: Path) -> None:
    network = prepared(live_model(small_config(encoder_layers=1, num_frames=2)))
    with pytest.raises(EngineError, match=r"needs an NVIDIA GPU, the network is on cpu; model\.engine=eager"):
        build_engines(network, SPEC, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_check_says_what_is_missing_and_ends_with_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "benchmarks" / "trt_check.py"), "--output", str(tmp_path)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("trt-check: no NVIDIA GPU")
    assert not list(tmp_path.iterdir())


def test_attention_goes_to_tensorrt_as_the_operator_and_survives_decomposition() -> None:
    """torch_tensorrt decomposes a program before it partitions it; what it meets then is counted here."""
    network = prepared(live_model(small_config(encoder_layers=1, num_frames=2, num_levels=3, num_points=2)))
    _, window = example_inputs(network, SPEC)
    program = export_half(DecodeHalf(network, SPEC), window)
    before = count_attention(program.graph_module)
    assert before == sum("vis.deform_attn" in str(node.target) for node in program.graph.nodes) > 0
    assert count_attention(program.run_decompositions().graph_module) == before
    assert "float64" not in {
        str(value.dtype).removeprefix("torch.")
        for node in program.graph.nodes
        if isinstance(value := node.meta.get("val"), torch.Tensor)
    }


def test_a_graph_that_samples_a_grid_is_refused() -> None:
    class Sampler(torch.nn.Module):
        def forward(self, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.grid_sample(image, grid, align_corners=False)

    program = torch.export.export(Sampler(), (torch.rand(1, 1, 4, 4), torch.rand(1, 2, 2, 2)))
    with pytest.raises(EngineError, match=r"grid_sampl.*attention must stay"):
        count_attention(program.graph_module)


def test_versions_need_no_import_and_say_what_is_not_there() -> None:
    found = versions()
    assert set(found) == {"torch_tensorrt", "tensorrt"}
    assert bool(found["torch_tensorrt"]) == INSTALLED


if INSTALLED:  # CI has it not, and there no test may skip

    @pytest.mark.parametrize(
        ("file", "function", "names"),
        [
            (
                "dynamo/_compiler.py",
                "compile",
                {*SETTINGS, "arg_inputs", "timing_cache_path", "torch_executed_ops"},
            ),
            ("_compile.py", "save", {"output_format", "arg_inputs"}),
            (
                "dynamo/conversion/plugins/_generate_plugin_converter.py",
                "generate_plugin_converter",
                {"plugin_id", "supports_dynamic_shapes"},
            ),
        ],
    )
    def test_torch_tensorrt_has_the_options_that_are_given(file: str, function: str, names: set[str]) -> None:
        """Read from its source, which needs no TensorRT library."""
        spec = find_spec("torch_tensorrt")
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        (found,) = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert names <= {argument.arg for argument in found.args.args + found.args.kwonlyargs}
