"""Windows that are begun before the one before is finished: the same results, in the same order."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.streams import tiny_config
from support.video import read, write_resized_video, write_video

from pipeline.config import StreamConfig
from pipeline.inference.network_predictor import NetworkPredictor, load_predictor
from pipeline.inference.predictor import Finish
from pipeline.live.inference_loop import Inference
from pipeline.live.queues import LaneQueue
from pipeline.live.source_run import SourceRun
from pipeline.live.stream import Stream
from pipeline.types import End, Frame, FrameResult, Gap, SourceState, Window, WindowPrediction


class Overlapped(NetworkPredictor):
    """The network's predictor, used as on a GPU though it computes at once; its calls are noted."""

    calls: list[tuple[str, int | str]]
    fails_at: int | None

    def begin(self, windows: Sequence[Window]) -> Finish:
        time.sleep(0.01)  # the decoders are ahead
        assert len({window.frames[-1].source for window in windows}) == len(windows)
        number = sum(what == "begin" for what, _ in self.calls)
        self.calls.append(("begin", number))
        done = super().begin(windows)

        def finish() -> list[WindowPrediction]:
            assert ("finish", number) not in self.calls
            self.calls.append(("finish", number))
            if number == self.fails_at:
                raise RuntimeError("the device went away")
            return done()

        return finish

    def forget(self, source: str) -> None:
        self.calls.append(("forget", source))
        super().forget(source)


def overlapped(config: StreamConfig, *, fails_at: int | None = None) -> Overlapped:
    predictor = load_predictor(config)
    predictor.__class__ = Overlapped
    assert isinstance(predictor, Overlapped)
    predictor.calls, predictor.fails_at = [], fails_at
    predictor.capabilities = replace(predictor.capabilities, overlaps=True, forget=predictor.forget)
    return predictor


class Collector:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[FrameResult | Gap | End] = []

    def start(self) -> None: ...

    def write(self, result: FrameResult) -> None:
        self.items.append(result)

    def gap(self, gap: Gap) -> None:
        self.items.append(gap)

    def end(self, end: End) -> None:
        self.items.append(end)

    def state(self, source: str, state: SourceState) -> None: ...

    def poll(self) -> None: ...

    def close(self) -> None: ...


def told(items: Sequence[FrameResult | Gap | End], source: str) -> list[Any]:
    """All of a source that reaches a sink, in a form that can be compared."""
    return [
        (item.frame.index, item.instances, item.window, item.revision, item.final, item.held)
        if isinstance(item, FrameResult)
        else item
        for item in items
        if item.source == source
    ]


def run(config: StreamConfig, predictor: NetworkPredictor) -> tuple[list[Any], dict[str, Any]]:
    sink = Collector()
    report = Stream(config, predictor=predictor, sinks=[sink]).run()
    assert report["read"] == report["published"] + sum(report["dropped"].values())
    return sink.items, report


def open_at_once(calls: Sequence[tuple[str, int | str]]) -> list[int]:
    """How many windows were open after each call; each is finished in its turn, and before a source is
    forgotten."""
    opened: list[int | str] = []
    counts = []
    for what, number in calls:
        if what == "begin":
            opened.append(number)
        elif what == "finish":
            assert opened.pop(0) == number
        else:
            assert not opened
        counts.append(len(opened))
    return counts


@pytest.mark.parametrize(
    "sections",
    [
        {"cadence": {"fps": "source"}},
        {"cadence": {"fps": "source"}, "model": {"cache": False}},
        {"cadence": {"fps": "source"}, "window": {"stride": 3}, "emission": "both"},
        {"cadence": {"fps": 10.0, "hold": True}},
        {"cadence": {"fps": 10.0, "hold": True}, "window": {"stride": 3}, "emission": "both"},
    ],
    ids=["stride 1", "no cache", "stride 3, both", "hold", "hold, stride 3, both"],
)
def test_results_are_those_of_one_window_after_the_other(tmp_path: Path, sections: dict[str, Any]) -> None:
    """Over a change of resolution, and to an end that leaves a window unfilled."""
    clip = write_resized_video(tmp_path / "clip.ts", [(96, 128), (64, 160)], num_frames=16)
    config = tiny_config(clip, **sections)
    predictor = overlapped(config)
    plain, plain_report = run(config, load_predictor(config))
    items, report = run(config, predictor)
    assert told(items, "source0") == told(plain, "source0")
    assert [type(item).__name__ for item in items if not isinstance(item, FrameResult)] == ["Gap", "End"]
    assert any(isinstance(item, FrameResult) and item.instances for item in items)
    for key in ("read", "published", "windows"):
        assert report[key] == plain_report[key]
    counts = open_at_once(predictor.calls)
    assert max(counts) <= 2
    if not config.cadence.hold:
        assert max(counts) == 2, "the next window was begun before"
    assert counts[-1] == 0


