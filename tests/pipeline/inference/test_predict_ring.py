"""What the network's predictor keeps of a source: a fixed number of frames, whatever the stream does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.streams import tiny_config
from support.video import write_resized_video, write_video

from pipeline.inference.network_predictor import NetworkPredictor, load_predictor
from pipeline.inference.predictor import Finish
from pipeline.live.stream import Stream
from pipeline.types import Window, WindowPrediction

T = 5  # of the tiny network


class Counted(NetworkPredictor):
    """Notes how many slots each source's ring has when the source is forgotten, and what was predicted."""

    num_slots: list[int]
    seen: list[WindowPrediction]

    def begin(self, windows: Sequence[Window]) -> Finish:
        finish = super().begin(windows)

        def noted() -> list[WindowPrediction]:
            predictions = finish()
            self.seen += predictions
            return predictions

        return noted

    def forget(self, source: str) -> None:
        kept = self._sources.get(source)
        if kept is not None:
            self.num_slots.append(kept.features.num_slots)
        super().forget(source)


def run(inputs: str | Path | dict[str, str], **sections: Any) -> Counted:
    config = tiny_config(inputs, cadence={"fps": "source"}, **sections)
    predictor = load_predictor(config)
    predictor.__class__ = Counted
    assert isinstance(predictor, Counted)
    predictor.num_slots, predictor.seen = [], []
    predictor.capabilities = replace(predictor.capabilities, forget=predictor.forget)
    Stream(config, predictor=predictor).run()
    assert predictor._sources == {}, "nothing is kept of a source that has ended"
    return predictor


@pytest.mark.parametrize(("stride", "max_batch"), [(1, 1), (3, 1), (5, 2)])
def test_a_stream_takes_no_more_slots_than_it_begins_with(
    tmp_path: Path, stride: int, max_batch: int
) -> None:
    names = [f"source{number}" for number in range(max_batch)]
    clips = {name: str(write_video(tmp_path / f"{name}.mp4", num_frames=30)) for name in names}
    predictor = run(clips, window={"stride": stride}, model={"max_batch": max_batch})
    assert predictor.num_slots == [T + 1 + stride * (1 + max_batch)] * max_batch


def test_a_gap_begins_a_new_ring_and_without_the_cache_t_slots_do(tmp_path: Path) -> None:
    clip = write_resized_video(tmp_path / "resized.ts", [(96, 128), (64, 128)], num_frames=12)
    cached, plain = run(clip), run(clip, model={"cache": False})
    assert cached.num_slots == [T + 3] * 2
    assert plain.num_slots == [T] * 2
    assert len(cached.seen) == len(plain.seen) == 24
    for one, other in zip(cached.seen, plain.seen, strict=True):
        assert np.array_equal(one.mask_logits, other.mask_logits)
        assert np.array_equal(one.scores, other.scores)
        assert one.fit == other.fit
    assert {prediction.fit.source_height for prediction in cached.seen} == {96, 64}
