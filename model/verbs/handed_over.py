"""Verbs that `python -m pipeline` runs, as they read a source; published here first."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module

from model.errors import MissingPackageError


def adapt(arguments: Sequence[str]) -> int:
    """Re-estimate a network's normalisation statistics on a camera's own frames."""
    return run_in_pipeline("adapt", arguments)


def run_in_pipeline(verb: str, arguments: Sequence[str]) -> int:
    """Run `python -m pipeline VERB` in this process and return its exit code: it reads a source, of which
    `model` knows nothing.

    Raises MissingPackageError where `pipeline`, or a package that it needs, is not installed.
    """
    before = sys.argv
    sys.argv = ["pipeline", verb, *arguments]
    try:
        import_module("pipeline")  # runpy does not tell that it is missing from other errors
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        return int(exc.code or 0)
    except ModuleNotFoundError as exc:
        raise MissingPackageError(
            f"python -m model {verb} reads a source, for which the package {exc.name!r} is missing: "
            "pip install mssts-stream"
        ) from exc
    finally:
        sys.argv = before
    return 0
