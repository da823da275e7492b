"""Figures: rendered once, laid in like drawn people, and their bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.__main__ import main
from model.errors import DatasetError
from model.training.data.meshes import figures
from model.training.data.meshes.figures import (
    Figure,
    figure_sprite,
    list_figures,
    load_figure,
    make_figure,
    save_figure,
)
from model.training.data.render import SceneRenderer
from model.training.data.street import StreetClips, draw_scene


@pytest.fixture(scope="module")
def car() -> Figure:
    return make_figure("car", 3)


class TestSprite:
    def test_scales_and_stands_where_it_is_put(self, car: Figure) -> None:
        for scale in (6.0, 20.0, 60.0):
            sprite = figure_sprite(
                car,
                heading=0.0,
                tilt=0.05,
                phase=None,
                foot=(200.0, 150.0),
                pixels_per_metre=scale,
                height=200,
                width=400,
            )
            assert sprite is not None
            rows = np.flatnonzero((sprite.rgba[..., 3] > 128).any(1)) + sprite.y
            assert abs(rows.size - scale * car.metres) <= max(2.0, 0.08 * scale * car.metres)
            assert abs(rows.max() - 150) <= max(2.0, 0.08 * scale)

    def test_left_and_right_are_mirror_images(self, car: Figure) -> None:
        sprites = [
            figure_sprite(
                car,
                heading=heading,
                tilt=0.25,
                phase=None,
                foot=(100.0, 80.0),
                pixels_per_metre=20.0,
                height=160,
                width=200,
            )
            for heading in (0.5, math.pi - 0.5)
        ]
        frames = []
        for sprite in sprites:
            assert sprite is not None
            frame = np.zeros((166, 206, 4), np.uint8)
            tall, wide = sprite.rgba.shape[:2]
            frame[sprite.y + 3 : sprite.y + 3 + tall, sprite.x + 3 : sprite.x + 3 + wide] = sprite.rgba
            frames.append(frame.astype(int))
        assert np.abs(frames[0] - frames[1]).mean() > 1
        assert np.abs(frames[0][:, ::-1] - frames[1]).mean() < 0.3

    def test_out_of_the_picture_there_is_none(self, car: Figure) -> None:
        for foot in ((-300.0, 50.0), (50.0, 400.0)):
            assert (
                figure_sprite(
                    car,
                    heading=0.0,
                    tilt=0.1,
                    phase=None,
                    foot=foot,
                    pixels_per_metre=20.0,
                    height=100,
                    width=100,
                )
                is None
            )

    def test_colours_never_exceed_their_alpha(self, car: Figure) -> None:
        sprite = figure_sprite(
            car,
            heading=0.7,
            tilt=0.25,
            phase=1.0,
            foot=(60.0, 60.0),
            pixels_per_metre=20.0,
            height=90,
            width=120,
        )
        assert sprite is not None
        assert (sprite.rgba[..., :3] <= sprite.rgba[..., 3:]).all()


class TestFiles:
    def test_a_figure_comes_back_as_it_was(self, car: Figure, tmp_path: Path) -> None:
        save_figure(car, tmp_path / "car_00003.npz")
        again = load_figure(tmp_path / "car_00003.npz")
        for mine, theirs in zip(car, again, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert list_figures(tmp_path) == ("car_00003.npz",)
        assert list_figures(tmp_path, "walker") == ()

    def test_what_is_no_figure_is_named(self, car: Figure, tmp_path: Path) -> None:
        (tmp_path / "car_1.npz").write_bytes(b"no")
        np.savez(tmp_path / "car_2.npz", format=9)
        save_figure(car, tmp_path / "car_4.npz")
        whole = (tmp_path / "car_4.npz").read_bytes()
        (tmp_path / "car_4.npz").write_bytes(whole[: len(whole) // 2])
        for name in ("car_1.npz", "car_2.npz", "car_3.npz", "car_4.npz"):
            with pytest.raises(DatasetError, match=f"{name} is no figure.*python -m model figures"):
                load_figure(tmp_path / name)

    def test_folders_without_figures(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="python -m model figures"):
            list_figures(tmp_path / "none")
        with pytest.raises(DatasetError, match="holds no figures"):
            StreetClips(figures=tmp_path)

    def test_command_makes_what_is_missing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["figures", "--output", str(tmp_path), "--people", "0", "--cars", "1", "--seed", "3"]
        for made in (1, 0):
            assert main(arguments) == 0
            assert f": {made} figures made" in capsys.readouterr().out
        assert list_figures(tmp_path) == ("car_00003.npz",)

    def test_kinds_and_counts(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="'tram' is not one of walker, car"):
            make_figure("tram", 0)
        with pytest.raises(ValueError, match="must be at least 0"):
            figures.make_figures(tmp_path, people=-1, cars=0)


class TestScenes:
    def test_actors_shown_as_figures_stand_where_drawn_ones_do(self, car: Figure, tmp_path: Path) -> None:
        save_figure(car, tmp_path / "car_00003.npz")
        compared = 0
        for seed in range(400):
            scene = draw_scene(seed, num_frames=20)
            if not any(actor.kind == "car" for actor in scene.actors):
                continue
            shown = SceneRenderer(scene, figures=tmp_path)
            image, ids = SceneRenderer(scene)(9)
            other, other_ids = shown(9)
            for number in shown._figures:
                mine, theirs = ids == number + 1, other_ids == number + 1
                if scene.actors[number].kind == "car" and mine[2:-2, 2:-2].sum() == mine.sum() > 300:
                    compared += 1
                    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.4
                    assert np.abs(image[mine].astype(int) - other[mine]).mean() > 1
            if compared >= 4:
                return
        raise AssertionError("too few cars to compare")

    def test_without_figures_nothing_changes(self, tmp_path: Path, car: Figure) -> None:
        save_figure(car, tmp_path / "car_00003.npz")
        scene = draw_scene(21)
        others = tuple(actor for actor in scene.actors if actor.kind not in ("car", "van"))
        assert others
        scene = replace(scene, actors=others)
        with_cars, without = SceneRenderer(scene, figures=tmp_path), SceneRenderer(scene)
        np.testing.assert_array_equal(with_cars(5)[0], without(5)[0])
