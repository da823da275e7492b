"""Recordings that last: faults of disks and folders, rotation, retention, runs that were killed.

What was written is read back: pictures carry their number as a grey.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from numpy.typing import NDArray
from support.results import make_result

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.fragments import count_frames
from pipeline.sinks.recorder import Recorder
from pipeline.types import End, FrameResult

ROOT = Path(__file__).parents[3]
STAMP = r"-\d{8}-\d{6}(-\d+)?"


def numbered(index: int) -> FrameResult:
    """Return a result whose picture is a grey that says `index`, up to 60."""
    return make_result(index, image=np.full((64, 96, 3), 10 + 4 * index, dtype=np.uint8))


def noisy(index: int) -> FrameResult:
    """Return a result whose picture takes several kilobytes however it is compressed."""
    noise: NDArray[np.uint8] = np.random.default_rng(index).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    return make_result(index, image=noise)


def numbers(path: Path) -> list[int]:
    """Return which numbered results a file holds; its first picture is a key frame at time 0."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert frames[0].key_frame
    assert frames[0].pts == 0
    return [round((frame.to_ndarray(format="rgb24").mean() - 10) / 4) for frame in frames]


def readable(path: Path) -> int:
    """Return how many frames can be decoded, also of a file whose end is torn."""
    number = 0
    with av.open(str(path)) as container, suppress(av.error.InvalidDataError):
        for _ in container.decode(video=0):
            number += 1
    return number


def files(folder: Path) -> list[Path]:
    """Return the finished files of a folder in the order of their names' times."""

    def order(path: Path) -> tuple[str, int]:
        found = re.fullmatch(r"(.*?-\d{8}-\d{6})(?:-(\d+))?", path.stem)
        return (found[1], int(found[2] or 1)) if found else (path.stem, 0)

    return sorted((each for each in folder.glob("*.mp4") if ".partial" not in each.name), key=order)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow larger: writes fail as on a full disk, but with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_all(recorder: Recorder, results: Iterator[FrameResult] | list[FrameResult]) -> list[str]:
    """Write as a guarded sink does; return the faults."""
    faults = []
    for result in results:
        try:
            recorder.write(result)
        except OutputError as error:
            faults.append(str(error))
    return faults


def test_a_file_that_cannot_grow_is_kept_and_recording_goes_on_in_a_new_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(crf=10), sources=["source0"])
    with largest_file(400_000):
        faults = write_all(recorder, map(noisy, range(300)))
    recorder.close()
    assert faults
    assert re.search(
        r"recording .*out\.mp4 failed after \d+ frames: File too large.* frames are in .*out\.partial\.mp4",
        faults[0],
    )
    assert "goes on in a new file" in faults[0]
    partials = sorted(tmp_path.glob("*.partial.mp4"))
    assert len(partials) == len(faults) > 1, "each fault left one file that plays, and was told once"
    assert tmp_path / "out.partial.mp4" in partials
    kept = sum(map(count_frames, partials)) + sum(map(readable, files(tmp_path)))
    assert kept + recorder.num_lost["source0"] == 300, "every frame is in a file or counted"
    assert kept > 150
    assert all(readable(path) >= count_frames(path) > 10 for path in partials)


def test_while_no_file_can_be_made_frames_are_counted_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    recorder = Recorder(path, RecordConfig(), sources=["source0"], retry_seconds=0.0)
    with largest_file(10):
        faults = write_all(recorder, map(numbered, range(10)))
        assert os.listdir(tmp_path) == [], "no empty file at each try"
    assert len(faults) == 10
    assert "File too large" in faults[0]
    assert recorder.num_lost == {"source0": 10}
    assert write_all(recorder, map(numbered, range(10, 15))) == []
    recorder.end(End("source0", 0, "end_of_file"))
    recorder.close()
    assert os.listdir(tmp_path) == ["out.mp4"], "the name that was asked for, as it is free"
    assert numbers(path) == [10, 11, 12, 13, 14]


def test_between_two_tries_the_disk_is_left_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"], retry_seconds=3_600)
    with largest_file(10):
        first = write_all(recorder, [numbered(0)])
    assert write_all(recorder, [numbered(1)]) == first, "it would work now, but the next try comes later"
    assert recorder.num_lost == {"source0": 2}
    recorder.close()


