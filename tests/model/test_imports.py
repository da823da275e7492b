"""What importing `model` loads, and what it exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import model

ROOT = Path(__file__).parents[2]


def loaded_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_network_needs_neither_config_nor_file_nor_video_packages() -> None:
    loaded = loaded_after(
        "from model import ModelConfig, build_model, load_weights; import model.postprocess\n"
        "build_model(ModelConfig(backbone_width=0.125), seed=0)"
    )
    assert "torch" in loaded
    assert loaded.isdisjoint(
        {"pydantic", "yaml", "safetensors", "pycocotools", "av", "zmq", "msgpack", "pipeline"}
    )


def test_the_config_needs_nothing() -> None:
    loaded = loaded_after("from model import ModelConfig; ModelConfig()")
    assert loaded.isdisjoint({"torch", "numpy", "cv2", "scipy"})


def test_exports() -> None:
    assert model.__all__ == [
        "FrameFeatures",
        "ModelConfig",
        "Network",
        "Output",
        "build_model",
        "load_weights",
    ]
    assert all(getattr(model, name).__name__ == name for name in model.__all__)
    with pytest.raises(AttributeError, match="build_network"):
        _ = model.build_network


def test_paths_that_documentation_names_stay() -> None:
    from model.checkpoint import load_seqformer, load_weights, save_weights
    from model.export import load_exported
    from model.runtime import Runtime

    assert Runtime.__module__ == "model.engines.runtime"
    assert load_exported.__module__ == "model.engines.export"
    assert {each.__module__ for each in (load_seqformer, load_weights, save_weights)} == {
        "model.checkpoint.weights_file"
    }
