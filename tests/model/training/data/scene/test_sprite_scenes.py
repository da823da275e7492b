"""Descriptions of the sprites set: what is drawn how often, twins that cross, and what JSON carries."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from model.class_lists import categories
from model.training.data.scene.sprite_scenes import (
    CLASSES,
    DECOY,
    Corruption,
    SpriteActor,
    SpriteScene,
    draw_sprite_scene,
    sprite_position,
)

SCENES = [draw_sprite_scene(seed) for seed in range(150)]


def test_every_class_occurs_and_looks_are_drawn_apart_from_it() -> None:
    assert tuple(category.name for category in categories("sprites")) == CLASSES
    actors = [actor for scene in SCENES for actor in scene.actors if actor.label != DECOY]
    counts = Counter(actor.label for actor in actors)
    assert set(counts) == set(range(len(CLASSES)))
    assert min(counts.values()) > 0.04 * len(actors)
    for label in counts:
        mine = [actor for actor in actors if actor.label == label]
        assert {actor.shape for actor in mine} == {CLASSES[label].rsplit("_", 1)[-1]}
        assert len({actor.seed for actor in mine}) > 0.7 * len(mine)


def twins(scene: SpriteScene) -> list[tuple[SpriteActor, SpriteActor]]:
    moving = [actor for actor in scene.actors if actor.label != DECOY]
    return [
        (one, other)
        for place, one in enumerate(moving)
        for other in moving[:place]
        if (one.seed, one.shape, one.label) == (other.seed, other.shape, other.label)
    ]


def test_twins_look_alike_and_cross() -> None:
    pairs = [pair for scene in SCENES for pair in twins(scene)]
    assert 0.2 < len(pairs) / len(SCENES) < 0.5
    for one, other in pairs:
        assert replace(one, x=0, y=0, velocity=(0, 0), hidden=()) == replace(
            other, x=0, y=0, velocity=(0, 0), hidden=()
        )
        near = math.dist(sprite_position(one, one.when), sprite_position(other, one.when))
        assert near < 0.5 * one.size
        assert math.dist(one.velocity, other.velocity) > 0.9 * math.hypot(*one.velocity)


def test_all_that_counts_moves() -> None:
    for scene in SCENES:
        for actor in scene.actors:
            if actor.label != DECOY:
                places = [sprite_position(actor, frame / 10) for frame in range(5)]
                least = 0.02 * min(actor.size, actor.end_size)
                assert max(math.dist(places[0], place) for place in places) > least


def test_some_scenes_lose_single_frames() -> None:
    lost = [scene.corruptions for scene in SCENES if scene.corruptions]
    assert 0.2 < len(lost) / len(SCENES) < 0.47
    assert {corruption.kind for corruptions in lost for corruption in corruptions} == {
        "noise",
        "black",
        "blocks",
    }
    for corruptions in lost:
        frames = [corruption.frame for corruption in corruptions]
        assert min(frames) > 0
        assert all(later - earlier > 1 for earlier, later in pairwise(frames))


def test_description_and_hash_follow_the_json() -> None:
    scene = SCENES[0]
    assert scene == draw_sprite_scene(0)
    assert json.loads(json.dumps(scene.to_json()))["actors"][0]["shape"] == scene.actors[0].shape
    assert scene.sha256() == draw_sprite_scene(0).sha256() != SCENES[1].sha256()
    with pytest.raises(ValueError, match="backdrop must be one of"):
        replace(scene, backdrop="sea")
    with pytest.raises(ValueError, match="renderer 99"):
        replace(scene, renderer=99)
    with pytest.raises(ValueError, match="corruption kind"):
        replace(scene, corruptions=(Corruption(3, "rain", 0),))
