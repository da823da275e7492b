"""What can go wrong in `model` because of the world, under one base class.

    ModelError
    ├── CheckpointError         a file of weights is missing, damaged, holds code or belongs to another
    │                           architecture
    ├── DatasetError            annotations, results or images are missing, damaged or contradict each other
    ├── EngineError             an engine that was asked for cannot be built, loaded or trusted
    └── MissingPackageError     an optional package is not installed; the text names it and how to get it

A caller's own mistake (a wrong config value, a tensor of a wrong shape) is a ValueError or TypeError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A question for a mistyped name, `did you mean 'x'?`; empty where none of the known names is near.

    cutoff: how alike two names are at least, 0..1; with 0 the nearest is always named.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


class ModelError(Exception):
    """Base of every error that `model` raises for a fault that is not the caller's code."""


class CheckpointError(ModelError):
    """A file or mapping of weights cannot be used; the text names the file or keys and the remedy."""


class DatasetError(ModelError):
    """Annotations, results or images cannot be used; the text names file, entry and remedy."""


class EngineError(ModelError):
    """An engine is not available; the text names it, the cause and what runs without it."""


class MissingPackageError(ModelError):
    """An optional package is needed for what was asked and is not installed."""
