"""Video files as sources: every frame accounted for, gaps in order, damage named."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from av.video.reformatter import Colorspace
from numpy.typing import NDArray
from support.video import make_reading, numbered_picture, read, read_number, write_resized_video, write_video

from pipeline.errors import SourceNotFound, SourceUnreadable
from pipeline.sources.ffmpeg import gpu_decoding_fault
from pipeline.sources.picture import to_rgb
from pipeline.types import End, Frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=100)


def test_every_frame_of_a_file_in_order_then_one_end(clip: Path) -> None:
    reading = read(clip)
    assert [read_number(frame.image) for frame in reading.frames] == list(range(100))
    assert [frame.index for frame in reading.frames] == list(range(100))
    assert [frame.seconds for frame in reading.frames] == pytest.approx([index / 25 for index in range(100)])
    assert all(frame.pts * frame.time_base == pytest.approx(frame.seconds) for frame in reading.frames)
    assert reading.end == End("camera", 0, "end_of_file", "all 100 frames were read")
    assert sum(isinstance(item, End) for item in reading) == 1
    assert reading.gaps == []
    assert reading.ledger.read == 100
    assert reading.ledger.open_frames() == 100
    assert (reading.source.live, reading.source.state, reading.source.fps) == (False, "ended", 25)


def test_pictures_are_rgb_as_encoded(clip: Path) -> None:
    frame = read(clip, max_frames=3).frames[2]
    assert np.abs(frame.image.astype(int) - numbered_picture(2)).mean() < 4
    assert frame.captured_monotonic_ns > 0
    assert frame.captured_ns > 1.6e18


def test_cadence_counts_what_it_leaves_out_and_never_converts_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []

    def counted(picture: av.VideoFrame, **how: int) -> NDArray[np.uint8]:
        converted.append(picture.pts)
        return to_rgb(picture, **how)

    monkeypatch.setattr("pipeline.sources.video_source.to_rgb", counted)
    reading = read(clip, fps=10.0)
    assert len(reading.frames) == len(converted) == 40
    assert reading.ledger.read == 100
    assert reading.ledger.dropped["cadence"] == 60
    assert all(frame.sampled for frame in reading.frames)
    assert [read_number(frame.image) for frame in reading.frames] == [frame.index for frame in reading.frames]


def test_hold_gives_the_frames_between_too(clip: Path) -> None:
    reading = read(clip, fps=10.0, hold=True)
    assert len(reading.frames) == 100
    assert sum(frame.sampled for frame in reading.frames) == 40
    assert sum(reading.ledger.dropped.values()) == 0


@pytest.mark.parametrize("num", [1, 37])
def test_max_frames_counts_frames_read(clip: Path, num: int) -> None:
    reading = read(clip, fps=10.0, max_frames=num)
    assert reading.ledger.read == num
    assert reading.end is not None
    assert reading.end.reason == "max_frames"
    assert len(reading.frames) + reading.ledger.dropped["cadence"] == num


def test_max_frames_beyond_the_end_is_an_end_of_file(clip: Path) -> None:
    assert read(clip, max_frames=101).end.reason == "end_of_file"


@pytest.mark.parametrize("how", ["stop", "close"])
def test_stop_ends_at_the_next_frame(clip: Path, how: str) -> None:
    reading = make_reading(clip)
    items = iter(reading.source)
    for _ in range(5):
        assert isinstance(next(items), Frame)
    reading.stop.set() if how == "stop" else reading.source.close()
    rest = list(items)
    assert [type(item) for item in rest] == [End]
    assert rest[0].reason == "stopped"
    assert reading.ledger.read == 5
    reading.source.close()
    assert reading.source.state == "ended"


def test_stop_before_the_start_reads_nothing(clip: Path) -> None:
    reading = make_reading(clip)
    reading.stop.set()
    reading.run()
    assert [type(item) for item in reading] == [End]
    assert reading.ledger.read == 0


def test_abandoned_iteration_closes_the_file(clip: Path) -> None:
    reading = make_reading(clip)
    items = iter(reading.source)
    next(items)
    items.close()
    assert reading.source.state == "ended"


def test_resolution_change_within_a_file_is_a_gap_in_its_place(tmp_path: Path) -> None:
    path = write_resized_video(tmp_path / "clip.ts", [(96, 128), (144, 192), (96, 128)])
    reading = read(path)
    kinds = [item.height if isinstance(item, Frame) else item.reason for item in reading]
    assert kinds == [*[96] * 10, "resolution", *[144] * 10, "resolution", *[96] * 10, "end_of_file"]
    assert [read_number(frame.image) for frame in reading.frames] == list(range(30))
    assert {gap.epoch for gap in reading.gaps} == {0}


def test_resolution_change_between_kept_frames_is_seen(tmp_path: Path) -> None:
    path = write_resized_video(tmp_path / "clip.ts", [(96, 128), (144, 192)])
    reading = read(path, fps=1.0)
    assert [getattr(item, "reason", "frame") for item in reading] == ["frame", "resolution", "end_of_file"]


def test_clock_that_jumps_is_a_discontinuity(tmp_path: Path) -> None:
    ahead = read(write_video(tmp_path / "ahead.mp4", pts=[*range(10), *range(500, 510)]))
    assert [getattr(item, "reason", "frame") for item in ahead] == (
        ["frame"] * 10 + ["discontinuity"] + ["frame"] * 10 + ["end_of_file"]
    )
    assert ahead.frames[10].seconds == pytest.approx(20.0)

    once = write_video(tmp_path / "once.ts", num_frames=30, options={"bf": "0"})
    (tmp_path / "twice.ts").write_bytes(once.read_bytes() * 2)
    back = read(tmp_path / "twice.ts", fps=10.0)
    assert [gap.reason for gap in back.gaps] == ["discontinuity"]
    # The cadence starts over with the clock: 30 frames give 12, twice.
    assert len(back.frames) == 24
    assert back.frames[12].index == 30


def test_pause_of_a_few_seconds_and_slow_sources_are_no_discontinuity(tmp_path: Path) -> None:
    assert read(write_video(tmp_path / "pause.mp4", pts=[*range(10), *range(100, 110)])).gaps == []
    assert read(write_video(tmp_path / "slow.mp4", fps=1, pts=[0, 1, 9, 10, 11])).gaps == []


@pytest.mark.parametrize(("counterclockwise", "clockwise"), [(90, 270), (180, 180), (-90, 90), (0, 0)])
def test_rotation_of_the_container_is_applied_and_reported(
    tmp_path: Path, counterclockwise: int, clockwise: int
) -> None:
    path = write_video(tmp_path / "turned.mp4", num_frames=3, rotation=counterclockwise)
    frame = read(path).frames[0]
    expected = np.rot90(numbered_picture(0), counterclockwise // 90)
    assert frame.rotation == clockwise
    assert frame.image.shape == expected.shape
    assert np.abs(frame.image.astype(int) - expected).mean() < 4
    assert frame.image.flags.c_contiguous


def test_file_url_and_name_with_spaces(tmp_path: Path) -> None:
    path = write_video(tmp_path / "my clip ä.mp4", num_frames=3)
    assert len(read(path).frames) == 3
    assert len(read(path.as_uri()).frames) == 3


def test_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"camera.*none\.mp4.*check the path") as caught:
        read(tmp_path / "none.mp4")
    assert caught.value.source == "camera"
    assert caught.value.exit_code == 2


def test_text_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("these are notes\n" * 50)
    with pytest.raises(SourceUnreadable, match=r"notes\.mp4.*is it a video file"):
        read(path)


def test_empty_file_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceUnreadable, match=r"empty\.mp4"):
        read(tmp_path / "empty.mp4")


def test_truncated_mp4_without_its_index_is_unreadable(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceUnreadable, match=r"cut\.mp4.*complete"):
        read(tmp_path / "cut.mp4")


def test_truncated_mp4_with_its_index_gives_what_is_there_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_video(tmp_path / "whole.mp4", num_frames=60, container_options={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 4 // 5])
    with caplog.at_level(logging.WARNING):
        reading = read(tmp_path / "cut.mp4")
    assert 0 < len(reading.frames) < 60
    assert [read_number(frame.image) for frame in reading.frames] == list(range(len(reading.frames)))
    assert reading.end.reason == "end_of_file"
    assert f"breaks off after {len(reading.frames)} frames" in reading.end.detail
    assert reading.end.detail in caplog.text


def test_damaged_packets_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", num_frames=60, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 2, len(data) // 2 + 300):
        data[position] ^= 0x5A
    path.write_bytes(data)
    reading = read(path)
    assert reading.ledger.packet_errors > 0
    assert 20 < reading.ledger.read < 60
    assert reading.ledger.read == len(reading.frames)
    assert reading.end.detail == f"all {len(reading.frames)} frames were read"


@pytest.mark.parametrize(("height", "width"), [(16, 32768), (32768, 16)])
def test_pictures_larger_than_boxes_can_tell_are_refused_at_the_start(
    tmp_path: Path, height: int, width: int
) -> None:
    clip = write_video(tmp_path / "wide.mkv", num_frames=1, height=height, width=width, codec="ffv1")
    running = make_reading(clip)
    running.run()
    assert isinstance(running.error, SourceUnreadable)
    assert running.error.exit_code == 2
    assert f"{width}x{height}" in str(running.error)
    assert "32767" in str(running.error)
    assert "wide.mkv" in str(running.error)


def test_sound_without_video_is_unreadable(tmp_path: Path) -> None:
    import wave

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\1" * 8000)
    with pytest.raises(SourceUnreadable, match="no video stream"):
        read(path)


@pytest.mark.parametrize("url", ["ftp://host/clip.mp4", "rtmp://user:s3cret@host/live"])
def test_scheme_that_is_not_supported_names_those_that_are(url: str) -> None:
    with pytest.raises(SourceNotFound, match=r"not supported; use a file.*rtsp://") as caught:
        make_reading(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the names of devices differ")
@pytest.mark.parametrize("device", ["/dev/video97", "97"])
def test_camera_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(SourceNotFound, match=rf"{device}: no such file, folder or device"):
        read(device)


@pytest.mark.parametrize(("height", "space"), [(720, Colorspace.ITU709), (360, Colorspace.ITU601)])
def test_untagged_colours_are_taken_as_players_take_them(
    tmp_path: Path, height: int, space: Colorspace
) -> None:
    """HD without a tag is BT.709, smaller pictures are BT.601."""
    colour = np.array([200, 40, 40], np.uint8)
    path = tmp_path / "untagged.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = height * 16 // 9, height, "yuv420p"
        image = np.broadcast_to(colour, (height, height * 16 // 9, 3)).copy()
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        yuv = picture.reformat(format="yuv420p", dst_colorspace=space)
        yuv.colorspace = 2
        container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))
    (frame,) = read(path).frames
    assert np.abs(frame.image.astype(int) - colour).max() <= 4


def test_decoding_on_a_gpu_falls_back_where_it_may_and_is_an_error_by_name(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fault = gpu_decoding_fault()
    with caplog.at_level(logging.INFO):
        frames = read(clip, decoder="auto", max_frames=20).frames
    assert [read_number(frame.image) for frame in frames] == list(range(20))
    assert (f"decoded on the CPU: {fault}" in caplog.text) == (fault is not None)
    if fault is None:
        assert len(read(clip, decoder="cuda").frames) == 100
    else:
        with pytest.raises(SourceUnreadable, match=r"source\.decoder=cuda: .*; use auto or cpu"):
            read(clip, decoder="cuda")


def test_a_codec_that_the_hardware_does_not_decode_is_told_in_the_same_way(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FFmpeg's Quick Sync has decoders of its own names, so it never takes this one: on any machine."""
    monkeypatch.setattr("pipeline.sources.ffmpeg.gpu_decoding_fault", lambda: None)
    monkeypatch.setattr("pipeline.sources.ffmpeg.HWAccel", lambda *_, **how: HWAccel("qsv", **how))
    with caplog.at_level(logging.INFO):
        frames = read(clip, decoder="auto", max_frames=20).frames
    assert [read_number(frame.image) for frame in frames] == list(range(20))
    assert "decoded on the CPU: the GPU does not decode it" in caplog.text
    with pytest.raises(SourceUnreadable, match=r"the GPU does not decode it \(.*\); use auto or cpu"):
        read(clip, decoder="cuda")
