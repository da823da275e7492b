"""Recorder: what it writes is decoded back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from numpy.typing import NDArray
from support.results import make_instance, make_result

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.overlay import draw_result, track_colour
from pipeline.sinks.recorder import Recorder
from pipeline.sinks.timeline import Timeline
from pipeline.types import End, FrameResult, Gap

ROOT = Path(__file__).parents[3]


def decode(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    """Return times in seconds and RGB pictures of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def record(path: Path, items: list[FrameResult | Gap | End], **options: str) -> None:
    """Write the items as the stream does."""
    with Recorder(path, RecordConfig(), sources=["source0"], **options) as recorder:
        for item in items:
            if isinstance(item, FrameResult):
                recorder.write(item)
            elif isinstance(item, Gap):
                recorder.gap(item)
            else:
                recorder.end(item)


def grey(level: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Return a picture of one grey."""
    return np.full((height, width, 3), level, dtype=np.uint8)


def test_a_recording_decodes_to_the_same_frames_times_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    mask = np.zeros((64, 96), dtype=np.bool_)
    mask[16:48, 24:72] = True
    times = [0.0, 0.033, 0.1, 0.4, 0.433]
    results = [
        make_result(index, seconds=5 + time, image=grey(60 + 40 * index), instances=[make_instance(mask)])
        for index, time in enumerate(times)
    ]
    record(path, [*results, End("source0", 0, "end_of_file")])
    decoded_times, pictures = decode(path)
    assert decoded_times == pytest.approx(times, abs=1e-4)
    assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 5
    for result, picture in zip(results, pictures, strict=True):
        drawn = draw_result(result)
        # Inside the tint, away from label and outline; and outside the mask. H.264 at crf 23 on flat areas:
        # ± 6.
        assert np.abs(picture[40, 60].astype(int) - drawn[40, 60]).max() <= 6
        assert np.abs(picture[56, 10].astype(int) - drawn[56, 10]).max() <= 6
    tint = pictures[0][40, 60].astype(float) - 0.55 * 60
    assert tint == pytest.approx(0.45 * np.array(track_colour(1)), abs=8)


def test_the_file_is_a_plain_tagged_mp4_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.mp4"
    record(path, [make_result(index) for index in range(30)])
    assert os.listdir(path.parent) == ["out.mp4"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1
        # A fragmented file does not know its number of frames.
        assert stream.frames == 30
        assert container.duration == pytest.approx(3e6, rel=0.05)


def test_odd_sizes_are_padded_to_even_ones(tmp_path: Path) -> None:
    record(tmp_path / "odd.mp4", [make_result(index, image=grey(200, 33, 51)) for index in range(3)])
    _, pictures = decode(tmp_path / "odd.mp4")
    assert pictures[0].shape == (34, 52, 3)
    assert np.abs(pictures[0][-1, -1].astype(int) - 200).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 5)])
def test_tiny_pictures_are_recorded(tmp_path: Path, size: tuple[int, int]) -> None:
    record(tmp_path / "tiny.mp4", [make_result(index, image=grey(90, *size)) for index in range(3)])
    _, pictures = decode(tmp_path / "tiny.mp4")
    assert len(pictures) == 3
    assert pictures[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)


def test_another_resolution_is_fitted_into_the_first_with_black_bars(tmp_path: Path) -> None:
    results = [make_result(0, image=grey(200)), make_result(1, image=grey(200, 64, 48))]
    record(tmp_path / "out.mp4", [results[0], Gap("source0", 0, "resolution"), results[1]])
    times, pictures = decode(tmp_path / "out.mp4")
    assert times == pytest.approx([0.0, 0.1], abs=1e-4)
    assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 2
    assert pictures[1][:, :18].max() <= 16
    assert pictures[1][:, -18:].max() <= 16
    assert np.abs(pictures[1][:, 30:66].astype(int) - 200).max() <= 8


def test_each_source_has_its_own_file_and_interleaving_does_not_mix_them(tmp_path: Path) -> None:
    template = tmp_path / "{source}.mp4"
    with Recorder(template, RecordConfig(), sources=["left", "right"]) as recorder:
        for index in range(6):
            recorder.write(make_result(index, source="left", image=grey(40)))
            if index % 2:
                recorder.write(make_result(index // 2, source="right", image=grey(220, 32, 32)))
        recorder.end(End("right", 0, "lost"))
        assert (tmp_path / "right.mp4").exists()
        assert not (tmp_path / "left.mp4").exists()
    _, left = decode(tmp_path / "left.mp4")
    _, right = decode(tmp_path / "right.mp4")
    assert (len(left), len(right)) == (6, 3)
    assert left[3].mean() == pytest.approx(40, abs=5)
    assert right[2].mean() == pytest.approx(220, abs=5)


def test_a_frame_is_written_once_in_order_in_its_final_revision(tmp_path: Path) -> None:
    """With `both`, final revisions come after later frames' first sight; held frames are final at once."""
    results = [
        make_result(0, image=grey(10), final=False),
        make_result(1, image=grey(110), held=True),
        make_result(2, image=grey(10), final=False),
        make_result(0, image=grey(60), revision=1),
        make_result(2, image=grey(160), revision=1),
        make_result(2, image=grey(10), revision=2),
        make_result(3, image=grey(210), final=False),
    ]
    record(tmp_path / "out.mp4", [*results, End("source0", 0, "stopped")])
    times, pictures = decode(tmp_path / "out.mp4")
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-4)
    assert [picture.mean() for picture in pictures] == pytest.approx([60, 110, 160, 210], abs=5)


