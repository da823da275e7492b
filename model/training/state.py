"""The state of a run in files: written whole or not at all, in pieces if asked, checked when read.

A checkpoint is a folder: `manifest.json` names its pieces with size and hash. A new one is written next to
the old one and takes its place by one rename of the manifest, so that a full disk or a kill leaves the old
one usable.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.errors import CheckpointError
from ops.files import written_whole

MANIFEST = "manifest.json"


def write_state(state: Mapping[str, Any], folder: Path, *, step: int, piece_bytes: int | None = None) -> None:
    """Write a state of tensors and plain containers as the checkpoint of `folder`.

    Raises CheckpointError where it cannot be written; the previous checkpoint then stays.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    size = piece_bytes or max(1, len(content))
    stem = _free_stem(folder, step)
    pieces: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for index, begin in enumerate(range(0, len(content), size)):
                part = content[begin : begin + size]
                name = f"{stem}.{index}.part"
                pieces.append({"name": name, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
                _write_synced(folder / name, part)
            manifest = json.dumps({"format": "mssts-training/1", "step": step, "pieces": pieces}, indent=1)
            with written_whole(folder / MANIFEST) as unfinished:
                unfinished.write_text(manifest, encoding="utf-8")
        except OSError:
            for piece in pieces:
                (folder / piece["name"]).unlink(missing_ok=True)
            raise
        kept = {piece["name"] for piece in pieces}
        for old in folder.glob("step*.part"):
            if old.name not in kept:
                old.unlink()
    except OSError as exc:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} cannot be written: {exc.strerror or exc}; make room or choose "
            "another folder with --output; the previous checkpoint is unharmed"
        ) from exc


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint folder, on the CPU.

    Raises CheckpointError for a missing, incomplete or damaged one.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"checkpoint {str(folder)!r}: no {MANIFEST} in it; it holds no checkpoint")
    buffer = io.BytesIO()
    try:
        for piece in json.loads(manifest.read_text(encoding="utf-8"))["pieces"]:
            path = folder / str(piece["name"])
            if not path.is_file():
                raise CheckpointError(f"checkpoint {str(folder)!r}: piece {path.name} is missing")
            part = path.read_bytes()
            if hashlib.sha256(part).hexdigest() != piece["sha256"]:
                raise CheckpointError(
                    f"checkpoint {str(folder)!r}: piece {path.name} is damaged; copy it again"
                )
            buffer.write(part)
        buffer.seek(0)
        state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"checkpoint {str(folder)!r}: cannot be read, it holds more than tensors and plain "
            "values; it is not one of ours"
        ) from exc
    except (ValueError, KeyError, TypeError, EOFError, OSError, RuntimeError) as exc:
        raise CheckpointError(f"checkpoint {str(folder)!r}: cannot be read ({exc}); copy it again") from exc
    return state


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _free_stem(folder: Path, step: int) -> str:
    """What the new pieces' names begin with: not as the standing checkpoint's, even of the same step."""
    manifest = folder / MANIFEST
    standing = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""
    stem = f"step{step:07d}"
    return f"{stem}b" if f'"{stem}.' in standing else stem
