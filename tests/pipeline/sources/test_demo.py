"""The demo clip: known masks, deterministic, read through the real decoder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.video import make_reading

from pipeline.errors import SourceUnreadable
from pipeline.sources import demo


@pytest.fixture(scope="module")
def truth() -> list[demo.DemoFrame]:
    return [demo.demo_frame(index) for index in range(0, demo.NUM_FRAMES, 5)]


def test_frames_hold_pixels_masks_ids_and_tight_boxes(truth: list[demo.DemoFrame]) -> None:
    for rgb, masks, track_ids, boxes in truth:
        assert rgb.shape == (demo.HEIGHT, demo.WIDTH, 3)
        assert rgb.dtype == np.uint8
        assert masks.shape == (len(track_ids), demo.HEIGHT, demo.WIDTH)
        assert masks.sum(axis=0).max(initial=0) <= 1
        assert len(set(track_ids)) == len(track_ids)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0, :].any()
            assert mask[y1 - 1, :].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()


def test_the_scene_is_a_test_of_tracking(truth: list[demo.DemoFrame]) -> None:
    seen = [set(frame.track_ids) for frame in truth]
    everyone = set().union(*seen)
    assert len(everyone) >= 6
    assert min(len(each) for each in seen) >= 3
    late = everyone - seen[0]
    left = {track_id for track_id in everyone if track_id not in seen[-1]}
    assert late
    assert left
    # Somebody is mostly hidden and comes back.
    hidden = False
    for track_id in everyone:
        areas = np.array(
            [
                frame.masks[frame.track_ids.index(track_id)].sum()
                for frame in truth
                if track_id in frame.track_ids
            ]
        )
        lowest = int(areas[1:-1].argmin()) + 1
        hidden |= bool(2 * areas[lowest] < min(areas[:lowest].max(), areas[lowest:].max()))
    assert hidden


def test_masks_are_where_the_object_is_drawn(truth: list[demo.DemoFrame]) -> None:
    # Two frames apart in time share the lawn and nothing else: where no mask is, pixels stay (shadows apart).
    first, last = truth[0], truth[-1]
    everywhere = first.masks.any(axis=0) | last.masks.any(axis=0)
    change = np.abs(first.rgb.astype(int) - last.rgb.astype(int)).max(axis=2)
    assert (change[~everywhere] == 0).mean() > 0.85
    assert (change[everywhere] > 8).mean() > 0.9


def test_same_frame_again_is_the_same() -> None:
    one, two = demo.demo_frame(70), demo.demo_frame(70)
    assert np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(one.masks, two.masks)


@pytest.mark.parametrize("index", [-1, demo.NUM_FRAMES])
def test_index_outside_the_clip_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=str(index)):
        demo.demo_frame(index)


def test_clip_is_encoded_once_and_read_through_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reading = make_reading("demo")
    reading.run()
    assert reading.error is None
    assert len(reading.frames) == reading.ledger.read == demo.NUM_FRAMES
    assert reading.source.fps == demo.FPS
    for frame in reading.frames[::50]:
        drawn = demo.demo_frame(frame.index).rgb.astype(float)
        assert np.abs(frame.image - drawn).mean() < 6
    files = list((tmp_path / "mssts-stream").iterdir())
    assert files == [demo.demo_clip_path()]
    before = files[0].stat().st_mtime_ns
    demo.demo_clip_path()
    assert files[0].stat().st_mtime_ns == before


def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    reading = make_reading("demo")
    reading.run()
    assert isinstance(reading.error, SourceUnreadable)
    assert reading.error.source == "camera"
    assert "XDG_CACHE_HOME" in str(reading.error)
    assert str(tmp_path / "file") in str(reading.error)
    assert os.listdir(tmp_path) == ["file"]
