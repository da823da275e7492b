"""The background cue: an exact median, samples by stream time, what becomes background and what shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from support.cue_scenes import HEIGHT, TOY, WIDE, WIDTH, Image, scene

from model.cues.background import BackgroundDifference, median_image


def in_slow_order(samples: Sequence[Image], frame: Image) -> NDArray[np.float64]:
    """The background plane as its docstring says it, with numpy's median."""
    if len(samples) < 3:
        return np.zeros(frame.shape[:2])
    used = samples[-9:]
    used = used[1 - len(used) % 2 :]
    difference = np.abs(frame.astype(float) - np.median(np.stack(used), axis=0)).max(axis=2)
    return np.minimum(difference / 64, 2)


@pytest.mark.parametrize("num", [1, 3, 5, 7, 9, 11])
def test_median_of_images_is_exact(num: int) -> None:
    images = list(np.random.default_rng(num).integers(0, 256, (num, 13, 7, 3), dtype=np.uint8))
    before = [image.copy() for image in images]
    assert np.array_equal(median_image(images), np.median(np.stack(images), axis=0))
    assert all(map(np.array_equal, images, before))
    with pytest.raises(ValueError, match="odd number"):
        median_image([*images, images[0]])


def test_background_is_the_median_of_samples_every_half_second() -> None:
    cue, samples = BackgroundDifference(), []
    for index in range(75):
        frame = scene(index)
        plane = cue.update(frame, index / 10)
        assert plane.shape == (1, HEIGHT, WIDTH)
        assert plane.dtype == np.float32
        assert np.array_equal(plane[0], in_slow_order(samples, frame))
        assert plane.any() == cue.warm if index != 10 else not plane.any()
        if index % 5 == 0:
            samples.append(frame)
    # A few seconds on, the toy alone is left.
    inside = plane[0, 20:44, (4 + 2 * 74) % 72 :][:, :24]
    assert inside.mean() > 0.5
    assert plane.sum() == pytest.approx(inside.sum())


def test_what_stands_still_becomes_background_and_what_leaves_shows_where_it_stood() -> None:
    cue = BackgroundDifference()
    empty, parked = WIDE[:HEIGHT, :WIDTH], WIDE[:HEIGHT, :WIDTH].copy()
    parked[10:34, 10:34] = TOY
    planes = [cue.update(empty if i < 40 or i >= 80 else parked, i / 10) for i in range(90)]
    assert not planes[39].any()
    assert planes[41].max() > 0.5
    assert not planes[79].any()
    assert planes[81].max() > 0.5


def test_samples_follow_stream_time_not_the_count_of_frames() -> None:
    sparse, dense = BackgroundDifference(), BackgroundDifference()
    dense_planes = {i: dense.update(scene(i), 7.0 + i / 10) for i in range(60)}
    # The same scene at half the rate, and times in whole milliseconds as some containers have them.
    for i in range(0, 60, 5):
        assert np.array_equal(sparse.update(scene(i), round(1.3333 + i / 10, 3)), dense_planes[i])
    # A clock that goes back without a gap starts the slots again and loses no sample.
    assert dense.update(scene(60), 0.0).any()
    assert dense.update(scene(61), 0.1).any()


def test_memory_is_bounded() -> None:
    cue = BackgroundDifference(samples=3, every_seconds=0.1)
    for i in range(50):
        cue.update(scene(i), i / 10)
    assert len(cue._samples) == 3
    frame = scene(0)
    cue.update(frame, 5.0)
    kept = cue._samples[-1]
    frame[:] = 0
    assert kept.any()  # the caller's array may be used again


@pytest.mark.parametrize("values", [{"samples": 4}, {"samples": 1}, {"every_seconds": 0.0}])
def test_impossible_backgrounds_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        BackgroundDifference(**values)  # type: ignore[arg-type]
