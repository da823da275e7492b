"""Cars as meshes: their size and where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.data.meshes.cars import car_surfaces


def test_cars_are_as_long_and_wide_as_cars_and_stand_on_the_ground() -> None:
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
