"""Whole streams over real encoded files: decoding, windows, network, tracks, sinks, counting."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from support.rtsp_server import RtspServer
from support.streams import tiny_config
from support.video import numbered_picture, write_video

from pipeline import FrameResult, Stream, StreamConfig
from pipeline.errors import OutputError, SourceError, SourceNotFound
from pipeline.inference.network_predictor import NetworkPredictor, load_predictor
from pipeline.inference.predictor import Capabilities, Finish
from pipeline.types import End, Frame, Gap, SourceState, Window, WindowPrediction


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", num_frames=50, fps=25)


def assert_ledger(report: dict[str, Any]) -> None:
    assert report["read"] == report["published"] + sum(report["dropped"].values())
    for each in report["sources"].values():
        assert each["read"] == each["published"] + sum(each["dropped"].values())


def same_instances(a: FrameResult, b: FrameResult) -> bool:
    return a.instances == b.instances and a.frame.index == b.frame.index


def test_a_for_loop_over_a_stream_gives_each_sampled_frame_once_in_order(clip: Path) -> None:
    stream = Stream(tiny_config(clip))
    results = list(stream)
    assert [result.frame.index for result in results] == [slot * 5 // 2 for slot in range(20)], "10 of 25 fps"
    assert all(result.revision == 0 and result.final and not result.held for result in results)
    assert any(result.instances for result in results), "the untrained default passes the thresholds"
    assert results[-1].masks.shape[1:] == (96, 128)
    report = stream.report()
    assert (report["read"], report["published"], report["dropped"]["cadence"]) == (50, 20, 30)
    assert report["windows"] == 20
    assert report["sources"]["source0"]["end"] == "end_of_file"
    assert_ledger(report)
    with pytest.raises(RuntimeError, match="runs once"):
        list(stream)


def test_the_cache_changes_nothing_at_all(clip: Path) -> None:
    """Bit-equal: the same predictions with per-frame features kept as with every frame encoded again."""
    runs = []
    for cache in (True, False):
        config = tiny_config(
            clip, cadence={"fps": "source"}, window={"stride": 2}, model={"cache": cache}, max_frames=24
        )
        seen: list[WindowPrediction] = []
        predictor = load_predictor(config)
        begin = predictor.begin

        def record(
            windows: Sequence[Window], begin: Any = begin, seen: list[WindowPrediction] = seen
        ) -> Finish:
            predictions = begin(windows)()
            seen.extend(predictions)
            return lambda: predictions

        predictor.begin = record  # type: ignore[method-assign]
        runs.append((seen, list(Stream(config, predictor=predictor))))
    (cached, cached_results), (plain, plain_results) = runs
    assert len(cached) == len(plain) == 12
    for one, other in zip(cached, plain, strict=True):
        assert np.array_equal(one.mask_logits, other.mask_logits)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
    assert all(map(same_instances, cached_results, plain_results))


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("emission", ["first", "final", "both"])
def test_every_frame_is_published_whatever_stride_and_emission(
    clip: Path, stride: int, emission: str
) -> None:
    config = tiny_config(
        clip, cadence={"fps": "source"}, window={"stride": stride}, emission=emission, max_frames=13
    )
    stream = Stream(config)
    results = list(stream)
    firsts = [result.frame.index for result in results if result.revision == 0]
    finals = [result.frame.index for result in results if result.final]
    assert firsts == list(range(13))
    assert finals == list(range(13))
    assert len(results) == (26 if emission == "both" else 13)
    report = stream.report()
    assert report["windows"] == -(-13 // stride)
    assert report["published"] == 13
    assert_ledger(report)


def test_a_source_shorter_than_the_window_is_published_whole(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "short.mp4", num_frames=3)
    results = list(Stream(tiny_config(clip, cadence={"fps": "source"}, window={"stride": 5})))
    assert [result.frame.index for result in results] == [0, 1, 2]
    assert results[0].window == (0, 2)


def test_t_of_one_streams(clip: Path) -> None:
    config = tiny_config(clip, model={"network": {"num_frames": 1}})
    assert len(list(Stream(config))) == 20


def test_held_frames_carry_the_last_instances_in_their_place_in_time(clip: Path) -> None:
    stream = Stream(tiny_config(clip, cadence={"fps": 5.0, "hold": True}, max_frames=20))
    results = list(stream)
    assert [result.frame.index for result in results] == list(range(20))
    assert [result.frame.index for result in results if not result.held] == [0, 5, 10, 15]
    assert results[7].instances == results[6].instances
    report = stream.report()
    assert (report["published"], report["dropped"]["cadence"]) == (20, 0)
    assert_ledger(report)


def test_several_sources_run_side_by_side_and_a_broken_one_does_not_touch_the_others(
    tmp_path: Path, clip: Path
) -> None:
    other = write_video(tmp_path / "other.mp4", num_frames=30, fps=10, height=64, width=64)
    sources = {"left": str(clip), "right": str(other), "gone": str(tmp_path / "absent.mp4")}
    stream = Stream(tiny_config(sources))
    seen: dict[str, list[int]] = {"left": [], "right": []}

    def consume() -> None:
        for result in stream:
            seen[result.source].append(result.frame.index)

    with pytest.raises(SourceNotFound, match=r"absent\.mp4") as caught:
        consume()
    assert caught.value.source == "gone"
    assert len(seen["left"]) == 20
    assert seen["right"] == list(range(30))
    report = stream.report()
    assert report["sources"]["gone"]["end"] == "error"
    assert report["sources"]["right"]["end"] == "end_of_file"
    assert_ledger(report)


def test_leaving_the_loop_stops_all_threads_and_still_accounts_for_every_frame(clip: Path) -> None:
    before = set(threading.enumerate())
    stream = Stream(tiny_config(clip, cadence={"fps": "source"}))
    for result in stream:
        if result.frame.index == 3:
            break
    assert not threads_since(before)
    report = stream.report()
    assert report["published"] == 4
    assert report["dropped"]["stop"] > 0
    assert_ledger(report)


def test_a_stream_that_was_closed_before_it_ran_says_so(clip: Path) -> None:
    stream = Stream(tiny_config(clip))
    with stream:
        assert stream.report()["read"] == 0
    with pytest.raises(RuntimeError, match="runs once"):
        list(stream)


def test_two_streams_run_in_one_process(clip: Path) -> None:
    first, second = Stream(tiny_config(clip, max_frames=10)), Stream(tiny_config(clip, max_frames=20))
    pairs = list(zip(first, second, strict=False))
    assert [one.frame.index for one, _ in pairs] == [0, 2, 5, 7]
    assert [other.frame.index for _, other in pairs] == [0, 2, 5, 7]


def test_stop_drains_what_was_read_and_loses_nothing(clip: Path) -> None:
    stream = Stream(tiny_config(clip, cadence={"fps": "source"}))
    for number, _ in enumerate(stream):
        if number == 5:
            stream.stop()
    report = stream.report()
    assert report["sources"]["source0"]["end"] == "stopped"
    assert 6 <= report["published"] < 50
    assert report["dropped"]["stop"] == 0
    assert report["read"] == report["published"]


class Collector:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[FrameResult | Gap | End] = []
        self.states: list[SourceState] = []
        self.closed = 0

    def start(self) -> None:
        assert not self.items

    def write(self, result: FrameResult) -> None:
        self.items.append(result)

    def gap(self, gap: Gap) -> None:
        self.items.append(gap)

    def end(self, end: End) -> None:
        self.items.append(end)

    def state(self, source: str, state: SourceState) -> None:
        self.states.append(state)

    def poll(self) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed += 1


def test_a_change_of_resolution_ends_all_tracks_and_the_stream_goes_on(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(96, 128)] * 6 + [(64, 160)] * 6):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), numbered_picture(number, height=height, width=width))
    sink = Collector()
    Stream(tiny_config(tmp_path), sinks=[sink]).run()
    kinds = [type(item).__name__ for item in sink.items]
    assert kinds == ["FrameResult"] * 6 + ["Gap"] + ["FrameResult"] * 6 + ["End"]
    before = {
        each.track_id for item in sink.items[:6] if isinstance(item, FrameResult) for each in item.instances
    }
    after = {
        each.track_id
        for item in sink.items[7:]
        if isinstance(item, FrameResult)
        for each in item.instances
        if each.mask is not None
    }
    assert before
    assert not before & after, "ids are never reused after a gap"
    assert sink.closed == 1


class Broken(Collector):
    """Takes two results and is broken from then on."""

    def write(self, result: FrameResult) -> None:
        if len(self.items) == 2:
            raise OSError("no space left")
        super().write(result)

    def end(self, end: End) -> None:
        raise OSError("still no space")

    def close(self) -> None:
        super().close()
        raise OSError("no space to close")


def test_a_sink_that_fails_at_every_step_ends_nothing_and_is_raised_after_the_end(clip: Path) -> None:
    before = set(threading.enumerate())
    sink, other = Broken(), Collector()
    stream = Stream(tiny_config(clip), sinks=[sink, other])
    results = []

    def consume() -> None:
        results.extend(stream)

    with pytest.raises(OSError, match="no space left"):
        consume()
    assert len(results) == len(other.items) - 1 == 20, "the loop and the other sink got all"
    assert isinstance(other.items[-1], End)
    assert other.items[-1].reason == "end_of_file"
    assert (sink.closed, other.closed) == (1, 1)
    assert not threads_since(before)
    report = stream.report()
    assert report["published"] == 20
    assert_ledger(report)
    broken, whole = report["sinks"]
    assert (broken["name"], broken["state"], broken["not_taken"]) == ("Broken", "failed", 18)
    assert broken["fault"] == "OSError: no space to close"
    assert broken["sources"] == {"source0": 18}
    assert (whole["state"], whole["fault"], whole["not_taken"]) == ("ok", None, 0)
    assert report["sources"]["source0"]["health"] == {"sink": 1}


def test_a_sink_that_fails_for_one_source_takes_the_others(clip: Path, tmp_path: Path) -> None:
    class Picky(Collector):
        def write(self, result: FrameResult) -> None:
            if result.source == "left":
                raise ValueError("not this one")
            super().write(result)

    other = write_video(tmp_path / "other.mp4", num_frames=30, fps=10)
    sink = Picky()
    stream = Stream(tiny_config({"left": str(clip), "right": str(other)}), sinks=[sink])
    with pytest.raises(ValueError, match="not this one"):
        stream.run()
    assert sum(isinstance(item, FrameResult) for item in sink.items) == 30
    report = stream.report()
    assert report["sinks"][0]["sources"] == {"left": 20, "right": 0}
    assert report["sources"]["left"]["health"] == {"sink": 1}
    assert report["sources"]["right"]["health"] == {}
    assert_ledger(report)


def test_a_recording_that_fails_for_one_camera_leaves_the_others_and_their_recordings(
    clip: Path, tmp_path: Path
) -> None:
    inputs = {"left": str(clip), "right": str(clip)}
    record = {"path": str(tmp_path / "{source}" / "out.mp4")}
    stream = Stream(tiny_config(inputs, record=record))
    seen = {"left": 0, "right": 0}

    def consume() -> None:
        for result in stream:
            seen[result.source] += 1
            if result.source == "left" and seen["left"] == 3:
                shutil.rmtree(tmp_path / "left")
                (tmp_path / "left").write_text("in the way of a new folder")

    with pytest.raises(OutputError, match=r"left/out\.mp4 (failed|cannot go on)"):
        consume()
    assert seen == {"left": 20, "right": 20}
    with av.open(str(tmp_path / "right" / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    report = stream.report()
    (sink,) = report["sinks"]
    assert (sink["name"], sink["state"]) == ("record", "failed")
    assert sink["sources"] == {"left": 20, "right": 0}
    assert report["sources"]["left"]["health"] == {"record": 1}
    assert report["sources"]["right"]["health"] == {}
    assert_ledger(report)


def test_an_error_of_the_loop_body_ends_the_stream(clip: Path) -> None:
    sink = Collector()
    stream = Stream(tiny_config(clip, cadence={"fps": "source"}), sinks=[sink])

    def consume() -> None:
        for result in stream:
            if result.frame.index == 3:
                raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="own"):
        consume()
    assert isinstance(sink.items[-1], End)
    assert sink.items[-1].reason == "stopped"
    assert sink.closed == 1
    assert stream.report()["published"] == 4
    assert_ledger(stream.report())


def test_a_sink_that_cannot_start_ends_the_stream_before_the_first_frame(clip: Path) -> None:
    class NoStart(Collector):
        def start(self) -> None:
            raise OSError("address in use")

    sink, other = NoStart(), Collector()
    stream = Stream(tiny_config(clip), sinks=[sink, other])
    with pytest.raises(OSError, match="address in use"):
        stream.run()
    assert (sink.closed, other.closed) == (1, 1)
    assert stream.report()["read"] == 0


def test_a_sink_that_fails_only_when_it_closes_is_heard(clip: Path) -> None:
    class FailsAtClose(Collector):
        def close(self) -> None:
            raise OSError("the disk was full")

    other = Collector()
    with pytest.raises(OSError, match="the disk was full"):
        Stream(tiny_config(clip, max_frames=5), sinks=[FailsAtClose(), other]).run()
    assert other.closed == 1


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("emission", ["first", "both"])
def test_held_frames_keep_their_place_at_every_stride(clip: Path, stride: int, emission: str) -> None:
    config = tiny_config(
        clip, cadence={"fps": 5.0, "hold": True}, window={"stride": stride}, emission=emission, max_frames=33
    )
    stream = Stream(config)
    results = list(stream)
    firsts = [result.frame.index for result in results if result.revision == 0]
    assert firsts == list(range(33))
    assert sorted(result.frame.index for result in results if result.final) == list(range(33))
    assert stream.report()["published"] == 33
    assert_ledger(stream.report())


def test_held_frames_that_wait_for_a_long_window_are_bounded_and_counted(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "slow.mp4", num_frames=200)
    # The clip's pictures are numbers; from 127 to 128 nearly all of them flips, which is a cut.
    config = tiny_config(
        clip,
        source={"detect_cuts": False},
        cadence={"fps": 0.2, "hold": True},
        window={"stride": 5},
    )
    stream = Stream(config)
    indices = [result.frame.index for result in stream]
    assert indices == sorted(indices)
    report = stream.report()
    assert report["dropped"]["stale"] == 200 - report["published"] > 0
    assert report["published"] <= 64 + 2
    assert_ledger(report)


def test_the_first_fault_of_the_inference_thread_reaches_the_caller(clip: Path) -> None:
    predictor = load_predictor(tiny_config(clip))
    windows: list[Window] = []

    def fail(begun: Sequence[Window]) -> Finish:
        windows.extend(begun)
        raise RuntimeError("the device went away")

    predictor.begin = fail  # type: ignore[method-assign]
    sink = Collector()
    stream = Stream(tiny_config(clip), predictor=predictor, sinks=[sink])
    with pytest.raises(RuntimeError, match="the device went away"):
        stream.run()
    assert len(windows) == 1
    assert sink.closed == 1
    assert_ledger(stream.report())


def threads_since(before: set[threading.Thread]) -> set[str]:
    """Names of the threads that are there since; a compiled engine may be loaded on, and ends by itself."""
    return {each.name for each in set(threading.enumerate()) - before} - {"engine-loader"}


class Watched:
    """A predictor whose calls are noted; what it returns is the network's."""

    def __init__(
        self, config: StreamConfig, *, prepare_seconds: float = 0.0, predict_seconds: float = 0.02
    ) -> None:
        self._predictor = load_predictor(config)
        self.facts = self._predictor.facts
        # The thread that prepares has nothing to do but to begin with what waits.
        self.capabilities = Capabilities(prepare=self.prepare, forget=self.forget)
        self._prepare_seconds, self._predict_seconds = prepare_seconds, predict_seconds
        self.calls: list[tuple[str, int | None]] = []
        self.threads: set[str] = set()

    def prepare(self, frame: Frame) -> None:
        time.sleep(self._prepare_seconds)
        self.calls.append(("prepare", frame.index))
        self.threads.add(threading.current_thread().name)
        self._predictor.prepare(frame)

    def begin(self, windows: Sequence[Window]) -> Finish:
        time.sleep(self._predict_seconds)
        self.calls += [("predict", window.frames[-1].index) for window in windows]
        return self._predictor.begin(windows)

    def forget(self, source: str) -> None:
        self.calls.append(("forget", None))
        self._predictor.forget(source)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_waits_is_prepared_while_a_window_is_predicted(clip: Path, stride: int) -> None:
    config = tiny_config(clip, cadence={"fps": "source"}, window={"stride": stride}, max_frames=20)
    watched = Watched(config)
    stream = Stream(config, predictor=watched)
    stream.run()
    prepared = [index for what, index in watched.calls if what == "prepare"]
    assert prepared == list(range(20)), "each once, in order"
    assert watched.threads == {"prepare"}
    ahead = []
    for index in range(stride - 1, 20, stride):
        place = watched.calls.index(("predict", index))
        ahead.append(sum(what == "prepare" for what, _ in watched.calls[:place]) - index - 1)
    assert max(ahead) == stride, "a window's worth, no more"
    assert min(ahead) >= 0, "no window before its frames"


