"""The wheel holds all that is needed: built, installed in an environment of its own, run from another
folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; the dependencies are borrowed from the environment of the tests.

    Borrowed through a .pth line, which does not carry over an editable install of this checkout.
    """
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy: a build leaves files behind, and takes in those of an earlier one
    ignored = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, sources, ignore=ignored)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(sources),
    ]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--ignore-installed",
            str(wheel),
        ],
        check=True,
    )
    return python


def run(python: Path, *arguments: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_modules_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import run_stream, pipeline, model, ops\n"
        "for module in (run_stream, pipeline, model, ops): print(module.__file__)"
    )
    for path in run(installed, "-c", code, folder=tmp_path).split():
        assert Path(path).is_relative_to(installed.parents[1]), path


def test_the_shipped_configs_are_found_from_any_folder(installed: Path, tmp_path: Path) -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = run(installed, "-m", "run_stream", "--config", path.name, "--print-config", folder=tmp_path)
        told, asked = yaml.safe_load(text)["model"], yaml.safe_load(path.read_text())["model"]
        wanted = asked.get("network", {})
        assert told["weights"] == asked.get("weights", "default")
        assert {name: told["network"][name] for name in wanted} == wanted


def test_the_kernels_are_shipped(installed: Path, tmp_path: Path) -> None:
    code = "from ops.launch import KERNEL_SOURCE; print('deform_attn_forward' in KERNEL_SOURCE.read_text())"
    assert run(installed, "-c", code, folder=tmp_path) == "True\n"


def test_the_street_clip_and_the_notice_of_its_meshes_are_shipped(installed: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import files; from pipeline.sources.addresses import STREET_CLIP;"
        "notice = any(file.name == 'NOTICE' for file in files('mssts-stream'));"
        "print(STREET_CLIP.stat().st_size, notice)"
    )
    size = (ROOT / "pipeline" / "clips" / "street.mp4").stat().st_size
    assert run(installed, "-c", code, folder=tmp_path) == f"{size} True\n"


def test_the_street_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    run(
        installed,
        "-m",
        "run_stream",
        "--max-frames",
        "10",
        "--publish",
        "none",
        "--record",
        "demo.mp4",
        "--report",
        "report.json",
        folder=tmp_path,
    )
    assert json.loads((tmp_path / "report.json").read_text())["published"] == 10
    assert (tmp_path / "demo.mp4").stat().st_size > 1000
