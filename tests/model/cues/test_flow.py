"""The flow cue: what moves against the camera, as speed, and the camera's own motion."""

from __future__ import annotations

import numpy as np
import pytest
from support.cue_scenes import HEIGHT, WIDTH, scene

from model.cues.flow import FlowCue, scale_motion
from model.cues.state import CueState


def test_flow_shows_the_toy_and_not_the_cameras_pan() -> None:
    for pan in (0, 3):
        cue = FlowCue()
        assert not cue.update(scene(4, pan=pan), 0.4).any()
        right, down = cue.update(scene(5, pan=pan), 0.5)
        left = 4 + 2 * 5
        toy = right[26:38, left + 6 : left + 18]
        # Two pixels of the picture, while the ground moves by -pan: 4 pixels are 1.
        assert np.median(toy) == pytest.approx((2 + pan) / 4, abs=0.15)
        assert abs(np.median(down)) < 0.05
        assert np.median(np.abs(right[:, 60:])) < 0.1


@pytest.mark.parametrize("pan", [2, 3])
def test_flow_tells_the_cameras_motion_in_pixels_of_the_frame(pan: int) -> None:
    cue = FlowCue()
    assert cue.camera is None
    for index in range(6):
        cue.update(scene(index, pan=pan), index / 10)
        if index == 0:
            assert cue.camera is None, "nothing to compare it with"
            continue
        assert cue.camera is not None
        corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], np.float64)
        shifts = corners @ cue.camera[:, :2].T + cue.camera[:, 2] - corners
        assert np.abs(shifts - (-pan, 0)).max() < 1.0
    cue.update(scene(6, pan=pan), 5.0)
    assert cue.camera is None, "too far apart"
    cue.update(scene(7, pan=pan), 5.1)
    assert cue.camera is not None
    cue.reset()
    assert cue.camera is None


def test_a_still_camera_has_exactly_no_motion_whatever_moves_before_it() -> None:
    noise = np.random.default_rng(0)
    state = CueState(("background", "flow"))
    for index in range(12):
        grain = noise.integers(-3, 4, (HEIGHT, WIDTH, 3))
        state.update(np.clip(scene(index) + grain, 0, 255).astype(np.uint8), index / 10)
        assert (state.camera is None) == (index == 0)
        assert state.camera is None or np.array_equal(state.camera, np.eye(2, 3))
    assert CueState(("background",)).camera is None


def test_a_motion_scaled_is_the_same_motion_of_a_larger_picture() -> None:
    motion = np.array([[1.1, 0.2, 3.0], [-0.1, 0.9, -2.0]])
    place = np.array([10.0, 20.0])
    larger = scale_motion(motion, (2.0, 3.0))
    there = motion[:, :2] @ place + motion[:, 2]
    assert larger[:, :2] @ (place * (2, 3)) + larger[:, 2] == pytest.approx(there * (2, 3))


def test_flow_is_speed_not_distance() -> None:
    planes = []
    for interval in (0.1, 0.2):
        cue = FlowCue()
        cue.update(scene(4), 0.0)
        planes.append(cue.update(scene(5), interval))
    assert np.allclose(planes[0], 2 * planes[1], atol=1e-6)
    assert not cue.update(scene(6), 5.0).any()
    assert cue.warm
    assert not cue.update(scene(7), 5.0).any()  # no time between


def test_flow_leaves_thin_pictures_out_and_is_the_same_twice() -> None:
    thin = FlowCue()
    assert not any(thin.update(scene(i)[:20], i / 10).any() for i in range(3))
    one, other = (CueState(("flow",)) for _ in range(2))
    for i in range(4):
        assert np.array_equal(one.update(scene(i, pan=2), i / 10), other.update(scene(i, pan=2), i / 10))
    flat = FlowCue()
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    assert not flat.update(grey, 0.0).any()
    assert not flat.update(grey, 0.1).any()
