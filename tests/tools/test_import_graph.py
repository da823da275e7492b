"""The command that prints the import graph, on houses made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("import_graph.py")

LAW = """[importlinter]
root_packages = house

[importlinter:contract:rooms]
name = rooms
type = layers
containers = house
layers =
    __main__
    attic
    left | right
    ground
"""


def printed(folder: Path, modules: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of the command over a package `house` of these modules."""
    (folder / "setup.cfg").write_text(LAW)
    for room in ("", "attic", "left", "right"):
        (folder / "house" / room).mkdir(exist_ok=True)
        (folder / "house" / room / "__init__.py").touch()
    for name, text in modules.items():
        (folder / "house" / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(folder)], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_entries_are_told_from_the_ground_that_rooms_stand_on(tmp_path: Path) -> None:
    code, text = printed(
        tmp_path,
        {
            "ground": "",
            "__main__": "import house.attic.top",
            "attic/top": "import house.left.one\nimport house.ground",
            "left/one": "import house.ground",
        },
    )
    assert code == 0
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "rooms: 4" in rows
    assert "house (entries) 1 modules → house.attic 1" in rows
    assert "house.attic 2 modules → house 1, house.left 1" in rows
    assert "house.left 2 modules → house 1" in rows
    assert "arrows between rooms: 4 (4 imports)" in rows
    assert "circles of rooms: 0" in rows
    assert "upward imports: 0" in rows


def test_a_circle_of_rooms_and_what_goes_upward_fail(tmp_path: Path) -> None:
    code, text = printed(
        tmp_path,
        {
            "ground": "",
            "attic/top": "import house.left.one",
            "left/one": "def late():\n    import house.attic.top\n",
            "right/two": "import house.left.three",
            "left/three": "",
        },
    )
    assert code == 1
    assert "circles of rooms: 1\n  house.attic ↔ house.left\n" in text
    assert "circles of modules: 1\n  house.attic.top ↔ house.left.one\n" in text
    assert (
        "upward imports: 2\n  house.left.one → house.attic.top\n  house.right.two → house.left.three\n"
        in text
    )
