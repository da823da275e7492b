"""A folder of photographs for backgrounds, out of packages whose licences were checked one by one.

Source: the notes on each picture in scikit-image 0.26 (`skimage/data/_fetchers.py`) and scikit-learn
(`sklearn/datasets/images/README.txt`). None of them shows a person or a vehicle.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from model.errors import DatasetError
from model.training.data.packages import package_folder

__all__ = ["PHOTOS", "Photo", "gather_photos"]


class Photo(NamedTuple):
    """Where a photograph lies and whose it is."""

    package: str
    """The module that has it."""
    path: str
    licence: str
    author: str


PHOTOS = (
    Photo("sklearn", "datasets/images/china.jpg", "CC BY 2.0", "danielbuechele (Flickr)"),
    Photo("sklearn", "datasets/images/flower.jpg", "CC BY 2.0", "vultilion (Flickr)"),
    Photo("skimage", "data/brick.png", "CC0 1.0", "CC0Textures, Bricks25"),
    Photo("skimage", "data/grass.png", "CC0 1.0", "linolafett (DeviantArt)"),
    Photo("skimage", "data/gravel.png", "CC0 1.0", "CC0Textures, Gravel04"),
    Photo("skimage", "data/coffee.png", "CC0 1.0", "Rachel Michetti"),
    Photo("skimage", "data/rocket.jpg", "public domain", "SpaceX"),
)
_NAMES = {"sklearn": "scikit-learn", "skimage": "scikit-image"}


def gather_photos(output: Path | str, *, packages: Path | str | None = None) -> list[str]:
    """Copy the photographs and a LICENCES.txt into a folder; return the lines of that file.

    `packages` is a folder that holds the packages (as unpacked from their wheels); None: those installed.
    Raises DatasetError, naming the package, where one of them is missing.
    """
    output = Path(output)
    sources = [_root(photo.package, packages) / photo.path for photo in PHOTOS]
    for photo, source in zip(PHOTOS, sources, strict=True):
        if not source.is_file():
            raise DatasetError(
                f"{_NAMES[photo.package]} has no {photo.path}: scikit-image 0.26 and scikit-learn 1.9 have"
                " all of them, try those versions"
            )
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for photo, source in zip(PHOTOS, sources, strict=True):
        shutil.copyfile(source, output / source.name)
        lines.append(f"{source.name}: {photo.author}; {photo.licence}; from {_NAMES[photo.package]}")
    (output / "LICENCES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def _root(package: str, packages: Path | str | None) -> Path:
    if packages is not None:
        return Path(packages) / package
    return package_folder(package, name=_NAMES[package], what="the photographs are taken out")
