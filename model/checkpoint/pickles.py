"""Looks into pickles without running them: what a file that torch refuses would have called.

torch's weights-only reader names foreign code in pickles of protocols 1 to 3; in others it only sees a
damaged file. Source of the opcodes: Python's pickletools.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

# What the pickle of a plain state dict names; all else is somebody's code.
_WEIGHTS = re.compile(
    r"torch\.[A-Za-z0-9]+|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter|defaultdict)|argparse\.Namespace"
)
_ZIP = b"PK\x03\x04"
_PROTOCOLS = tuple(bytes([0x80, version]) for version in range(2, 6))


def is_pickle(path: Path) -> bool:
    """Whether a file is a zip, as torch.save writes it, or begins as a pickle of protocol 2 to 5."""
    with path.open("rb") as file:
        start = file.read(4)
    # A safetensors file begins with the length of its header, little-endian: mostly below 65536.
    return start == _ZIP or (start.startswith(_PROTOCOLS) and start[2:] != bytes(2))


def find_code(path: Path) -> str:
    """Return the first name in a file's pickles that is no part of weights, "" where there is none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return _first_code(io.BytesIO(archive.read(name)))
        with path.open("rb") as file:
            return _first_code(file)
    except (OSError, ValueError, StopIteration, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return ""  # really damaged


def _first_code(file: IO[bytes]) -> str:
    """As `find_code`, of the pickles that stand one after another; ValueError at their end."""
    while True:
        last: str | None = None
        texts = [
            "",
            "",
        ]  # that were pushed, in order: module and name of the next STACK_GLOBAL are the last two
        memo: list[str | None] = []
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                names = texts[-2:] if opcode.name == "STACK_GLOBAL" else str(argument).split(" ")
                if not _WEIGHTS.fullmatch(".".join(names)):
                    return ".".join(names)
            if opcode.name == "MEMOIZE":
                memo.append(last)
                continue
            last = argument if isinstance(argument, str) else None
            if opcode.name in ("BINGET", "LONG_BINGET"):
                last = memo[int(argument or 0)] if int(argument or 0) < len(memo) else None
            if last is not None:
                texts.append(last)
