"""Exports of a package that load on first use. Ours, after PEP 562."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    namespace: dict[str, Any], modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of the package whose globals are `namespace`.

    `modules` is exported name → module that has it. AttributeError names the exports for any other name.
    """
    package = namespace["__name__"]

    def find(name: str) -> Any:
        if name not in modules:
            exported = ", ".join(sorted(modules))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it exports {exported}")
        value = getattr(import_module(modules[name]), name)
        namespace[name] = value
        return value

    def listed() -> list[str]:
        return sorted({*namespace, *modules})

    return find, listed
