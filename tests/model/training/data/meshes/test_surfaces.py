"""Surfaces seen along a slanted parallel: which faces, how large, in what light."""

from __future__ import annotations

import math

import numpy as np

from model.training.data.meshes.surfaces import Light, Surface, vertex_normals, view

WHITE = Light(np.array([0.0, 0.0, -1.0]), 1.0)


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
