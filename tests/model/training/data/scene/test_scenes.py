"""Scene descriptions: their JSON, their hash, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from model.training.data.scene.scenes import Scene
from model.training.data.street import draw_scene


@pytest.mark.parametrize("seed", range(5))
def test_scene_survives_json_text(seed: int) -> None:
    scene = draw_scene(seed)
    again = Scene.from_json(json.loads(json.dumps(scene.to_json())))
    assert again == scene
    assert again.sha256() == scene.sha256()


def test_hash_tells_scenes_apart() -> None:
    scene = draw_scene(3)
    moved = replace(scene, view=replace(scene.view, horizon=scene.view.horizon + 0.0001))
    assert len({scene.sha256(), moved.sha256(), draw_scene(4).sha256()}) == 3


def test_description_carries_no_more_than_four_decimals() -> None:
    """So that the last bits of a platform's exp or sin never reach a hash."""

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            return [number for part in value.values() for number in numbers(part)]
        if isinstance(value, list | tuple):
            return [number for part in value for number in numbers(part)]
        return [value] if isinstance(value, float) else []

    for seed in range(40):
        assert all(round(number, 4) == number for number in numbers(draw_scene(seed).to_json()))


def test_unknown_and_missing_keys_are_named() -> None:
    values = draw_scene(0).to_json()
    values["camera"]["tilt"] = values["camera"].pop("zoom")
    with pytest.raises(ValueError, match=r"scene\.camera.*tilt.*zoom"):
        Scene.from_json(values)


def test_scene_of_another_renderer_is_refused() -> None:
    values = draw_scene(0).to_json()
    values["renderer"] += 1
    with pytest.raises(ValueError, match="renderer"):
        Scene.from_json(values)


def test_unknown_kind_is_refused() -> None:
    scene = next(scene for scene in map(draw_scene, range(20)) if scene.actors)
    with pytest.raises(ValueError, match="unicorn"):
        replace(scene, actors=(replace(scene.actors[0], kind="unicorn"),))
