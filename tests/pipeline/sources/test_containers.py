"""Containers that say one thing and hold another: times, films among pictures, lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from support import scripted_server as scripts
from support.scripted_server import ScriptedServer
from support.video import make_reading, numbered_picture, read, read_number, write_video

from pipeline.errors import SourceUnreadable


def write(
    path: Path,
    *,
    codec: str = "libx264",
    num_frames: int = 50,
    pts: Callable[[int], int] = lambda number: number,
    tracks: tuple[tuple[int, int, int], ...] = ((96, 160, int(Disposition.default)),),
    **options: str,
) -> Path:
    """Write numbered pictures at 25 a second; tracks: (height, width, disposition) of each."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for height, width, disposition in tracks:
            stream: Any = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for number, (stream, (height, width, _)) in itertools.product(
            range(num_frames), list(zip(streams, tracks, strict=True))
        ):
            image = numbered_picture(number % 64, height=height, width=width)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = pts(number), Fraction(1, 25)
            container.mux(stream.encode(picture))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def test_b_frames_in_avi_have_rising_times(tmp_path: Path) -> None:
    options = {"bf": "3", "x264-params": "b-adapt=0"}
    avi, mp4 = (write(tmp_path / f"b{suffix}", **options) for suffix in (".avi", ".mp4"))
    ours, wanted = read(avi), read(mp4)
    assert [read_number(frame.image) for frame in ours.frames] == list(range(50))
    begin = ours.frames[0].seconds
    assert [frame.seconds - begin for frame in ours.frames] == pytest.approx(
        [frame.seconds for frame in wanted.frames]
    )
    assert ours.gaps == []
    assert len(read(avi, fps=10.0).frames) == len(read(mp4, fps=10.0).frames) == 20


def test_pictures_that_an_avi_leaves_out_are_no_damage(tmp_path: Path) -> None:
    clip = write(tmp_path / "skipped.avi", codec="mpeg4", num_frames=34, pts=lambda number: 3 * number)
    result = read(clip)
    assert result.end.detail == "all 34 frames were read"
    assert [frame.seconds for frame in result.frames] == pytest.approx([0.12 * n for n in range(34)])


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".avi", ".mov"])
def test_a_file_that_is_cut_says_so_and_a_whole_one_does_not(tmp_path: Path, suffix: str) -> None:
    codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(suffix, "libx264")
    options = {} if suffix not in (".mp4", ".mov") else {"movflags": "faststart"}
    with av.open(str(tmp_path / f"clip{suffix}"), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.gop_size = 5
        for number in range(100):
            noise = np.random.default_rng(number).integers(0, 255, (96, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    whole = tmp_path / f"clip{suffix}"
    assert read(whole).end.detail == "all 100 frames were read"
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = read(cut)
    assert "breaks off" in result.end.detail
    assert 20 < len(result.frames) < 80


def test_of_two_films_the_one_that_is_flagged_is_taken(tmp_path: Path) -> None:
    small, large = (96, 160), (192, 320)
    for name, tracks, wanted in (
        ("flagged", ((*small, 0), (*large, int(Disposition.default))), large),
        ("small one flagged", ((*large, 0), (*small, int(Disposition.default))), small),
        ("none flagged", ((*small, 0), (*large, 0)), large),
    ):
        result = read(write(tmp_path / f"{name}.mkv", tracks=tracks, num_frames=10))
        assert {(frame.height, frame.width) for frame in result.frames} == {wanted}, name
        assert [read_number(frame.image) for frame in result.frames] == list(range(10))


def test_a_cover_is_no_film(tmp_path: Path) -> None:
    song = tmp_path / "song.m4a"
    picture = cv2.imencode(".png", np.full((64, 64, 3), 200, np.uint8))[1].tobytes()
    with av.open(str(song), "w", format="mp4") as container:
        sound: Any = container.add_stream("aac", rate=44_100)
        cover: Any = container.add_stream("png")
        cover.height = cover.width = 64
        cover.pix_fmt = "rgb24"
        cover.disposition = Disposition.attached_pic
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 1024 * number
            container.mux(sound.encode(frame))
        container.mux(packet)
        container.mux(sound.encode(None))
    with av.open(str(song)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    with pytest.raises(SourceUnreadable, match="holds no video stream"):
        read(song)


def test_an_http_camera_has_no_clock_but_arrival() -> None:
    pictures = [
        cv2.imencode(".jpg", numbered_picture(number % 64, height=96, width=160))[1].tobytes()
        for number in range(24)
    ]
    with ScriptedServer(scripts.mjpeg_camera(pictures, fps=6.0)) as server:
        reading = make_reading(server.url("http"), fps=10.0, reconnect=False)
        reading.run()
    # FFmpeg takes three pictures to open it and gives them out at once: two are in one place of the cadence.
    assert len(reading.frames) >= 21
    assert reading.ledger.read == 24
    took = reading.frames[-1].seconds - reading.frames[0].seconds
    assert took == pytest.approx(23 / 6, rel=0.25)
    assert reading.health.counts == {}


def test_a_folder_of_pictures_and_a_raw_stream_keep_their_own_rate(tmp_path: Path) -> None:
    raw = write_video(tmp_path / "raw.h264", num_frames=20)
    seconds = [frame.seconds for frame in read(raw).frames]
    assert len(seconds) == 20
    assert all(after > before for before, after in itertools.pairwise(seconds))
