"""A stream's config from YAML files, `key=value` overrides and dicts; faults are named by file and key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from model.errors import did_you_mean
from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.redact import redact, redact_url


def load_config(
    path: str | Path | None = None, *, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> StreamConfig:
    """Read a config file and lay `key=value` overrides and then `values` (nested dicts) over it.

    `path` None means the defaults. Values of overrides are read as YAML, keys are dotted.
    Raises ConfigError naming file, dotted key and remedy.
    """
    tree: dict[str, Any] = {}
    name = "command line" if path is None else str(path)
    if path is not None:
        tree = _read_yaml(find_config(path))
    for override in overrides:
        _merge(tree, _parse_override(override))
    _merge(tree, values or {})
    try:
        return StreamConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, name)) from None


def find_config(path: str | Path) -> Path:
    """Return `path`, or the shipped config of that name (`r50.yaml`, `configs/r50.yaml`) where no such file
    is."""
    path = Path(path)
    shipped = Path(str(files("configs").joinpath(path.name)))
    named = not path.is_absolute() and path.parent in (Path(), Path("configs"))
    return shipped if named and not os.path.exists(path) and os.path.exists(shipped) else path


def dump_config(config: StreamConfig) -> str:
    """Return the whole config as YAML, every field spelled out; `load_config` reads it back equal.

    The network's fields are spelled out where it is untrained; a weights file has its own.
    """
    tree = config.model_dump(mode="json")
    if config.model.weights is None:
        tree["model"]["network"] = config.network.to_dict()
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config file {path}: is not a text file") from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"config file {str(path)!r}: cannot be a path ({error})") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path}: is no valid YAML{_where(error)}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"config file {path}: holds a value that YAML cannot build") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path}: must be a map of sections, got {type(tree).__name__}")
    return tree


def _where(error: yaml.YAMLError) -> str:
    """Problem and place, without the snippet: it may hold a password."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "damaged"
    return f": {problem}" + (f" in line {mark.line + 1}, column {mark.column + 1}" if mark else "")


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {redact(text)!r}: write it as section.key=value, e.g. window.stride=2")
    try:
        parsed: Any = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {key.strip()}: the value is no valid YAML") from None
    for part in reversed(parts):
        parsed = {part: parsed}
    return dict(parsed)


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Lay `other` over `tree`, in place; maps are merged, anything else replaces. `source.inputs`
    replaces."""
    for key, value in other.items():
        if key == "source" and not isinstance(value, Mapping):
            value = {"inputs": {"source0": value}}
        if key == "source" and isinstance(tree.get(key), str):
            tree[key] = {"inputs": {"source0": tree[key]}}
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict) and key != "inputs":
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: ValidationError, name: str) -> str:
    """Turn pydantic's report into one line per fault: file, dotted key, what is wrong, what is allowed."""
    lines = []
    for fault in error.errors():
        path = [
            str(part) for part in fault["loc"] if not str(part).startswith(("function-", "literal", "float"))
        ]
        key = ".".join(path)
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_suggest(path)}")
            continue
        message = fault["msg"].removeprefix("Value error, ")
        got = fault.get("input")
        shown = f", got {_shown(key, got)}" if isinstance(got, (str, int, float, bool, type(None))) else ""
        lines.append(f"{key}: {message}{shown}" if key else message)
    return f"config ({name}): " + "; ".join(dict.fromkeys(lines))


def _shown(key: str, value: object) -> str:
    # What stands where an input is expected may be a whole URL.
    return (
        repr(redact_url(value))
        if isinstance(value, str) and key.startswith("source")
        else redact(repr(value))
    )


def _suggest(path: Sequence[str]) -> str:
    section: Any = StreamConfig
    for part in path[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = None if field is None else field.annotation
    allowed = list(getattr(section, "model_fields", {}))
    hint = did_you_mean(path[-1], allowed)
    hint = hint and f"; {hint}"
    return f"{hint} (allowed: {', '.join(allowed)})" if allowed else hint
