"""Checkpoints: in pieces, checked when read, and never lost to a write that fails."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import CheckpointError
from model.training.state import MANIFEST, read_state, write_state

PIECE = 1 << 16


def some_state(value: float) -> dict[str, Any]:
    return {
        "weights": {"a": torch.full((40_000,), value), "b": torch.arange(10)},
        "step": 3,
        "names": ["x", "y"],
    }


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("step*.part"))


def names_in_manifest(folder: Path) -> list[str]:
    return [piece["name"] for piece in json.loads((folder / MANIFEST).read_text())["pieces"]]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    write_state(some_state(1.5), tmp_path / "run" / "checkpoint", step=3)
    state = read_state(tmp_path / "run" / "checkpoint")
    assert len(pieces(tmp_path / "run" / "checkpoint")) == 1
    assert torch.equal(state["weights"]["a"], torch.full((40_000,), 1.5))
    assert torch.equal(state["weights"]["b"], torch.arange(10))
    assert (state["step"], state["names"]) == (3, ["x", "y"])


def test_no_piece_is_larger_than_asked_and_old_ones_go(tmp_path: Path) -> None:
    write_state(some_state(1.0), tmp_path, step=1, piece_bytes=PIECE)
    first = pieces(tmp_path)
    assert len(first) >= 3
    assert all(piece.stat().st_size <= PIECE for piece in first)
    write_state(some_state(2.0), tmp_path, step=2, piece_bytes=PIECE)
    assert not any(piece.exists() for piece in first)
    assert [piece.name for piece in pieces(tmp_path)] == sorted(names_in_manifest(tmp_path))
    assert read_state(tmp_path)["weights"]["a"][0] == 2.0


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        standing = pieces(tmp_path)
        write_state(some_state(value), tmp_path, step=7, piece_bytes=PIECE)
        assert not {piece.name for piece in standing} & set(names_in_manifest(tmp_path))
        assert read_state(tmp_path)["weights"]["a"][0] == value
        assert len(pieces(tmp_path)) == len(names_in_manifest(tmp_path))


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        read_state(tmp_path)


def test_a_missing_piece_is_named(tmp_path: Path) -> None:
    write_state(some_state(1.0), tmp_path, step=1, piece_bytes=PIECE)
    pieces(tmp_path)[1].unlink()
    with pytest.raises(CheckpointError, match=r"step0000001\.1\.part is missing"):
        read_state(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_piece_is_named(tmp_path: Path, damage: str) -> None:
    write_state(some_state(1.0), tmp_path, step=1, piece_bytes=PIECE)
    piece = pieces(tmp_path)[2]
    content = bytearray(piece.read_bytes())
    if damage == "flipped":
        content[100] ^= 1
    piece.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(CheckpointError, match=r"step0000001\.2\.part is damaged; copy it again"):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pieces": [{"name": 3}]}', '{"pieces": []}'])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    write_state(some_state(1.0), tmp_path, step=1)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_state(tmp_path)


def test_a_piece_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    write_state({"weights": Run()}, tmp_path, step=1)
    with pytest.raises(CheckpointError, match="not one of ours"):
        read_state(tmp_path)
    assert not (tmp_path / "made").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail in this process, half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("step", [1, 2], ids=["same step", "later step"])
@pytest.mark.parametrize(
    ("room", "piece_bytes"), [(1 << 15, None), (64, 1 << 17), (1 << 17, 1 << 18), (1 << 12, 1 << 12)]
)
def test_the_previous_checkpoint_survives_a_full_disk(
    tmp_path: Path, room: int, piece_bytes: int | None, step: int
) -> None:
    write_state(some_state(1.0), tmp_path, step=1, piece_bytes=PIECE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        files_of_at_most(room),
        pytest.raises(
            CheckpointError, match=r"cannot be written: File too large.*previous.*is unharmed"
        ) as info,
    ):
        write_state(some_state(9.0), tmp_path, step=step, piece_bytes=piece_bytes)
    assert str(tmp_path) in str(info.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert read_state(tmp_path)["weights"]["a"][0] == 1.0
    write_state(some_state(9.0), tmp_path, step=step, piece_bytes=piece_bytes)
    assert read_state(tmp_path)["weights"]["a"][0] == 9.0


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_state(some_state(1.0), tmp_path / "file" / "checkpoint", step=1)
