"""Clips in another look: what changes, what must not, and that cues stay true to what is shown."""

from typing import Any

import numpy as np
import pytest

from model.training.data.clip import TrainingClip
from model.training.data.disguise import add_decoys, change_camera, dress, forget_cue, is_still, zoom
from model.training.data.street import StreetClips

CUES = ("background", "flow")
SOURCE = StreetClips(5, height=96, width=160, cues=CUES)
FRAMES = 3


def clip_where(wanted: Any, *, first: int = 0) -> TrainingClip:
    """The first street clip from `first` on that is as wanted."""
    for index in range(first, first + 60):
        clip = SOURCE(index, num_frames=FRAMES)
        if wanted(clip):
            return clip
    raise AssertionError("no such clip")


def speaks(clip: TrainingClip) -> bool:
    return clip.cues is not None and bool(clip.cues.any())


def large(clip: TrainingClip) -> bool:
    return bool(len(clip.masks) and clip.masks.sum(axis=(2, 3)).max() > 300)


@pytest.fixture(scope="module")
def still() -> TrainingClip:
    return clip_where(lambda clip: is_still(clip) and speaks(clip) and len(clip.masks))


@pytest.fixture(scope="module")
def moving() -> TrainingClip:
    return clip_where(lambda clip: not is_still(clip) and speaks(clip) and len(clip.masks))


@pytest.fixture(scope="module")
def other() -> TrainingClip:
    return clip_where(large, first=100)


def test_stillness_is_seen_behind_the_instances() -> None:
    truth, told = [], []
    for index in range(24):
        camera = SOURCE.scene(index).camera
        moves = abs(camera.pan[0]) > 20 or camera.jitter > 1.0
        if moves or not (camera.jitter or camera.pan[0] or camera.zoom_amplitude):
            truth.append(not moves)
            told.append(is_still(SOURCE(index, num_frames=FRAMES)))
    assert 0 < sum(truth) < len(truth)
    agree = np.mean(np.array(truth) == np.array(told))
    assert agree >= 0.8, f"{agree:.2f} of {len(truth)}"


def test_nothing_behind_is_not_still() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    assert not is_still(TrainingClip(images, np.ones((1, 2, 16, 16), np.bool_), np.zeros(1, np.int64), None))


def test_dressing_changes_instances_alone(still: TrainingClip, other: TrainingClip) -> None:
    before = still.images.copy()
    dressed = [dress(still, other, np.random.default_rng(seed)) for seed in range(6)]
    anybody = still.masks.any(axis=0)
    for clip in dressed:
        assert np.array_equal(clip.images[~anybody], still.images[~anybody])
        assert np.array_equal(clip.masks, still.masks)
    assert any((clip.images != still.images)[anybody].any() for clip in dressed)
    assert np.array_equal(still.images, before)


def test_decoys_stand_still_count_for_nobody_and_have_not_moved(
    still: TrainingClip, other: TrainingClip
) -> None:
    assert still.cues is not None
    changed = 0
    for seed in range(8):
        clip = add_decoys(still, other, np.random.default_rng(seed), cues=CUES, still=True)
        assert clip.cues is not None
        pasted = (clip.images != still.images).any(axis=3)
        assert not (clip.masks.any(axis=0) & pasted).any()
        assert (clip.cues.transpose(0, 2, 3, 1)[pasted] == 0).all()
        everywhere = pasted.all(axis=0)
        assert (clip.images[0][everywhere] == clip.images[-1][everywhere]).all()
        areas, left = still.masks.sum(axis=(2, 3)), clip.masks.sum(axis=(2, 3))
        assert (left >= 0.09 * areas).all()  # three decoys, each hiding at most three tenths
        changed += bool(pasted.any())
    assert changed >= 4


