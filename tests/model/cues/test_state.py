"""All cues of a source: their planes, when they know nothing, and that cuts and resets start them over."""

from __future__ import annotations

import numpy as np
import pytest
from support.cue_scenes import HEIGHT, WIDTH, scene, texture

from model.config import CUE_PLANES
from model.cues.background import BackgroundDifference
from model.cues.flow import FlowCue
from model.cues.state import CUES, CueState


def test_a_cut_has_no_motion() -> None:
    state = CueState(("flow",))
    state.update(scene(0), 0.0)
    state.update(255 - scene(1), 0.1)
    assert state.num_cuts == 1
    assert state.camera is None


def test_cuts_and_resets_start_over() -> None:
    other = texture(seed=9)
    state, fresh = CueState(("background", "flow")), CueState(("background", "flow"))
    before = [state.update(scene(i), i / 10) for i in range(20)]
    assert state.num_cuts == 0
    assert before[-1][0].any()
    assert before[-1][1].any()
    assert not state.never_warm
    after = [state.update(other, (20 + i) / 10) for i in range(15)]
    assert state.num_cuts == 1
    assert all(map(np.array_equal, after, (fresh.update(other, i / 10) for i in range(15))))
    state.reset()
    assert not any(state.update(scene(i), i / 10)[0].any() for i in range(11))
    assert state.num_cuts == 1  # no cut: the frames were not to be compared
    assert not state.never_warm


def test_every_cue_of_the_config_is_there_and_gives_its_planes() -> None:
    assert list(CUES) == list(CUE_PLANES)
    for name, planes in CUE_PLANES.items():
        state = CueState((name,))
        assert state.num_planes == planes
        assert state.update(scene(0), 0.0).shape == (planes, HEIGHT, WIDTH)
    assert CueState(()).update(scene(0), 0.0).shape == (0, HEIGHT, WIDTH)
    assert CueState(("background", "flow")).update(scene(0), 0.0).shape == (3, HEIGHT, WIDTH)


def test_too_short_to_warm_up_is_zeros() -> None:
    state = CueState(("background",))
    assert not any(state.update(scene(i), i / 10).any() for i in range(11))
    assert state.never_warm
    assert state.update(scene(11), 1.1).any()
    assert not state.never_warm


class TestRefused:
    def test_another_size_without_a_reset(self) -> None:
        for cue in (CueState(("background",)), BackgroundDifference(), FlowCue()):
            cue.update(scene(0), 0.0)
            with pytest.raises(ValueError, match=r"a frame of 32×96 follows frames of 64×96: call reset\(\)"):
                cue.update(scene(1)[:32], 0.1)
            cue.reset()
            cue.update(scene(1)[:32], 0.1)

    def test_no_image(self) -> None:
        state = CueState(("background",))
        with pytest.raises(ValueError, match="uint8, got"):
            state.update(scene(0).astype(np.float32), 0.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\(64, 96\) uint8"):
            state.update(scene(0)[..., 0], 0.0)

    def test_unknown_cue(self) -> None:
        with pytest.raises(ValueError, match="cue 'colour' is not one of 'background', 'flow'"):
            CueState(("colour",))