@pytest.mark.parametrize("max_batch", [1, 3])
def test_several_sources_keep_their_results(tmp_path: Path, max_batch: int) -> None:
    lengths = {"a": 14, "b": 9, "c": 12}
    clips = {
        name: str(write_video(tmp_path / f"{name}.mp4", num_frames=num, fps=10, first=num))
        for name, num in lengths.items()
    }
    config = tiny_config(clips, model={"max_batch": max_batch})
    predictor = overlapped(config)
    plain, _ = run(config, load_predictor(config))
    items, report = run(config, predictor)
    assert report["windows"] == sum(lengths.values())
    for name in lengths:
        if max_batch == 1:
            assert told(items, name) == told(plain, name)
        else:  # other windows may stand in the batch, too: equal but for the last bits
            places = [
                item.frame.index for item in items if isinstance(item, FrameResult) and item.source == name
            ]
            assert places == list(range(lengths[name]))
    counts = open_at_once(predictor.calls)
    assert max(counts) == 2
    windows = sum(what == "begin" for what, _ in predictor.calls)
    assert (windows < sum(lengths.values())) == (max_batch > 1)


def test_what_nothing_follows_is_finished_at_once(tmp_path: Path) -> None:
    """A live source's next frame is far away: the result does not wait for it."""
    clip = write_video(tmp_path / "clip.mp4", num_frames=6)
    frames_read = read(clip).frames
    config = tiny_config({"camera": str(clip)}, cadence={"fps": "source"})
    predictor = overlapped(config)
    line = SourceRun("camera", str(clip), config, predictor.facts, threading.Event())
    frames: LaneQueue[Frame | Gap | End] = LaneQueue(["camera"])
    results: LaneQueue[FrameResult | Gap | End] = LaneQueue(["camera"])
    inference = Inference(config, predictor, {"camera": line}, frames=frames, results=results)
    thread = threading.Thread(target=inference.run)
    thread.start()
    for frame in frames_read:
        frames.put("camera", frame)
        got = results.get(30)
        assert got is not None
        assert isinstance(got[1], FrameResult)
        assert got[1].frame is frame
    frames.put("camera", End("camera", 0, "end_of_file"))
    got = results.get(30)
    assert got is not None
    assert isinstance(got[1], End)
    thread.join(30)
    assert not thread.is_alive()
    assert max(open_at_once(predictor.calls)) == 1


def test_a_fault_while_finishing_reaches_the_caller_and_every_frame_is_accounted_for(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    clip = write_video(tmp_path / "clip.mp4", num_frames=20)
    config = tiny_config(clip, cadence={"fps": "source"})
    predictor = overlapped(config, fails_at=4)
    sink = Collector()
    stream = Stream(config, predictor=predictor, sinks=[sink])
    with pytest.raises(RuntimeError, match="the device went away"):
        stream.run()
    assert not set(threading.enumerate()) - before
    assert [what for what, _ in predictor.calls].count("finish") == 5
    assert isinstance(sink.items[-1], End)
    assert sink.items[-1].reason == "error"
    report = stream.report()
    assert report["published"] <= 4
    assert report["read"] == report["published"] + sum(report["dropped"].values())


def test_stop_finishes_what_was_begun(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=50)
    config = tiny_config(clip, cadence={"fps": "source"})
    predictor = overlapped(config)
    stream = Stream(config, predictor=predictor)
    for number, _ in enumerate(stream):
        if number == 5:
            stream.stop()
    report = stream.report()
    assert report["sources"]["source0"]["end"] == "stopped"
    assert report["read"] == report["published"] == report["windows"] < 50
    assert open_at_once(predictor.calls)[-1] == 0


def test_on_a_cpu_windows_do_not_overlap(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=4)
    config = tiny_config(clip)
    assert not load_predictor(config).capabilities.overlaps
