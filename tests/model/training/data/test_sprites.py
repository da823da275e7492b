"""The sprites set, rendered: shapes, motion, decoys, lost frames, and clips that are the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.cues.state import CueState
from model.training.data.instances import instance_masks
from model.training.data.scene.scenes import Look
from model.training.data.scene.sprite_scenes import (
    CLASSES,
    DECOY,
    MOTION_PAIRS,
    Corruption,
    SpriteActor,
    SpriteScene,
    draw_sprite_scene,
    sprite_position,
    sprite_turn,
)
from model.training.data.sprites import SpriteClips, SpriteRenderer

ROOT = Path(__file__).resolve().parents[4]
SCENES = [draw_sprite_scene(seed) for seed in range(150)]


def plain(*actors: SpriteActor, corruptions: tuple[Corruption, ...] = ()) -> SpriteScene:
    """A small scene without noise."""
    return SpriteScene(
        seed=1,
        height=96,
        width=128,
        num_frames=40,
        fps=10.0,
        backdrop="plain",
        backdrop_seed=3,
        look=Look(blur=0.0, noise=0.0),
        actors=actors,
        corruptions=corruptions,
    )


def disc(**changes: object) -> SpriteActor:
    actor = SpriteActor(label=6, shape="disc", seed=5, size=24.0, end_size=24.0, x=60.0, y=48.0)
    return replace(actor, **changes)  # type: ignore[arg-type]


def digest(index: int) -> str:
    clip = SpriteClips(4, cues=("background",))(index, num_frames=3)
    assert clip.cues is not None
    parts = (clip.images, clip.masks, clip.labels, clip.cues)
    return sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def test_clips_are_the_same_on_every_call_and_in_another_process() -> None:
    code = (
        "import sys; sys.path[:0] = ['.', 'tests/model/training/data']; import test_sprites; "
        "print(test_sprites.digest(7))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert other.stdout.strip() == digest(7) == digest(7)
    assert digest(7) != digest(8)


def test_clips_have_the_contract_s_shapes_and_disjoint_masks() -> None:
    source = SpriteClips(0, cues=("background", "flow"), crop=(96, 160))
    for index in range(8):
        clip = source(index, num_frames=2)
        assert clip.images.shape == (2, 96, 160, 3)
        assert clip.cues is not None
        assert clip.cues.shape == (2, 3, 96, 160)
        assert clip.masks.sum(axis=0).max(initial=0) <= 1
        assert (clip.masks.sum(axis=(2, 3)).max(axis=1, initial=0) >= 12).all()
        assert ((clip.labels >= 0) & (clip.labels < len(CLASSES))).all()


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"crop \(200, 320\) must fit"):
        SpriteClips(crop=(200, 320))
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        SpriteClips()(0, num_frames=0)
    with pytest.raises(IndexError, match="frame 40 of a scene of 40"):
        SpriteRenderer(SCENES[0])(40)
    with pytest.raises(ValueError, match="at least 16"):
        draw_sprite_scene(0, num_frames=10)


def test_shapes_cover_different_parts_of_their_circle() -> None:
    """No two shapes have the same mask: labels of the six can be told from a frame."""
    masks = {}
    for shape in sorted({name.rsplit("_", 1)[-1] for name in CLASSES}):
        _, ids = SpriteRenderer(plain(disc(shape=shape, size=80.0, end_size=80.0)))(0)
        masks[shape] = ids > 0
        ys, xs = np.nonzero(masks[shape])
        radius = np.hypot(xs + 0.5 - 60, ys + 0.5 - 48).max()
        assert 38 < radius < 41, f"{shape} does not reach the circle that its size names"
    names = list(masks)
    for first in names:
        for second in names[: names.index(first)]:
            shared = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
            assert shared < 0.8, (first, second)


@pytest.mark.parametrize("pair", MOTION_PAIRS)
def test_a_frame_does_not_tell_a_motion_pair_but_time_does(pair: tuple[str, str]) -> None:
    steady, fro = (CLASSES.index(name) for name in pair)

    def steps(label: int) -> list[tuple[float, float]]:
        """Of each sprite that does not zoom: mean speed against its size, and how far it gets for its way."""
        found = []
        for scene in SCENES:
            for actor in scene.actors:
                if actor.label == label and actor.size == actor.end_size:
                    way = np.array([motion(actor, frame / 10) for frame in range(40)])
                    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
                    scale = actor.size if "disc" in pair[0] else 1.0
                    found.append((10 * steps.mean() / scale, np.linalg.norm(way[-1] - way[0]) / steps.sum()))
        return found

    def motion(actor: SpriteActor, seconds: float) -> tuple[float, ...]:
        return sprite_position(actor, seconds) if "disc" in pair[0] else (sprite_turn(actor, seconds),)

    straight, bent = np.array(steps(steady)), np.array(steps(fro))
    assert len(straight) > 15
    assert len(bent) > 15
    assert abs(np.median(straight[:, 0]) / np.median(bent[:, 0]) - 1) < 0.25
    assert straight[:, 1].min() > 0.999
    assert bent[:, 1].max() < 0.2

    # At the same place one frame of either is the same to the last bit.
    shape = pair[0].rsplit("_", 1)[-1]
    first = disc(label=steady, shape=shape, velocity=(30.0, 0.0), spin=2.0)
    second = disc(label=fro, shape=shape, swing=(6.0, 0.0), swing_rate=1.5, rock=0.4, rock_rate=1.5)
    frames = [SpriteRenderer(plain(actor))(0)[0] for actor in (first, second)]
    assert np.array_equal(*frames)
    later = [SpriteRenderer(plain(actor))(3)[0] for actor in (first, second)]
    assert not np.array_equal(*later)


def test_sizes_reach_from_16_to_160_and_zooming_covers_them() -> None:
    sizes = [size for scene in SCENES for actor in scene.actors for size in (actor.size, actor.end_size)]
    assert min(sizes) == 16.0
    assert max(sizes) == 160.0
    zoomed = [actor for scene in SCENES for actor in scene.actors if actor.size != actor.end_size]
    assert zoomed
    assert {(actor.size, actor.end_size) for actor in zoomed} == {(16.0, 160.0), (160.0, 16.0)}
    actor = disc(size=16.0, end_size=80.0)
    renderer = SpriteRenderer(plain(actor))
    widths = [int((renderer(frame)[1] > 0).any(axis=0).sum()) for frame in (0, 39)]
    assert widths == pytest.approx([16, 80], abs=1)


def test_a_sprite_is_gone_for_3_to_8_frames_and_comes_back_on_its_way() -> None:
    hidden = [actor.hidden for scene in SCENES for actor in scene.actors if actor.hidden]
    assert {len(frames) for frames in hidden} == set(range(3, 9))
    for frames in hidden:
        assert list(frames) == list(range(frames[0], frames[-1] + 1))
        assert 3 <= frames[0] <= frames[-1] < 37

    moving = disc(x=20.0, velocity=(20.0, 0.0))
    gone, there = SpriteRenderer(plain(replace(moving, hidden=(10, 11, 12)))), SpriteRenderer(plain(moving))
    empty = SpriteRenderer(plain())
    for frame in (9, 10, 12, 13):
        image, ids = gone(frame)
        expected = empty(frame) if frame in (10, 12) else there(frame)
        assert np.array_equal(image, expected[0])
        assert np.array_equal(ids, expected[1])


def test_decoys_are_still_copies_that_count_for_nobody() -> None:
    decoys = [(scene, actor) for scene in SCENES for actor in scene.actors if actor.label == DECOY]
    assert len({scene.seed for scene, _ in decoys}) > 0.3 * len(SCENES)
    for scene, decoy in decoys:
        assert any(
            (actor.shape, actor.seed) == (decoy.shape, decoy.seed) and actor.label != DECOY
            for actor in scene.actors
        )
        assert sprite_position(decoy, 0.0) == sprite_position(decoy, 3.9)
        assert sprite_turn(decoy, 0.0) == sprite_turn(decoy, 3.9)
    image, ids = SpriteRenderer(plain(disc(), disc(label=DECOY, x=70.0)))(0)
    assert not np.array_equal(image, SpriteRenderer(plain(disc()))(0)[0])
    alone = SpriteRenderer(plain(disc()))(0)[1]
    assert set(np.unique(ids)) == {0, 1}
    assert 0 < (ids == 1).sum() < (alone == 1).sum(), "a decoy in front hides what is behind it"


@pytest.mark.parametrize("kind", ["noise", "black", "blocks"])
def test_a_lost_frame_loses_the_picture_only(kind: str) -> None:
    whole = SpriteRenderer(plain(disc()))
    lost = SpriteRenderer(plain(disc(), corruptions=(Corruption(5, kind, 9),)))
    assert np.array_equal(lost(4)[0], whole(4)[0])
    assert np.array_equal(lost(6)[0], whole(6)[0])
    assert np.array_equal(lost(5)[1], whole(5)[1])
    changed = (lost(5)[0] != whole(5)[0]).any(axis=-1).mean()
    assert changed > (0.35 if kind == "blocks" else 0.95)
    assert changed < (0.65 if kind == "blocks" else 1.01)


def test_cues_of_a_clip_are_those_of_a_stream_of_the_scene() -> None:
    """Also where a lost frame looks like a cut to the live cues."""
    source = SpriteClips(2, cues=("background", "flow"))
    seen = set()
    for index in range(12):
        scene = source.scene(index)
        if bool(scene.corruptions) in seen:
            continue
        seen.add(bool(scene.corruptions))
        clip = source(index, num_frames=4)
        assert clip.cues is not None
        state, renderer = CueState(source.cues), SpriteRenderer(scene)
        planes: list[NDArray[np.float32]] = []
        starts = []
        for frame in range(40):
            image = renderer(frame)[0]
            if np.array_equal(image, clip.images[0]):
                starts.append(frame)
            planes.append(state.update(image, frame / scene.fps))
        assert any(np.array_equal(np.stack(planes[at : at + 4]), clip.cues) for at in starts)
    assert seen == {False, True}


def test_instances_too_small_in_every_frame_are_left_out() -> None:
    ids = np.zeros((2, 8, 8), np.uint16)
    ids[0, :3, :4] = 1  # twelve pixels, once
    ids[:, 5, :] = 2  # eight, twice
    masks, labels = instance_masks(ids, np.array([4, 5, 6], np.int64))
    assert labels.tolist() == [4]
    assert np.array_equal(masks[0], ids == 1)
    assert instance_masks(np.zeros((1, 4, 4), np.uint16), labels)[0].shape == (0, 1, 4, 4)
