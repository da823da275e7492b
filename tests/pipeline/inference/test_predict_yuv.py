"""Frames as the decoder's planes: what they mean, what the network sees of them, and RGB for the sinks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from support.streams import tiny_config
from support.video import numbered_picture, read, read_number, write_resized_video, write_video

import pipeline.sources.picture
from model.network import build_model
from ops.preprocess import IMAGENET_STD, fit_image
from ops.yuv import yuv_to_input
from pipeline.config import StreamConfig
from pipeline.inference.network_predictor import NetworkPredictor
from pipeline.live.stream import Stream
from pipeline.sources.picture import to_planes
from pipeline.sources.sampling import PictureError
from pipeline.types import End, FrameResult, Gap, SourceState, Window, YuvPicture

NO_CUES: dict[str, Any] = {"network": {"cues": []}}
MAX_LEVELS = 4.0
"""Largest difference of a level of 0..255 between the two ways, measured in tests/ops/test_yuv.py."""


def waves(number: int, *, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth picture with all colours."""
    y, x = np.mgrid[:height, :width]
    parts = [np.sin((x + 3 * number) / 17), np.cos(y / 13), np.sin((x + y) / 29)]
    return (128 + 100 * np.stack(parts, axis=-1)).astype(np.uint8)


def levels(tensor: torch.Tensor) -> torch.Tensor:
    """Normalised values as differences of levels of 0..255."""
    return tensor * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255


def converted(yuv: YuvPicture, *, height: int = 64, width: int = 96) -> torch.Tensor:
    planes = [torch.from_numpy(plane) for plane in yuv.planes]
    return yuv_to_input(planes, matrix=yuv.matrix, full_range=yuv.full_range, height=height, width=width)[0]


def predictor_of(config: StreamConfig, **how: Any) -> NetworkPredictor:
    """The config's untrained network, planes converted by the readable form."""
    network = build_model(config.network, seed=0, class_bias=0.0)
    return NetworkPredictor(
        network, config.network, name="tiny", engine="eager", **{"from_planes": yuv_to_input, **how}
    )


