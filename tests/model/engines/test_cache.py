"""An engine is made again where any code that it came of has changed, whatever room that code lies in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.engines.cache import ROOT, source_digest, sources

RUN_A_NETWORK = """
import sys, torch
import model.engines.export, model.engines.inductor
from model.engines.cache import EngineCache
from model.engines.halves import HalvesSpec
from model.engines.runtime import Runtime
from model.checkpoint import load_weights
from model.checkpoint.weights_file import shipped_weights

network = load_weights(shipped_weights())
config = network.config
size = {"height": config.height, "width": config.width}
spec = HalvesSpec(**size, num_frames=1, num_kept=4, with_cues=True)
runtime = Runtime(network, spec, engine="eager", precision="fp32")
image = torch.rand(1, 3, config.height, config.width)
cues = torch.rand(1, config.num_cue_planes, config.height, config.width)
runtime.decode(runtime.encode(image, cues))
for name, module in sys.modules.items():
    if name.split(".")[0] in ("model", "ops"):
        print(name, module.__file__)
"""


def test_all_of_ours_that_runs_a_network_is_among_the_sources() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_A_NETWORK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert loaded.keys() >= {
        "model.network",
        "model.layers.csp",
        "model.layers.encoder",
        "model.engines.halves",
        "model.engines.inductor",
        "ops.deform_attn",
        "ops.native",
    }
    known = {str(path) for path in sources()}
    assert {name for name, path in loaded.items() if path not in known} == set()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both packages, without the weights."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("model", "ops"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / package, root / package, ignore=ignored)
    return root


def digest(root: Path) -> str:
    source_digest.cache_clear()
    try:
        return source_digest(root)
    finally:
        source_digest.cache_clear()


def rooms() -> list[str]:
    """One file of each folder that holds sources."""
    return sorted(
        {str(path.parent.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in sources()}.values()
    )


def test_rooms_are_those_that_there_are() -> None:
    folders = {str(Path(name).parent) for name in rooms()}
    assert folders >= {"model", "model/layers", "model/engines", "model/cues", "ops", "ops/kernels"}
    assert not any(name.startswith(("model/training", "model/evaluation")) for name in rooms())


@pytest.mark.parametrize("name", [*rooms(), "model/engines/package_runner.cpp", "ops/kernels/mask_rle.cu"])
def test_a_changed_byte_in_any_room_makes_another_key(checkout: Path, name: str) -> None:
    before, path = digest(checkout), checkout / name
    assert before == digest(ROOT)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert digest(checkout) != before
    path.write_bytes(content)
    assert digest(checkout) == before


def test_a_new_file_a_moved_one_and_training_code(checkout: Path) -> None:
    before = digest(checkout)
    training = checkout / "model/training/losses.py"
    training.write_bytes(training.read_bytes() + b"\n")
    assert digest(checkout) == before
    new = checkout / "model/layers/new_room/part.py"
    new.parent.mkdir()
    new.write_text("")
    after = digest(checkout)
    assert after != before
    new.rename(new.with_name("moved.py"))
    assert digest(checkout) not in (before, after)
    shutil.rmtree(new.parent)
    assert digest(checkout) == before
