"""Where an actor is at a time: its pauses and turns."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.data.scene.geometry import pose
from model.training.data.scene.scenes import Actor


def test_walker_pauses_turns_and_never_jumps() -> None:
    actor = Actor(
        kind="walker",
        seed=1,
        height=1.7,
        times=(0.0, 2.0, 4.0, 6.0),
        xs=(0.0, 2.8, 2.8, 2.8),
        zs=(5.0, 5.0, 5.0, 7.0),
    )
    poses = [pose(actor, step / 10) for step in range(60)]
    steps = np.hypot(np.diff([p.x for p in poses]), np.diff([p.z for p in poses]))
    assert steps.max() < 0.16
    assert poses[30].speed == 0.0
    assert poses[30].distance == pytest.approx(2.8)
    assert poses[10].heading == pytest.approx(0.0)
    assert poses[50].heading == pytest.approx(np.pi / 2)