class Counted:
    """Counts pictures that are converted to RGB, in whatever thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        to_rgb = pipeline.sources.picture.to_rgb

        def counting(picture: av.VideoFrame, **how: int) -> NDArray[np.uint8]:
            self.threads.append(threading.current_thread().name)
            return to_rgb(picture, **how)

        monkeypatch.setattr("pipeline.sources.picture.to_rgb", counting)
        monkeypatch.setattr("pipeline.sources.video_source.to_rgb", counting)


@pytest.mark.parametrize(
    ("space", "full_range"),
    [
        (Colorspace.ITU601, False),
        (Colorspace.ITU601, True),
        (Colorspace.ITU709, False),
        (Colorspace.ITU709, True),
        (None, False),
    ],
)
@pytest.mark.parametrize("size", [(90, 122), (720, 1280)])
def test_planes_mean_what_rgb_means(
    tmp_path: Path, size: tuple[int, int], space: Colorspace | None, full_range: bool
) -> None:
    colours = None if space is None else (space, ColorRange.JPEG if full_range else ColorRange.MPEG)
    clip = write_video(
        tmp_path / "clip.mp4",
        num_frames=2,
        height=size[0],
        width=size[1],
        colours=colours,
        draw=waves,
        options={"crf": "10", "preset": "ultrafast"},
    )
    plain, lazy = read(clip).frames, read(clip, planes=True).frames
    assert len(plain) == len(lazy) == 2
    for one, other in zip(plain, lazy, strict=True):
        yuv = other.yuv
        assert one.yuv is None
        assert yuv is not None
        assert yuv.matrix == (
            "bt709" if space is Colorspace.ITU709 or (not space and size[0] > 700) else "bt601"
        )
        assert yuv.full_range == full_range
        assert (other.height, other.width) == (one.height, one.width) == size
        wanted, _ = fit_image(one.rgb(), height=64, width=96)
        assert levels(converted(yuv) - wanted).abs().max() < MAX_LEVELS
        assert np.array_equal(other.image, one.image)
        assert other.rgb() is other.image


@pytest.mark.parametrize("size", [(48, 64), (45, 63)])
@pytest.mark.parametrize("kind", ["yuv420p", "nv12"])
@pytest.mark.parametrize("space", [Colorspace.ITU601, Colorspace.ITU709, Colorspace.BT2020])
def test_both_formats_are_read_without_their_padding(
    size: tuple[int, int], kind: str, space: Colorspace
) -> None:
    image = waves(0, height=size[0], width=size[1])
    picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format=kind, dst_colorspace=space, dst_color_range=ColorRange.MPEG
    )
    assert picture.planes[0].line_size > 63
    yuv = to_planes(picture)
    assert yuv is not None
    assert len(yuv.planes) == (2 if kind == "nv12" else 3)
    assert all(
        np.shares_memory(plane, np.frombuffer(own, np.uint8))
        for plane, own in zip(yuv.planes, picture.planes, strict=True)
    )
    wanted, _ = fit_image(yuv.rgb(), height=32, width=48)
    difference = levels(converted(yuv, height=32, width=48) - wanted).abs()
    # Of NV12 and of odd sizes swscale interpolates chroma; of others it repeats it, as we do.
    assert difference.max() < (MAX_LEVELS if (kind, size) == ("yuv420p", (48, 64)) else 10)
    assert difference.mean() < 2


def test_what_planes_do_not_tell_comes_as_rgb(tmp_path: Path) -> None:
    turned = write_video(tmp_path / "turned.mp4", num_frames=2, rotation=90)
    other = write_video(tmp_path / "444.mp4", num_frames=2, pixel_format="yuv444p")
    for clip in (turned, other):
        frames = read(clip, planes=True).frames
        assert [frame.yuv for frame in frames] == [None, None]
        assert all(map(np.array_equal, (f.image for f in frames), (f.image for f in read(clip).frames)))
    picture = av.VideoFrame.from_ndarray(waves(0, height=48, width=64), format="rgb24")
    for space in (Colorspace.FCC, Colorspace.SMPTE240M):
        assert to_planes(picture.reformat(format="yuv420p", dst_colorspace=space)) is None
    assert to_planes(picture.reformat(format="yuv420p10le")) is None
    assert to_planes(picture) is None


def test_a_change_of_size_and_pictures_that_are_too_large_are_seen_on_planes(tmp_path: Path) -> None:
    clip = write_resized_video(tmp_path / "resized.ts", [(96, 128), (64, 160)], num_frames=5)
    plain, lazy = read(clip), read(clip, planes=True)
    assert [type(item).__name__ for item in lazy.items] == [type(item).__name__ for item in plain.items]
    assert [gap.reason for gap in lazy.gaps] == ["resolution"]
    assert [read_number(frame.rgb()) for frame in lazy.frames] == list(range(10))


def test_a_frame_is_converted_once_whoever_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    (frame, *_) = read(write_video(tmp_path / "clip.mp4", num_frames=2), planes=True).frames
    assert counted.threads == []
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda _: frame.rgb(), range(32)))
    assert len(counted.threads) == 1
    assert all(picture is pictures[0] for picture in pictures)
    assert frame.image is pictures[0]


def test_a_frame_has_one_picture_rgb_or_planes(tmp_path: Path) -> None:
    (frame, *_) = read(write_video(tmp_path / "clip.mp4", num_frames=2), planes=True).frames
    assert frame.yuv is frame.picture
    rgb = replace(frame, picture=frame.rgb())
    assert rgb.yuv is None
    assert rgb.rgb() is rgb.image is rgb.picture
    assert (rgb.height, rgb.width) == (frame.height, frame.width)
    with pytest.raises(ValueError, match=r"Frame.picture must be \(H, W, 3\) uint8, or planes, got \(4, 6\)"):
        replace(frame, picture=np.zeros((4, 6), np.uint8))


@pytest.mark.parametrize("sections", [{}, {"cadence": {"fps": 5.0, "hold": True}}, {"window": {"stride": 3}}])
def test_a_stream_on_planes_publishes_every_frame_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    counted = Counted(monkeypatch)
    clip = write_video(tmp_path / "clip.mp4", num_frames=30, draw=waves, options={"crf": "10"})
    config = tiny_config(clip, model=NO_CUES, **{"cadence": {"fps": "source"}, **sections})
    stream = Stream(config, predictor=predictor_of(config))
    results = list(stream)
    assert counted.threads == [], "nobody asked for RGB"
    report = stream.report()
    assert (report["read"], report["published"]) == (30, 30)
    over_rgb = Stream(config, predictor=predictor_of(config, from_planes=None))
    wanted = list(over_rgb)
    assert len(counted.threads) == 30
    assert [result.frame.index for result in results] == [result.frame.index for result in wanted]
    assert [result.held for result in results] == [result.held for result in wanted]


def test_predictions_of_both_ways_are_close(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=5, draw=waves, options={"crf": "10"})
    # Queries chosen by order could be others after a rounding.
    config = tiny_config(clip, model={"network": {"cues": [], "query_selection": "learned"}})
    over_planes, over_rgb = predictor_of(config), predictor_of(config)
    one, other = (
        predictor.predict(Window(tuple(read(clip, planes=planes).frames), first=0, last=4, num_new=5))
        for predictor, planes in ((over_planes, True), (over_rgb, False))
    )
    assert one.fit == other.fit
    assert one.embeddings is not None
    assert other.embeddings is not None
    distances = np.linalg.norm(one.embeddings[:, None] - other.embeddings, axis=-1)
    same = distances.argmin(axis=1)  # nearly tied queries may change places
    assert sorted(same) == list(range(len(same)))
    assert np.abs(one.scores - other.scores[same]).max() < 0.02
    assert np.abs(one.boxes_xyxy - other.boxes_xyxy[same]).max() < 2
    assert np.abs(one.mask_logits - other.mask_logits[same]).mean() < 0.1 * other.mask_logits.std()
    assert not np.array_equal(one.mask_logits, other.mask_logits), "they did go two ways"


def test_planes_are_taken_only_where_nothing_needs_the_picture(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=4)
    without = tiny_config(clip, model=NO_CUES)
    assert predictor_of(without).capabilities.takes_yuv
    assert not predictor_of(without, from_planes=None).capabilities.takes_yuv, "no kernel on a CPU"
    with_cues = tiny_config(clip)
    assert not predictor_of(with_cues).capabilities.takes_yuv
    assert predictor_of(with_cues, cues=False).capabilities.takes_yuv
    results = list(Stream(with_cues, predictor=predictor_of(with_cues)))
    assert all(result.frame.yuv is None for result in results)


def test_where_the_kernel_gives_up_the_stream_goes_on_over_rgb(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=12)
    config = tiny_config(clip, model=NO_CUES, cadence={"fps": "source"})
    calls: list[int] = []

    def gives_up(planes: Any, **how: Any) -> Any:
        calls.append(len(calls))
        return yuv_to_input(planes, **how) if len(calls) <= 6 else None

    results = list(Stream(config, predictor=predictor_of(config, from_planes=gives_up)))
    assert [result.frame.index for result in results] == list(range(12))
    assert len(calls) == 12


def test_a_recording_of_a_stream_on_planes_shows_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    clip = write_video(tmp_path / "clip.mp4", num_frames=10)
    target = tmp_path / "overlay.mp4"
    sections: dict[str, Any] = {"cadence": {"fps": "source"}, "record": str(target), "model": NO_CUES}
    config = tiny_config(clip, **sections)
    Stream(config, predictor=predictor_of(config)).run()
    assert len(counted.threads) == 10
    assert "inference" not in counted.threads
    frames = read(target).frames
    assert len(frames) == 10
    for number, frame in enumerate(frames):
        corner = frame.image[5:40, 5:60].astype(int) - numbered_picture(number)[5:40, 5:60]
        assert np.median(np.abs(corner)) < 60


def test_a_picture_that_cannot_be_converted_for_a_sink_is_a_fault_of_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=10)
    config = tiny_config(clip, model=NO_CUES, cadence={"fps": "source"})
    to_rgb = pipeline.sources.picture.to_rgb

    def fails(picture: av.VideoFrame, **how: int) -> NDArray[np.uint8]:
        if picture.pts and picture.pts * picture.time_base > 0.15:
            raise PictureError("no RGB from it")
        return to_rgb(picture, **how)

    monkeypatch.setattr("pipeline.sources.picture.to_rgb", fails)
    shown: list[int] = []

    class Shows:
        def start(self) -> None: ...
        def write(self, result: FrameResult) -> None:
            result.frame.rgb()
            shown.append(result.frame.index)

        def gap(self, gap: Gap) -> None: ...
        def end(self, end: End) -> None: ...
        def state(self, source: str, state: SourceState) -> None: ...
        def poll(self) -> None: ...
        def close(self) -> None: ...

    stream = Stream(config, predictor=predictor_of(config), sinks=[Shows()])
    with pytest.raises(PictureError, match="no RGB from it"):
        stream.run()
    assert shown == [0, 1, 2, 3]
    report = stream.report()
    assert report["read"] == report["published"] + sum(report["dropped"].values())
