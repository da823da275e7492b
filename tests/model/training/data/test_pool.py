"""The pool of rendered clips: rendered once, drawn again with changes that masks and cues follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy_clips import ToyClips

from model.training.data.clip import TrainingClip
from model.training.data.pool import PooledClips

NUM_CLIPS, STORED = 3, 4


class Counted:
    """Toy clips that remember which ones were rendered; their cue tells where the objects are."""

    def __init__(self) -> None:
        self.rendered: list[int] = []
        self._source = ToyClips(height=64, width=96)

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        self.rendered.append(index)
        clip = self._source(index, num_frames=num_frames)
        cues = clip.masks.any(axis=0)[:, None].astype(np.float32)
        return TrainingClip(clip.images, clip.masks, clip.labels, cues)


def pool(folder: Path, source: Counted | None = None, **changes: Any) -> PooledClips:
    settings: dict[str, Any] = {"num_clips": NUM_CLIPS, "stored_frames": STORED, "cues": ("background",)}
    return PooledClips(source or Counted(), folder, **(settings | changes))


def test_each_clip_is_rendered_once(tmp_path: Path) -> None:
    source = Counted()
    clips = pool(tmp_path, source)
    first = [clips(index, num_frames=2) for index in range(NUM_CLIPS)]
    assert sorted(source.rendered) == [0, 1, 2]
    for index in range(NUM_CLIPS, 4 * NUM_CLIPS):
        clips(index, num_frames=2)
    assert len(source.rendered) == NUM_CLIPS
    again = pool(tmp_path, source)
    for index, clip in enumerate(first):
        other = again(index, num_frames=2)
        assert np.array_equal(clip.images, other.images)
        assert np.array_equal(clip.masks, other.masks)
        assert np.array_equal(clip.cues, other.cues)  # type: ignore[arg-type]
    assert len(source.rendered) == NUM_CLIPS
    assert len(list(tmp_path.iterdir())) == NUM_CLIPS


def test_draws_of_one_clip_differ_and_every_turn_shows_all(tmp_path: Path) -> None:
    clips = pool(tmp_path, num_clips=1)
    draws = [clips(index, num_frames=2).images for index in range(6)]
    assert all(not np.array_equal(draws[0], other) for other in draws[1:])
    other_seed = pool(tmp_path, num_clips=1, seed=1)
    assert not np.array_equal(draws[0], other_seed(0, num_frames=2).images)


@pytest.mark.parametrize("crop", [None, (32, 48)])
def test_disguised_draws_keep_their_shape_and_depend_on_the_index_alone(
    tmp_path: Path, crop: tuple[int, int] | None
) -> None:
    clips, again = (pool(tmp_path, crop=crop, disguise=1.0) for _ in range(2))
    plain = pool(tmp_path, crop=crop)
    differing = 0
    for index in range(12):
        clip, other = clips(index, num_frames=2), again(index, num_frames=2)
        assert clip.images.shape == (2, *(crop or (64, 96)), 3)
        assert clip.images.shape[:3] == clip.masks.shape[1:]
        assert clip.cues is not None
        assert clip.cues.shape == (2, 1, *clip.images.shape[1:3])
        assert clip.cues.dtype == np.float32
        assert len(clip.masks) == len(clip.labels)
        for name in ("images", "masks", "labels", "cues"):
            assert np.array_equal(getattr(clip, name), getattr(other, name))
        differing += not np.array_equal(clip.images, plain(index, num_frames=2).images)
    assert differing == 12


@pytest.mark.parametrize("crop", [None, (32, 48)])
def test_masks_and_cues_follow_the_picture(tmp_path: Path, crop: tuple[int, int] | None) -> None:
    clips = pool(tmp_path, crop=crop)
    size = crop or (64, 96)
    num_seen = 0
    for index in range(12):
        clip = clips(index, num_frames=3)
        assert clip.images.shape == (3, *size, 3)
        assert clip.masks.shape[1:] == (3, *size)
        num_seen += len(clip.labels)
        assert clip.cues is not None
        shown = clip.masks.any(axis=0)
        if len(clip.labels) == 2:
            assert np.array_equal(clip.cues[:, 0] > 0, shown)
        brightness = clip.images.mean(axis=-1)
        for image, seen in zip(brightness, shown, strict=True):
            if seen.any():
                assert image[seen].mean() > image[~seen].mean() + 10
    assert num_seen >= 12


def test_a_damaged_clip_is_rendered_again(tmp_path: Path) -> None:
    source = Counted()
    clips = pool(tmp_path, source)
    whole = clips.stored(1)
    path = next(iter(tmp_path.iterdir()))
    for content in (b"", b"nothing", path.read_bytes()[:300], path.read_bytes()[:-200]):
        path.write_bytes(content)
        assert np.array_equal(clips.stored(1).images, whole.images)
    assert source.rendered == [1] * 5


def test_more_frames_than_are_stored_is_an_error(tmp_path: Path) -> None:
    clips = pool(tmp_path)
    assert clips(0, num_frames=STORED).images.shape[0] == STORED
    with pytest.raises(ValueError, match="num_frames=5 must be 1 to 4"):
        clips(0, num_frames=STORED + 1)
