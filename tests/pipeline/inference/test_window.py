from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.inference.window import Windower
from pipeline.types import Frame, Window


def make_frame(index: int) -> Frame:
    return Frame(
        source="cam",
        epoch=0,
        index=index,
        pts=index,
        time_base=Fraction(1, 10),
        seconds=index / 10,
        captured_ns=index,
        captured_monotonic_ns=index,
        picture=np.zeros((4, 6, 3), np.uint8),
    )


def indices(window: Window | None) -> tuple[list[int], list[int], list[int]]:
    assert window is not None
    return tuple(
        [frame.index for frame in frames]  # type: ignore[return-value]
        for frames in (window.frames, window.real, window.new)
    )


def test_the_first_frame_makes_a_window_at_once_and_its_missing_places_repeat_it() -> None:
    windower = Windower(num_frames=5, stride=1)
    assert indices(windower.push(make_frame(0))) == ([0] * 5, [0], [0])
    assert indices(windower.push(make_frame(1))) == ([0, 0, 0, 0, 1], [0, 1], [1])
    for index in range(2, 7):
        window = windower.push(make_frame(index))
    assert indices(window) == ([2, 3, 4, 5, 6], [2, 3, 4, 5, 6], [6])


@pytest.mark.parametrize("num_frames", [1, 2, 5, 36])
@pytest.mark.parametrize("num_pushed", [1, 4, 37, 80])
def test_every_frame_is_new_in_exactly_one_window(num_frames: int, num_pushed: int) -> None:
    for stride in {1, max(1, num_frames // 2), num_frames}:
        windower = Windower(num_frames=num_frames, stride=stride)
        windows = [windower.push(make_frame(index)) for index in range(num_pushed)] + [windower.flush()]
        new = [frame.index for window in windows if window for frame in window.new]
        assert new == list(range(num_pushed))
        assert all(len(window.frames) == num_frames for window in windows if window)
        assert windower.num_pending == 0


def test_a_flush_forgets_the_frames_before_a_gap() -> None:
    windower = Windower(num_frames=3, stride=2)
    assert windower.push(make_frame(0)) is None
    assert windower.num_pending == 1
    assert indices(windower.flush()) == ([0, 0, 0], [0], [0])
    assert windower.flush() is None, "nothing is pending any more"
    assert windower.push(make_frame(7)) is None
    assert indices(windower.push(make_frame(8))) == ([7, 7, 8], [7, 8], [7, 8])


@pytest.mark.parametrize("stride", [0, 6, -1])
def test_a_stride_outside_the_window_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=r"stride must be in 1\.\.5"):
        Windower(num_frames=5, stride=stride)
