"""The pictures of a source for a while: those that a stream would show its model, and where gaps lie."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.video import read_number, write_video

from pipeline.errors import SourceNotFound, SourceUnreadable
from pipeline.sources.pictures import read_pictures


def test_a_video_at_the_rate_of_the_stream(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=50, fps=25)
    pictures = [each for each in read_pictures(str(clip), fps=10.0) if each is not None]
    assert [read_number(rgb) for rgb, _ in pictures] == [i * 5 // 2 for i in range(20)]
    assert [seconds for _, seconds in pictures] == pytest.approx([i * 5 // 2 / 25 for i in range(20)])
    assert pictures[0][0].shape == (96, 128, 3)
    assert len(list(read_pictures(str(clip), fps=10.0, seconds=1.0))) == 10
    assert len(list(read_pictures(str(clip), fps=1000.0))) == 50


def test_no_frame_comes_early_for_its_slot_where_the_source_is_much_faster(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=60, fps=60)
    pictures = [each for each in read_pictures(str(clip), fps=10.0) if each is not None]
    assert [read_number(rgb) for rgb, _ in pictures] == list(range(0, 60, 6))


def test_a_folder_with_a_cut_and_a_broken_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shots = [
        cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), (96, 64), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    ]
    for index in range(12):
        assert cv2.imwrite(str(tmp_path / f"frame{index}.png"), shots[index // 6][..., ::-1])
    (tmp_path / "frame3.png").write_bytes(b"broken")
    found = list(read_pictures(str(tmp_path)))
    assert [None if each is None else each[1] for each in found] == [
        *(i / 10 for i in (0, 1, 2, 4, 5)),
        None,  # the cut
        *(i / 10 for i in range(6, 12)),
    ]
    assert all(np.array_equal(each[0], shots[i > 4]) for i, each in enumerate(found) if each is not None)
    # Stream time goes on over a cut.
    assert len(list(read_pictures(str(tmp_path), seconds=0.8))) == 1 + 7


def test_what_cannot_be_read_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fps=-1\.0"):
        read_pictures("absent.mp4", fps=-1.0)
    with pytest.raises(ValueError, match=r"seconds=0\.0"):
        read_pictures("absent.mp4", seconds=0.0)
    absent = read_pictures(str(tmp_path / "absent.mp4"))
    with pytest.raises(SourceNotFound, match="absent"):
        next(absent)
    with pytest.raises(SourceUnreadable, match="no images"):
        list(read_pictures(str(tmp_path)))