@pytest.mark.rtsp
def test_of_a_camera_that_is_too_fast_the_next_frame_is_prepared_too() -> None:
    """Its lane holds one frame: what comes while a frame is prepared must be taken up before the window."""
    with RtspServer(live=True, size=(96, 128), fps=30) as server:
        config = tiny_config(server.live_url, cadence={"fps": "source"}, max_frames=60)
        watched = Watched(config, prepare_seconds=0.03, predict_seconds=0.07)
        stream = Stream(config, predictor=watched)
        stream.run()
    assert stream.report()["dropped"]["stale"] > 0
    kinds = [what for what, _ in watched.calls if what != "forget"]
    places = [place for place, what in enumerate(kinds) if what == "predict"]
    ahead = [kinds[:place].count("prepare") - number - 1 for number, place in enumerate(places)]
    assert sum(ahead) > len(ahead) / 2


def same_picture(a: FrameResult, b: FrameResult) -> bool:
    """Whether two results have the same ids with masks that differ by rounding at most."""
    if [each.track_id for each in a.instances] != [each.track_id for each in b.instances]:
        return False
    return (a.masks != b.masks).sum() <= 1e-3 * a.masks.size


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_several_sources_are_decoded_in_batches_with_the_same_results(
    tmp_path: Path, stride: int
) -> None:
    clips = {
        name: str(write_video(tmp_path / f"{name}.mp4", num_frames=num, fps=10, first=first))
        for name, num, first in (("a", 14, 0), ("b", 9, 20), ("c", 12, 40))
    }
    sizes: list[int] = []

    class Batching(NetworkPredictor):
        def begin(self, windows: Sequence[Window]) -> Finish:
            time.sleep(0.05)  # the decoders are ahead
            sizes.append(len(windows))
            assert len({window.frames[-1].source for window in windows}) == len(windows)
            return super().begin(windows)

    runs: list[dict[tuple[str, int], FrameResult]] = []
    for max_batch in (1, 3):
        config = tiny_config(clips, model={"max_batch": max_batch}, window={"stride": stride})
        predictor = load_predictor(config)
        predictor.__class__ = Batching
        stream = Stream(config, predictor=predictor)
        runs.append({(each.frame.source, each.frame.index): each for each in stream})
        assert_ledger(stream.report())
        assert (max(sizes) > 1) == (max_batch > 1)
        assert max(sizes) <= max_batch
        sizes.clear()
    one_by_one, together = runs
    assert len(one_by_one) == 14 + 9 + 12
    assert together.keys() == one_by_one.keys()
    assert all(same_picture(together[key], one_by_one[key]) for key in one_by_one)
    assert any(result.instances for result in together.values())