def test_a_disk_that_fills_up_at_the_very_end_is_reported_by_close(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    for index in range(10):
        recorder.write(make_result(index))
    with largest_file(200), pytest.raises(OutputError, match="failed after 10 frames"):
        recorder.close()
    assert recorder.num_lost == {"source0": 10}
    assert os.listdir(tmp_path) == [], "nothing whole was written"


def test_a_removed_file_is_noticed_with_the_next_frame(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    assert write_all(recorder, map(numbered, range(5))) == []
    (tmp_path / "out.partial.mp4").unlink()
    (fault,) = write_all(recorder, map(numbered, range(5, 12)))
    assert "removed or moved away" in fault
    assert "none of its frames are kept" in fault
    recorder.close()
    assert recorder.num_lost == {"source0": 5}
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert numbers(tmp_path / "out.mp4") == list(range(5, 12))


def test_a_file_that_was_moved_away_is_finished_where_it_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    write_all(recorder, map(numbered, range(5)))
    (tmp_path / "out.partial.mp4").rename(tmp_path / "mine.mp4")
    (tmp_path / "out.partial.mp4").write_text("somebody else's")
    (fault,) = write_all(recorder, map(numbered, range(5, 12)))
    assert "5 of its 5 frames are where it was moved to" in fault
    recorder.close()
    assert recorder.num_lost == {"source0": 0}
    assert numbers(tmp_path / "mine.mp4") == list(range(5))
    assert (tmp_path / "out.partial.mp4").read_text() == "somebody else's"
    (other,) = [each for each in files(tmp_path) if re.fullmatch(f"out{STAMP}", each.stem)]
    assert numbers(other) == list(range(5, 12))


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    recorder = Recorder(folder / "out.mp4", RecordConfig(max_seconds=1), sources=["source0"])
    write_all(recorder, map(numbered, range(15)))
    shutil.rmtree(folder)
    assert len(write_all(recorder, map(numbered, range(15, 30)))) == 1
    recorder.close()
    assert recorder.num_lost == {"source0": 5}, "those of the file at hand; the one before was finished"
    assert [numbers(path) for path in files(folder)] == [list(range(15, 25)), list(range(25, 30))]
    index = (folder / "out.index.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in index] == [path.name for path in files(folder)]


def test_one_source_that_cannot_be_recorded_leaves_the_other_alone(tmp_path: Path) -> None:
    template = tmp_path / "{source}" / "out.mp4"
    recorder = Recorder(template, RecordConfig(), sources=["left", "right"], retry_seconds=0.0)
    faults = []
    for index in range(20):
        if index == 5:
            shutil.rmtree(tmp_path / "left")
            (tmp_path / "left").write_text("in the way")
        for source in ("left", "right"):
            faults += write_all(recorder, [make_result(index, source=source)])
    recorder.close()
    assert len(faults) == 15
    assert all("left" in fault and "right" not in fault for fault in faults)
    assert recorder.num_lost == {"left": 20, "right": 0}
    assert readable(tmp_path / "right" / "out.mp4") == 20


def test_recording_goes_on_at_the_time_that_the_stream_is_at(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"])
    write_all(recorder, [make_result(0, seconds=7.0), make_result(1, seconds=7.2)])
    (tmp_path / "out.partial.mp4").unlink()
    write_all(recorder, [make_result(2, seconds=7.5), make_result(3, seconds=8.5)])
    recorder.close()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([0.0, 1.0], abs=1e-4)


@pytest.mark.parametrize("emission", ["first", "final"])
def test_files_follow_one_another_without_a_frame_lost_or_twice(tmp_path: Path, emission: str) -> None:
    results = [numbered(index) for index in range(60)]
    if emission == "final":  # first sights that wait for their final word
        first = [make_result(index, final=False) for index in range(60)]
        final = [make_result(i, image=each.frame.image, revision=1) for i, each in enumerate(results)]
        results = [item for pair in zip(first, final, strict=True) for item in pair]
    with Recorder(tmp_path / "out.mp4", RecordConfig(max_seconds=1.5), sources=["source0"]) as recorder:
        assert write_all(recorder, results) == []
    made = files(tmp_path)
    assert [numbers(path) for path in made] == [list(range(at, at + 15)) for at in (0, 15, 30, 45)]
    assert all(re.fullmatch(f"out{STAMP}", path.stem) for path in made), "no file is called out.mp4"
    assert sorted(os.listdir(tmp_path)) == sorted([*(path.name for path in made), "out.index.jsonl"])


def test_files_are_cut_at_about_their_largest_size(tmp_path: Path) -> None:
    config = RecordConfig(max_bytes=300_000, crf=10)
    with Recorder(tmp_path / "out.mp4", config, sources=["source0"]) as recorder:
        assert write_all(recorder, map(noisy, range(300))) == []
    made = files(tmp_path)
    assert sum(map(readable, made)) == 300
    sizes = [path.stat().st_size for path in made]
    assert len(sizes) > 3
    assert all(250_000 < size < 350_000 for size in sizes[:-1])
    assert sizes[-1] < 350_000


@pytest.mark.parametrize(
    ("limit", "left"),
    [({"keep_files": 2}, 2), ({"keep_seconds": 1.8}, 2), ({"keep_seconds": 100}, 6), ({}, 6)],
)
def test_the_oldest_files_are_deleted_over_all_runs(
    tmp_path: Path, limit: dict[str, float], left: int
) -> None:
    config = RecordConfig(max_seconds=1, **limit)  # type: ignore[arg-type]
    for first in (0, 30):  # two runs of three files each
        with Recorder(tmp_path / "out.mp4", config, sources=["source0"]) as recorder:
            assert write_all(recorder, map(numbered, range(first, first + 30))) == []
    made = files(tmp_path)
    assert [numbers(path)[0] for path in made] == [0, 10, 20, 30, 40, 50][-left:]


def test_only_what_this_recording_made_is_deleted(tmp_path: Path) -> None:
    """A name alone proves nothing, and neither does the index where the file is another one now."""
    config = RecordConfig(max_seconds=2, keep_bytes=100_000, crf=10)
    with Recorder(tmp_path / "out.mp4", config, sources=["source0"]) as recorder:
        write_all(recorder, map(noisy, range(20)))
    (changed,) = files(tmp_path)
    foreign = [
        tmp_path / name for name in ("out-19690101-000000.mp4", "out-2.mp4", "other-19690101-000000.mp4")
    ]
    for path in foreign:
        path.write_bytes(b"mine" * 50_000)
    with (tmp_path / "out.index.jsonl").open("a") as index:
        index.write('{"file": "../escape.mp4", "bytes": 4, "seconds": 1.0, "frames": 1}\n{"file": "torn\n7\n')
    changed.write_bytes(b"cut by hand")
    escape = tmp_path.parent / "escape.mp4"
    escape.write_bytes(b"four")
    with Recorder(tmp_path / "out.mp4", config, sources=["source0"]) as recorder:
        write_all(recorder, map(noisy, range(100, 160)))
        left = [each for each in files(tmp_path) if each not in (*foreign, changed)]
        assert len(left) == 1, "one file is more than is kept: the newest stays"
    assert all(path.exists() for path in (*foreign, changed, escape))
    assert changed.read_bytes() == b"cut by hand"


def test_two_runs_do_not_rotate_the_same_recording(tmp_path: Path) -> None:
    config = RecordConfig(max_seconds=1)
    with (
        Recorder(tmp_path / "out.mp4", config, sources=["source0"]),
        pytest.raises(OutputError, match="being recorded by another run"),
    ):
        Recorder(tmp_path / "out.mp4", config, sources=["source0"])


KILLED = """
    import os, signal, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    from pipeline.config import RecordConfig
    from pipeline.sinks.recorder import Recorder
    from support.results import make_result
    recorder = Recorder({path!r}, RecordConfig(**{config!r}), sources=["source0"])
    for index in range(400):
        recorder.write(make_result(index))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_and_be_killed(path: Path, **config: float) -> None:
    """Record 400 frames in a process of its own, which is killed then."""
    script = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), path=str(path), config=config)
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_what_killed_runs_left_plays_and_is_never_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    run_and_be_killed(path)
    assert os.listdir(tmp_path) == ["out.partial.mp4"]
    first = (tmp_path / "out.partial.mp4").read_bytes()
    # x264 looks 40 frames ahead, and a fragment is a second of 10 frames.
    assert 300 <= readable(tmp_path / "out.partial.mp4") < 400
    run_and_be_killed(path)
    with Recorder(path, RecordConfig(), sources=["source0"]) as recorder:
        recorder.write(make_result(0))
    assert "a run that was killed left this with" in caplog.text
    kept = [each for each in files(tmp_path) if each != path]
    assert len(kept) == 2
    assert all(re.fullmatch(f"out{STAMP}", each.stem) for each in kept)
    assert first in [each.read_bytes() for each in kept]
    for each in kept:
        assert 300 <= count_frames(each) <= readable(each) < 400
        assert each.name in caplog.text or each.read_bytes() == first, "the second run said it for the first"
    assert readable(path) == 1
    assert len(os.listdir(tmp_path)) == 3


def test_a_rotating_recording_takes_up_what_killed_runs_left(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    for _ in range(2):
        run_and_be_killed(path, max_seconds=1000)
    with Recorder(path, RecordConfig(max_seconds=1000), sources=["source0"]) as recorder:
        assert not list(tmp_path.glob("*.partial.mp4"))
        recorder.write(make_result(0))
    entries = [json.loads(line) for line in (tmp_path / "out.index.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in entries] == [each.name for each in files(tmp_path)]
    assert [300 <= entry["frames"] < 400 for entry in entries] == [True, True, False]
    assert [30 <= entry["seconds"] < 40 for entry in entries] == [True, True, False]


def test_frames_of_whole_fragments_are_counted_and_other_files_have_none(tmp_path: Path) -> None:
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video at all" * 99), ("short.mp4", b"\0\0")):
        (tmp_path / name).write_bytes(content)
        assert count_frames(tmp_path / name) == 0
    with Recorder(tmp_path / "out.mp4", RecordConfig(), sources=["source0"]) as recorder:
        write_all(recorder, map(numbered, range(50)))
    assert count_frames(tmp_path / "out.mp4") == 50
