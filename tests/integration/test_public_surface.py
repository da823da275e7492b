"""What users hold on to: names are only added, never renamed or taken away."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import StreamConfig
from pipeline.config_file import dump_config
from run_stream import build_parser

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("pipeline", ["FrameResult", "Instance", "MaskMessage", "Stream", "StreamConfig", "Subscriber"]),
        ("model", ["ModelConfig", "build_model", "load_weights"]),
        ("ops", ["deform_attn"]),
    ],
)
def test_exports_stay(package: str, names: list[str]) -> None:
    module = importlib.import_module(package)
    assert set(names) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("pipeline.config", ["StreamConfig"]),
        ("pipeline.config_file", ["dump_config", "load_config"]),
        ("pipeline.errors", ["StreamError"]),
        (
            "pipeline.evaluate",
            ["evaluate_dataset", "figures_of", "metrics_of", "open_annotated", "predict_dataset"],
        ),
        ("pipeline.process", ["tune_process"]),
        ("pipeline.types", ["End", "Frame", "FrameResult", "Gap", "Instance", "MaskMessage", "Window"]),
    ],
)
def test_documented_import_paths_stay(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    for name in names:
        assert callable(getattr(found, name)), f"{module}.{name}"


def test_flags_stay() -> None:
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    assert {
        "--source",
        "--config",
        "--set",
        "--publish",
        "--record",
        "--display",
        "--max-frames",
        "--report",
        "--print-config",
        "-v",
    } <= flags


def test_config_sections_and_published_keys_stay() -> None:
    assert {
        "source",
        "cadence",
        "window",
        "model",
        "association",
        "emission",
        "publish",
        "record",
        "display",
        "queue",
        "max_frames",
    } <= set(StreamConfig.model_fields)
    text = dump_config(StreamConfig())
    for key in (
        "connect_timeout_seconds",
        "wait",
        "wait_for_subscribers",
        "block",
        "allow_plaintext",
        "stride",
    ):
        assert f"  {key}:" in text


def test_a_subscriber_loads_neither_torch_nor_av_nor_cv2() -> None:
    code = (
        "import sys; from pipeline import Subscriber; "
        "print([name for name in ('torch', 'av', 'cv2', 'pydantic') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_nothing_below_imports_the_command_line() -> None:
    """import-linter cannot take the single module run_stream, so its place in the law is checked here."""
    for package in ("ops", "model", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            assert "run_stream" not in [
                word
                for line in path.read_text().splitlines()
                if line.lstrip().startswith(("import ", "from "))
                for word in line.replace(",", " ").split()
            ], path
