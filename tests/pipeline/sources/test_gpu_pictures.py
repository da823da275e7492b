"""Pictures that a GPU decoded and keeps, as far as a CPU can show it: DLPack, copies, and what falls back.

A stand-in says of an NV12 picture of the host what FFmpeg says of one on a GPU; its planes are real.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from support.streams import tiny_config
from support.video import write_video

from model.cues.cut import ShotDetector
from model.network import build_model
from ops.yuv import yuv_to_input
from pipeline.inference.network_predictor import NetworkPredictor
from pipeline.live.stream import Stream
from pipeline.sources.ffmpeg import gpu_decoding_fault, gpu_pictures_fault, planes_fault
from pipeline.sources.picture import copied_planes, nv12_picture, to_planes, to_rgb
from pipeline.types import YuvPicture


class OnGpu:
    """An NV12 picture that says that it lies on a GPU."""

    def __init__(self, picture: av.VideoFrame, software: str = "nv12") -> None:
        self._picture = picture
        self.format = SimpleNamespace(name="cuda")
        self.sw_format = SimpleNamespace(name=software)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._picture, name)


def nv12(height: int = 48, width: int = 64, *, seed: int = 0) -> av.VideoFrame:
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format="nv12", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )


def test_planes_are_copied_where_they_lie_and_mean_the_same_picture() -> None:
    picture = nv12()
    kept = to_planes(OnGpu(picture))  # type: ignore[arg-type]
    host = to_planes(picture)
    assert kept is not None
    assert host is not None
    assert all(isinstance(plane, torch.Tensor) for plane in kept.planes)
    assert (kept.height, kept.width, kept.matrix, kept.full_range) == (48, 64, "bt709", False)
    for ours, theirs in zip(kept.planes, host.planes, strict=True):
        assert np.array_equal(ours.numpy(), theirs)
        assert not np.shares_memory(ours.numpy(), theirs), "the decoder would write over it"
    assert np.array_equal(kept.rgb(), to_rgb(picture))


@pytest.mark.parametrize(("size", "software"), [((48, 64), "p010le"), ((47, 64), "nv12"), ((48, 63), "nv12")])
def test_what_does_not_fit_comes_as_rgb(size: tuple[int, int], software: str) -> None:
    assert to_planes(OnGpu(nv12(*size), software)) is None  # type: ignore[arg-type]


def test_what_stays_is_compared_with_what_comes_back() -> None:
    assert planes_fault(nv12(seed=1), nv12(seed=1)) is None
    assert planes_fault(nv12(seed=1), nv12(seed=2)) == "what stays there is not what comes back"


def test_where_a_gpu_decodes_pictures_can_stay_and_elsewhere_they_come_back() -> None:
    assert gpu_pictures_fault() == gpu_decoding_fault()


def test_shots_are_told_on_tensors_as_on_arrays() -> None:
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (1080 // 40, 1920 // 40), np.uint8).repeat(40, 0).repeat(40, 1)] * 2
    scenes += [np.ascontiguousarray(scenes[0][::-1, ::-1])]
    arrays, tensors = ShotDetector(), ShotDetector()
    told = [(arrays.update(scene), tensors.update(torch.from_numpy(scene))) for scene in scenes]
    assert told == [(False, False), (False, False), (True, True)]


def test_a_stream_on_pictures_of_a_gpu_finds_what_it_finds_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=12, options={"crf": "10"})
    config = tiny_config(clip, model={"network": {"cues": []}}, cadence={"fps": "source"})
    found = []
    for kept in (False, True):

        def planes(picture: av.VideoFrame, kept: bool = kept) -> YuvPicture | None:
            picture = picture.reformat(format="nv12")
            return to_planes(OnGpu(picture) if kept else picture)  # type: ignore[arg-type]

        monkeypatch.setattr("pipeline.sources.video_source.to_planes", planes)
        network = build_model(config.network, seed=0, class_bias=0.0)
        predictor = NetworkPredictor(
            network, config.network, name="tiny", engine="eager", from_planes=yuv_to_input
        )
        found.append(list(Stream(config, predictor=predictor)))
    assert len(found[0]) == len(found[1]) == 12
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert ours.frame.yuv is not None
        assert isinstance(ours.frame.yuv.planes[0], torch.Tensor)
        assert ours.instances == theirs.instances
        assert np.array_equal(ours.frame.rgb(), theirs.frame.rgb())


def test_copied_planes_make_a_picture_again() -> None:
    picture = nv12()
    again = nv12_picture(copied_planes(picture), colours=(picture.colorspace, picture.color_range))
    assert np.array_equal(again.to_ndarray(), picture.to_ndarray())
    assert np.array_equal(to_rgb(again), to_rgb(picture))
