"""What the rooms load: a program that takes one of them does not pay for the network's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pipeline.association.associator", {"torch", "av", "cv2"}),
        ("pipeline.inference.predictor", {"torch", "av", "cv2", "scipy"}),
        ("pipeline.sinks.table", {"torch", "scipy"}),
        ("pipeline.sources.source", {"torch", "scipy"}),
    ],
)
def test_a_room_loads_what_it_needs_alone(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert loaded.isdisjoint(absent), loaded & absent
