"""Files written whole: the old one or the new one, never a piece."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.files import cache_folder, written_whole


def test_the_new_file_takes_the_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_text("old")
    with written_whole(path) as unfinished:
        assert unfinished.parent == path.parent, "a rename does not cross file systems"
        assert unfinished.suffix == ".npz", "writers go by it"
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_text("old")

    def interrupted() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "no" / "file"):
        raise AssertionError("not reached")


def test_the_cache_is_one_folder_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mssts-stream"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mssts-stream"
