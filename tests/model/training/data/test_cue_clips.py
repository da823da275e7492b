"""Cue planes of a clip are the stream's, bit for bit, from the few frames that they depend on."""

from __future__ import annotations

import numpy as np
import pytest
from support.cue_scenes import Image, scene

from model.cues.state import CueState
from model.training.data.cue_clips import clip_cues, clip_indices, sample_indices


@pytest.mark.parametrize("fps", [10.0, 7.0, 29.97, 1.5])
@pytest.mark.parametrize("cues", [("background",), ("flow",), ("background", "flow")])
def test_a_clips_planes_are_those_of_the_whole_stream(cues: tuple[str, ...], fps: float) -> None:
    state = CueState(cues)
    planes = [state.update(scene(i, pan=1), i / fps) for i in range(160)]
    assert state.num_cuts == 0
    for first, num_frames in ((0, 5), (9, 5), (20, 1), (33, 7), (155, 5)):
        asked: list[int] = []

        def frame(index: int, asked: list[int] = asked) -> Image:
            asked.append(index)
            return scene(index, pan=1)

        got = clip_cues(cues, frame, first=first, num_frames=num_frames, fps=fps)
        assert np.array_equal(got, np.stack(planes[first : first + num_frames]))
        assert asked == clip_indices(cues, first, num_frames, fps)
        assert len(asked) <= num_frames + 9 + ("flow" in cues)


def test_sample_indices() -> None:
    assert sample_indices(0, 10) == []
    assert sample_indices(5, 10) == [0]
    assert sample_indices(11, 10) == [0, 5, 10]
    assert sample_indices(100, 10) == list(range(55, 100, 5))
    assert clip_indices(("background", "flow"), 11, 2, 10) == [0, 5, 10, 11, 12]
    assert clip_indices(("background", "flow"), 13, 2, 10) == [0, 5, 10, 12, 13, 14]
    with pytest.raises(ValueError, match="fps=0"):
        sample_indices(3, 0)