def test_a_frame_whose_final_revision_never_comes_is_not_waited_for_without_bound(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    recorder.write(make_result(0, final=False))
    for index in range(1, 200):
        recorder.write(make_result(index))
    assert (tmp_path / "out.partial.mp4").exists()
    recorder.close()
    times, _ = decode(tmp_path / "out.mp4")
    assert len(times) == 200


def test_time_goes_on_over_a_reconnect_by_the_time_that_passed(tmp_path: Path) -> None:
    items: list[FrameResult | Gap | End] = []
    items += [make_result(index, captured_seconds=100 + index / 10) for index in range(3)]
    items.append(Gap("source0", 1, "reconnect"))
    items += [
        make_result(index, epoch=1, seconds=0.04 * (index - 3), captured_seconds=102.2 + 0.04 * (index - 3))
        for index in range(3, 6)
    ]
    record(tmp_path / "out.mp4", items)
    times, _ = decode(tmp_path / "out.mp4")
    assert times == pytest.approx([0.0, 0.1, 0.2, 2.2, 2.24, 2.28], abs=1e-4)


def test_recording_time_rises_strictly_whatever_stream_time_does() -> None:
    timeline = Timeline()
    seconds = [10.0, 10.04, 10.04, 10.03, 10.08, 3.0, 3.04]
    placed = [timeline.place(make_result(i, seconds=s).frame) for i, s in enumerate(seconds)]
    assert all(later > earlier for earlier, later in pairwise(placed))
    assert placed[4] == pytest.approx(0.08)
    assert placed[5] - placed[4] < 0.1
    assert placed[6] - placed[5] == pytest.approx(0.04)


def test_a_discontinuity_does_not_stretch_the_recording() -> None:
    timeline = Timeline()
    placed = [timeline.place(make_result(i, seconds=i / 25).frame) for i in range(3)]
    timeline.gap(Gap("source0", 0, "discontinuity"))
    placed += [timeline.place(make_result(3 + i, seconds=95_000 + i / 25).frame) for i in range(2)]
    assert placed == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_the_note_is_in_the_picture(tmp_path: Path) -> None:
    record(tmp_path / "plain.mp4", [make_result(0)])
    record(tmp_path / "noted.mp4", [make_result(0)], note="untrained")
    plain, noted = (decode(tmp_path / name)[1][0] for name in ("plain.mp4", "noted.mp4"))
    changed = np.abs(plain.astype(int) - noted).max(axis=2) > 60
    assert changed[40:, :60].sum() > 100
    assert not changed[:32].any()


def test_the_file_is_whole_after_an_exception(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"]) as recorder:
            for index in range(4):
                recorder.write(make_result(index))
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        fail_midway()
    assert len(decode(tmp_path / "out.mp4")[0]) == 4


def test_without_frames_no_file_is_left_and_an_older_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline.sinks.recording")
    record(tmp_path / "out.mp4", [End("source0", 0, "lost")])
    assert os.listdir(tmp_path) == []
    assert "nothing was recorded" in caplog.text
    (tmp_path / "out.mp4").write_bytes(b"older")
    record(tmp_path / "out.mp4", [])
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_an_older_recording_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    recorder = Recorder(path, RecordConfig(), sources=["source0"])
    recorder.write(make_result(0))
    assert path.read_bytes() == b"older"
    recorder.close()
    recorder.close()
    assert len(decode(path)[0]) == 1


def test_paths_that_cannot_be_recorded_to_are_refused_before_any_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = {
        tmp_path / "out.avi": r"out\.avi ends in \.avi: recordings are \.mp4",
        tmp_path / "out": r"ends in no suffix: recordings are \.mp4",
        tmp_path / "folder.mp4": r"folder\.mp4 is a folder: give a file in it",
        tmp_path / "pipe.mp4": r"pipe\.mp4 is no ordinary file",
        tmp_path
        / "two"
        / "folders"
        / "out.mp4": r"two/folders/out\.mp4 cannot be written .*: choose a folder",
        tmp_path / "file" / "out.mp4": r"file/out\.mp4 cannot be written .*: choose a folder",
        Path("/proc/nowhere/out.mp4"): r"cannot be written .*: choose a folder",
    }
    for path, message in cases.items():
        with pytest.raises(OutputError, match=message):
            Recorder(path, RecordConfig(), sources=["source0"])
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4", "pipe.mp4"]


RECORDING = """
    import sys, time
    sys.path[:0] = [{root!r}, {tests!r}]
    from pipeline.config import RecordConfig
    from pipeline.sinks.recorder import Recorder
    from support.results import make_result
    with Recorder({path!r}, RecordConfig(), sources=["source0"]) as recorder:
        for index in range({num_frames}):
            recorder.write(make_result(index))
        print("recording", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("num_frames", [0, 5])
def test_a_file_that_another_run_records_is_refused_and_stays(tmp_path: Path, num_frames: int) -> None:
    path = tmp_path / "out.mp4"
    script = RECORDING.format(
        root=str(ROOT), tests=str(ROOT / "tests"), path=str(path), num_frames=num_frames
    )
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"recording\n"
        with pytest.raises(OutputError, match=rf"out\.mp4 is being recorded by another run.*{other.pid}"):
            Recorder(path, RecordConfig(), sources=["source0"])
        assert os.listdir(tmp_path) == ["out.partial.mp4"]
        other.communicate(timeout=60)
    assert other.returncode == 0
    assert os.listdir(tmp_path) == (["out.mp4"] if num_frames else [])
    record(path, [make_result(0)])
    assert len(decode(path)[0]) == 1


def test_a_file_is_free_again_when_its_source_ended_or_making_the_recorder_failed(tmp_path: Path) -> None:
    with Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"]) as recorder:
        with pytest.raises(OutputError, match="being recorded by another run"):
            Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
        recorder.write(make_result(0))
        recorder.end(End("source0", 0, "end_of_file"))
        record(tmp_path / "out.mp4", [make_result(0), make_result(1)])
    assert len(decode(tmp_path / "out.mp4")[0]) == 2
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Recorder(tmp_path / "{source}.mp4", RecordConfig(), sources=["a", "b"])
    record(tmp_path / "a.mp4", [make_result(0)])
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4", "out.mp4"]


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        # Root may write everywhere: be nobody for a moment.
        os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match=r"out\.mp4 cannot be written .*: choose a folder"):
            Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    finally:
        os.seteuid(user)


def test_a_write_protected_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    path.chmod(0o444)
    with pytest.raises(OutputError, match="is write-protected"):
        Recorder(path, RecordConfig(), sources=["source0"])
    assert path.read_bytes() == b"precious"


def test_a_wrong_preset_is_refused_before_any_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"record\.preset 'quick'"):
        Recorder(tmp_path / "out.mp4", RecordConfig(preset="quick"), sources=["source0"])


def test_several_sources_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs \{source\}"):
        Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["a", "b"])
