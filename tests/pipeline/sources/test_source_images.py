"""Folders of images as sources."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.video import make_reading, numbered_picture, read, read_number

from pipeline.errors import SourceUnreadable
from pipeline.types import Frame


def write_image(path: Path, number: int, *, height: int = 96, width: int = 128) -> None:
    image = cv2.cvtColor(numbered_picture(number, height=height, width=width), cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), image)


def test_images_come_in_natural_order_as_frames_of_a_rate(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / f"shot{number}.png", number)
    (tmp_path / "notes.txt").write_text("not an image")
    reading = read(tmp_path, images_fps=5.0)
    assert [read_number(frame.image) for frame in reading.frames] == list(range(12))
    assert [frame.seconds for frame in reading.frames] == pytest.approx([number / 5 for number in range(12)])
    assert reading.end.reason == "end_of_file"
    assert (reading.source.live, reading.source.fps, reading.source.state) == (False, 5.0, "ended")
    assert reading.ledger.read == 12


def test_any_digits_sort_and_names_that_differ_in_case_come_in_one_order(tmp_path: Path) -> None:
    """A superscript is a digit to `str.isdigit` and no number to `int`."""
    names = ["1.png", "2.png", "2²3.png", "10.png", "A3.png", "a3.png", "a12.png"]
    for number, name in enumerate(names):
        write_image(tmp_path / name, number)
    assert sorted(read_number(frame.image) for frame in read(tmp_path).frames) == list(range(7))
    order = [names[read_number(frame.image)] for frame in read(tmp_path).frames]
    assert [name for name in order if "²" not in name] == [name for name in names if "²" not in name]


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".webp", ".tiff", ".ppm"])
def test_usual_formats_are_read_as_rgb(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 2] = 255
    assert cv2.imwrite(str(tmp_path / f"red{suffix}"), image)
    frame = read(tmp_path).frames[0]
    assert frame.image.shape == (40, 60, 3)
    assert np.abs(frame.image.astype(int) - [255, 0, 0]).max() < 6


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30), 90, np.uint8))
    assert cv2.imwrite(str(tmp_path / "b.png"), np.full((20, 30, 4), 90, np.uint8))
    assert [frame.image.shape for frame in read(tmp_path).frames] == [(20, 30, 3)] * 2


def test_cadence_leaves_images_unopened_but_counted(tmp_path: Path) -> None:
    for number in range(20):
        write_image(tmp_path / f"{number}.png", number)
    for number in range(1, 20, 2):
        (tmp_path / f"{number}.png").write_bytes(b"broken, and never opened")
    reading = read(tmp_path, fps=5.0, images_fps=10.0)
    assert [read_number(frame.image) for frame in reading.frames] == list(range(0, 20, 2))
    assert reading.ledger.dropped["cadence"] == 10
    assert reading.ledger.dropped["decode"] == 0


def test_size_that_differs_is_a_gap(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(96, 128), (96, 128), (48, 64), (48, 64)]):
        write_image(tmp_path / f"{number}.png", number, height=height, width=width)
    kinds = [item.height if isinstance(item, Frame) else item.reason for item in read(tmp_path)]
    assert kinds == [96, 96, "resolution", 48, 48, "end_of_file"]


def test_unreadable_image_is_named_counted_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (0, 2):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "3.png").touch()
    with caplog.at_level(logging.WARNING):
        reading = read(tmp_path)
    assert [frame.index for frame in reading.frames] == [0, 2]
    assert reading.ledger.read == 4
    assert reading.ledger.dropped["decode"] == 2
    assert "1.png cannot be read" in caplog.text


def test_max_frames_and_stop(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
    reading = read(tmp_path, max_frames=4)
    assert (len(reading.frames), reading.end.reason) == (4, "max_frames")
    stopped = make_reading(tmp_path)
    items = iter(stopped.source)
    next(items)
    stopped.stop.set()
    assert [item.reason for item in items] == ["stopped"]


def test_folder_without_images_names_it_and_the_formats(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(SourceUnreadable, match=r"holds no images.*\.png") as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_folder_of_broken_images_is_unreadable(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no image")
    with pytest.raises(SourceUnreadable, match="no image of the 3"):
        read(tmp_path)
