"""Vehicles: what the kinds look like, and that each is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.data.actors.vehicle_looks import vehicle
from model.training.data.actors.vehicles import vehicle_shapes
from model.training.data.draw.canvas import rasterise
from model.training.data.scene.geometry import Pose, project
from model.training.data.scene.scenes import View

KINDS = ("car", "van", "bus", "truck")
VIEW = View(horizon=30.0, camera_height=3.0, focal=200.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_its_proportions_whatever_the_seed(kind: str) -> None:
    least, most = {"car": (2.5, 3.1), "van": (2.1, 2.7), "bus": (3.2, 4.2), "truck": (2.2, 3.3)}[kind]
    for seed in range(20):
        made = vehicle(seed, kind, 2.0)
        assert least <= made.length / 2.0 <= most
        assert max(w for part in made.parts for _, w in part.profile) == pytest.approx(2.0)
        assert len(made.wheels) == (3 if kind == "truck" else 2)
        assert all(abs(u) < made.length / 2 for u in made.wheels)
        for part in made.parts:
            assert len(part.half_widths) == len(part.profile)
            assert all(edge < len(part.profile) for edge in part.glass)
            assert max(part.half_widths) <= made.width / 2 * 1.0001


def test_seeds_and_kinds_look_different_and_a_seed_always_the_same() -> None:
    assert vehicle(3, "van", 2.0) == vehicle.__wrapped__(3, "van", 2.0)
    looks = {repr(vehicle(seed, kind, 2.0)) for seed in range(5) for kind in KINDS}
    assert len(looks) == 20


def test_a_kind_that_is_none_is_named() -> None:
    with pytest.raises(KeyError, match="tram"):
        vehicle(1, "tram", 2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heading", [0.0, 1.2, np.pi, -1.9])
def test_each_kind_is_seen_from_any_side_as_tall_as_it_is(kind: str, heading: float) -> None:
    shapes = vehicle_shapes(
        5,
        kind=kind,
        height=2.0,
        pose=Pose(0.0, 20.0, heading, 3.0, 1.0),
        to_pixels=lambda points: project(points, view=VIEW, width=160),
        pixels_per_metre=10.0,
    )
    sprite = rasterise(shapes, height=96, width=160)
    assert sprite is not None
    rows = np.flatnonzero((sprite.rgba[..., 3] > 128).any(axis=1))
    assert 18 <= rows.size <= 34
