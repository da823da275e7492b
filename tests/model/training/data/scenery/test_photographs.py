"""Photographs behind a scene: their names in a folder, and their grain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from model.training.data.scenery.photographs import list_photos, photo_grain


def photograph(path: Path) -> Path:
    cv2.imwrite(str(path), np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8))
    return path


def test_grain_keeps_the_colours_and_changes_the_light(tmp_path: Path) -> None:
    canvas = np.full((50, 90, 3), (120, 60, 30), np.uint8)
    path = photograph(tmp_path / "brick.png")
    grained = photo_grain(np.random.default_rng(2), canvas, path=path).astype(float)
    assert grained.std(axis=(0, 1)).min() > 0.5
    np.testing.assert_allclose(grained[..., 0] / grained[..., 1], 2.0, rtol=0.05)
    np.testing.assert_allclose(grained.mean(axis=(0, 1)), (120, 60, 30), rtol=0.05)


def test_folders_without_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder of photographs at .*none"):
        list_photos(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(ValueError, match="holds no photographs"):
        list_photos(tmp_path)
    photograph(tmp_path / "b.png")
    photograph(tmp_path / "a.JPG")
    assert list_photos(tmp_path) == ("a.JPG", "b.png")