def test_under_a_moving_camera_only_a_single_frame_gets_decoys(
    moving: TrainingClip, other: TrainingClip
) -> None:
    assert moving.cues is not None
    rng = np.random.default_rng(0)
    assert add_decoys(moving, other, rng, cues=CUES, still=False) is moving
    one = TrainingClip(moving.images[:1], moving.masks[:, :1], moving.labels, moving.cues[:1])
    clips = [add_decoys(one, other, np.random.default_rng(s), cues=CUES, still=False) for s in range(8)]
    pasted = [clip for clip in clips if (clip.images != one.images).any()]
    assert pasted
    for clip in pasted:
        assert clip.cues is not None
        assert np.array_equal(clip.cues[:, :1], moving.cues[:1, :1])


def test_without_cues_that_speak_there_are_no_decoys(still: TrainingClip, other: TrainingClip) -> None:
    assert still.cues is not None
    rng = np.random.default_rng(0)
    for planes in (None, np.zeros_like(still.cues)):
        silent = TrainingClip(still.images, still.masks, still.labels, planes)
        assert add_decoys(silent, other, rng, cues=CUES, still=True) is silent


def test_another_camera_changes_pictures_alone(still: TrainingClip) -> None:
    clips = [change_camera(still, np.random.default_rng(seed)) for seed in range(12)]
    assert sum(not np.array_equal(clip.images, still.images) for clip in clips) >= 6
    for clip in clips:
        assert clip.images.dtype == np.uint8
        assert clip.masks is still.masks
        assert clip.cues is still.cues


def test_one_cue_at_a_time_is_forgotten(still: TrainingClip) -> None:
    assert still.cues is not None
    said = [bool(still.cues[:, :1].any()), bool(still.cues[:, 1:].any())]
    assert all(said)
    seen = set()
    for seed in range(80):
        clip = forget_cue(still, np.random.default_rng(seed), cues=CUES)
        assert clip.cues is not None
        seen.add((bool(clip.cues[:, :1].any()), bool(clip.cues[:, 1:].any())))
    assert seen == {(True, True), (False, True), (True, False)}
    one = TrainingClip(still.images, still.masks, still.labels, still.cues[:, :1])
    assert all(forget_cue(one, np.random.default_rng(s), cues=CUES[:1]) is one for s in range(20))


def test_zoom_enlarges_everything_alike(other: TrainingClip) -> None:
    assert other.cues is not None
    rng = np.random.default_rng(3)
    near = zoom(other, rng, size=(64, 96), cues=CUES)
    assert near.images.shape == (FRAMES, 64, 96, 3)
    assert near.masks.shape == (len(other.masks), FRAMES, 64, 96)
    assert near.cues is not None
    assert near.cues.shape == (FRAMES, 3, 64, 96)
    # A plane that marks the instances must go where their masks go, and flow must grow with the picture.
    marked = np.repeat(other.masks.any(axis=0)[:, None], 3, axis=1).astype(np.float32)
    grown = []
    for seed in range(10):
        clip = zoom(
            TrainingClip(other.images, other.masks, other.labels, marked),
            np.random.default_rng(seed),
            size=(64, 96),
            cues=CUES,
        )
        assert clip.cues is not None
        shown = clip.masks.any(axis=0)
        assert ((clip.cues[:, 0] > 0.5) == shown).mean() > 0.97
        if shown.any():
            grown.append(float(clip.cues[:, 1].max()))
    assert grown
    assert all(1.0 <= each <= 2.0 for each in grown)
    assert max(grown) > 1.2


def test_nobody_in_the_picture_is_no_trouble(other: TrainingClip) -> None:
    empty = TrainingClip(
        other.images, np.zeros((0, *other.masks.shape[1:]), np.bool_), np.zeros(0, np.int64), None
    )
    rng = np.random.default_rng(0)
    assert len(zoom(empty, rng, size=(32, 64), cues=CUES).masks) == 0
    assert np.array_equal(dress(empty, other, rng).images, empty.images)
    assert change_camera(empty, rng).images.shape == empty.images.shape
