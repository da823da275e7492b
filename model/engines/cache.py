"""Where compiled engines are kept on disk, and the key that says what each was compiled for.

An engine has the network's weights in it and fits one machine's instruction set and one version of all code,
so its folder is named by a hash of all of that; `key.json` in the folder spells it out. Ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from model.engines.halves import HalvesSpec
from model.network import Network
from ops.files import cache_folder

__all__ = ["EngineCache", "engine_key", "source_digest", "sources"]

ROOT = Path(__file__).parents[2]
"""Where the packages `model` and `ops` lie."""


def engine_key(network: Network, spec: HalvesSpec, *, engine: str) -> dict[str, Any]:
    """All that a compiled engine depends on, as plain values."""
    parameter = next(network.parameters())
    device = parameter.device
    if device.type == "cuda":
        place: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(device),
            "sm": torch.cuda.get_device_capability(device),
        }
    else:
        place = {
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }
    return {
        "engine": engine,
        "weights": _digest_weights(network),
        "config": network.config.to_dict(),
        "spec": asdict(spec),
        "dtype": str(parameter.dtype),
        "device": device.type,
        **place,
        "torch": torch.__version__,
        "source": source_digest(),
    }


def _digest_weights(network: Network) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def source_digest(root: Path = ROOT) -> str:
    """Of the code that a trace goes through and of the kernels: another version never meets old engines."""
    digest = hashlib.sha256()
    for path in sources(root):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources(root: Path = ROOT) -> list[Path]:
    """The files that an engine depends on: all of `ops` and `model`, but not what trains and evaluates."""
    found = [*root.glob("ops/**/*"), *root.glob("model/**/*")]
    return sorted(
        path
        for path in found
        if path.suffix in (".py", ".cpp", ".cu")
        and path.relative_to(root).parts[:2] not in (("model", "training"), ("model", "evaluation"))
    )


class EngineCache:
    """Folders of engines under one root, `engines` in the user's cache unless given."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_folder() / "engines"

    def folder(self, key: dict[str, Any]) -> Path:
        """Where the engine of a key is or will be."""
        text = json.dumps(key, sort_keys=True, default=str)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:24]

    def find(self, key: dict[str, Any]) -> Path | None:
        """The folder of a finished engine, or None."""
        folder = self.folder(key)
        return folder if (folder / "key.json").is_file() else None

    def make(self, key: dict[str, Any], build: Callable[[Path], None]) -> Path:
        """The folder of the key's engine; `build` fills a new one where there is none, once among processes.

        A build that fails leaves nothing behind. Raises OSError where the cache cannot be written, and what
        `build` raises.
        """
        folder = self.folder(key)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(folder.with_suffix(".lock")):
            if self.find(key) is not None:
                return folder
            work = Path(tempfile.mkdtemp(dir=self.root))
            try:
                build(work)
                (work / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True, default=str))
                if folder.exists():  # of a process that was killed between its two steps
                    shutil.rmtree(folder)
                os.replace(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return folder


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file; another process that builds the same waits here."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