def test_nothing_is_prepared_beyond_a_gap(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(96, 128)] * 4 + [(64, 160)] * 4):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), numbered_picture(number, height=height, width=width))
    config = tiny_config(tmp_path)
    watched = Watched(config)
    Stream(config, predictor=watched).run()
    forgotten = watched.calls.index(("forget", None))
    assert watched.calls.index(("prepare", 3)) < watched.calls.index(("predict", 3)) < forgotten
    assert forgotten < watched.calls.index(("prepare", 4))


def test_a_fault_while_preparing_reaches_the_caller(clip: Path) -> None:
    config = tiny_config(clip)
    watched = Watched(config)

    def fail(frame: Frame) -> None:
        raise RuntimeError(f"no memory for frame {frame.index}")

    watched.capabilities = replace(watched.capabilities, prepare=fail)
    stream = Stream(config, predictor=watched)
    with pytest.raises(RuntimeError, match="no memory for frame 0"):
        stream.run()
    assert_ledger(stream.report())


def test_a_fault_of_the_only_source_is_raised_after_the_sinks_were_told(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is no video\n" * 100)
    sink = Collector()
    with pytest.raises(SourceError, match=r"notes\.mp4"):
        Stream(tiny_config(text), sinks=[sink]).run()
    assert isinstance(sink.items[-1], End)
    assert sink.items[-1].reason == "error"


def test_one_line_is_enough_with_the_default_model(clip: Path) -> None:
    stream = Stream(StreamConfig(source=str(clip), max_frames=8))  # type: ignore[arg-type]
    results = list(stream)
    assert len(results) == 4
    assert stream.report()["windows"] == 4
