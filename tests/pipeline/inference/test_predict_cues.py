"""Cues on the live path: what the network is given is what `model.cues.state` says, frame by frame."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.streams import tiny_config
from support.video import write_resized_video

from model.cues.state import CueState
from model.training.data.cue_clips import clip_cues
from model.training.data.render import SceneRenderer
from model.training.data.street import StreetClips
from pipeline.config import StreamConfig
from pipeline.inference.network_predictor import NetworkPredictor, load_predictor
from pipeline.live.stream import Stream
from pipeline.sources.demo import demo_frame

HEIGHT, WIDTH = 64, 96  # of the tiny network
BOTH = {"network": {"cues": ["background", "flow"]}}
Image = NDArray[np.uint8]


def picture(index: int, *, height: int = HEIGHT, width: int = WIDTH) -> Image:
    """A frame of the demo scene, RGB, every second one of 25 a second."""
    rgb = demo_frame(2 * index).rgb
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_folder(folder: Path, pictures: list[Image]) -> Path:
    """A folder of PNG files, which keep every pixel; the source plays it at 10 frames/s."""
    folder.mkdir()
    for index, rgb in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), rgb[..., ::-1])
    return folder


def run_recorded(config: StreamConfig) -> tuple[list[NDArray[np.float32] | None], NetworkPredictor]:
    """Run a stream; the cue planes (R, H, W) that the backbone was given, call by call, and the predictor."""
    predictor = load_predictor(config)
    given: list[NDArray[np.float32] | None] = []

    def record(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        given.append(None if args[1] is None else args[1][0].numpy().copy())

    predictor._runtime.network.backbone.register_forward_pre_hook(record)
    Stream(config, predictor=predictor).run()
    return given, predictor


@pytest.mark.parametrize("stride", [1, 3])
def test_a_clip_streamed_live_gives_the_planes_of_training_bit_for_bit(tmp_path: Path, stride: int) -> None:
    pictures = [picture(i) for i in range(40)]
    folder = write_folder(tmp_path / "clip", pictures)
    given, _ = run_recorded(tiny_config(folder, window={"stride": stride}, model=BOTH))
    state = CueState(("background", "flow"))
    by_hand = [state.update(rgb, i / 10) for i, rgb in enumerate(pictures)]
    assert state.num_cuts == 0
    assert len(given) == 40, "each frame is encoded once"
    assert all(map(np.array_equal, given, by_hand))
    assert np.abs(by_hand[39]).max(axis=(1, 2)).min() > 0.1, "all planes say something"
    training = clip_cues(("background", "flow"), pictures.__getitem__, first=31, num_frames=5, fps=10)
    assert all(map(np.array_equal, given[31:36], training))


def test_without_the_cache_cues_are_still_computed_once_a_frame(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clip", [picture(i) for i in range(20)])
    cached, _ = run_recorded(tiny_config(folder, model=BOTH))
    plain, predictor = run_recorded(tiny_config(folder, model={**BOTH, "cache": False}))
    assert len(cached) == 20
    # Windows of 1, 2, 3, 4, then 5 real frames, each encoded again.
    assert len(plain) == 1 + 2 + 3 + 4 + 16 * 5
    windows = [list(range(max(0, last - 4), last + 1)) for last in range(20)]
    for index, planes in zip((i for window in windows for i in window), plain, strict=True):
        assert planes is not None
        assert np.array_equal(planes, cached[index])
    assert predictor._sources == {}, "nothing is kept of a source that has ended"


def test_cues_are_zero_in_the_padding(tmp_path: Path) -> None:
    pictures = [picture(i, height=48, width=96) for i in range(20)]
    folder = write_folder(tmp_path / "wide", pictures)
    given, _ = run_recorded(tiny_config(folder, model=BOTH))
    state = CueState(("background", "flow"))
    by_hand = [state.update(rgb, i / 10) for i, rgb in enumerate(pictures)]
    for planes, expected in zip(given, by_hand, strict=True):
        assert planes is not None
        assert planes.shape == (3, HEIGHT, WIDTH)
        assert np.array_equal(planes[:, :48], expected)
        assert not planes[:, 48:].any()


def test_a_cut_and_a_gap_start_the_cues_over(tmp_path: Path) -> None:
    other = [255 - picture(60 + i) for i in range(15)]
    folder = write_folder(tmp_path / "cut", [*(picture(i) for i in range(15)), *other])
    given, _ = run_recorded(tiny_config(folder, model=BOTH))
    fresh = CueState(("background", "flow"))
    assert given[14] is not None
    assert given[14][0].any()
    assert all(map(np.array_equal, given[15:], (fresh.update(rgb, i / 10) for i, rgb in enumerate(other))))

    clip = write_resized_video(tmp_path / "resized.ts", [(96, 128), (64, 128)], num_frames=40)
    given, _ = run_recorded(tiny_config(clip))
    warm = [planes is not None and planes[0].any() for planes in given]
    assert len(warm) == 32  # 10 of 25 frames a second, of 1.6 s on either side of the gap
    assert warm[11:16] == [True] * 5
    assert not any(warm[16:27])
    assert warm[27:] == [True] * 5


def test_each_source_has_its_own_cues(tmp_path: Path) -> None:
    pictures = {"left": [picture(i) for i in range(16)], "right": [picture(90 - i) for i in range(16)]}
    folders = {name: str(write_folder(tmp_path / name, each)) for name, each in pictures.items()}
    given, _ = run_recorded(tiny_config(folders, model=BOTH))
    expected = []
    for each in pictures.values():
        state = CueState(("background", "flow"))
        expected += [state.update(rgb, i / 10).tobytes() for i, rgb in enumerate(each)]
    assert sorted(planes.tobytes() for planes in given if planes is not None) == sorted(expected)


def test_a_source_too_short_to_warm_up_runs_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "short", [picture(i) for i in range(8)])
    with caplog.at_level(logging.INFO, logger="pipeline.inference.network_predictor"):
        given, _ = run_recorded(tiny_config(folder))
    assert len(given) == 8
    assert not any(planes is None or planes[0].any() for planes in given)
    assert all(planes is not None and planes[1:].any() for planes in given[1:]), "flow speaks from the second"
    told = [record for record in caplog.records if "cues" in record.message]
    assert [record.levelname for record in told] == ["INFO"]
    assert "source0: 8 frames" in told[0].message
    assert told[0].message.endswith("stayed zero: background")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pipeline.inference.network_predictor"):
        run_recorded(tiny_config(write_folder(tmp_path / "long", [picture(i) for i in range(15)])))
    assert not [record for record in caplog.records if "cues" in record.message]


class Listening:
    """A predictor's answers, kept."""

    def __init__(self, predictor: NetworkPredictor) -> None:
        self.facts = predictor.facts
        self.forget = predictor.forget
        self.told: list[Any] = []
        self._predictor = predictor

    def predict(self, window: Any) -> Any:
        found = self._predictor.predict(window)
        self.told.append(found.camera)
        return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_the_cameras_motion_goes_with_each_new_frame_in_source_pixels(
    tmp_path: Path, cache: bool, stride: int
) -> None:
    """A camera that turns right by 4 source pixels a frame, which are 2 of the network's."""
    coarse = np.random.default_rng(3).integers(40, 216, (4, 8, 3), dtype=np.uint8)
    ground = cv2.resize(coarse, (256, 128), interpolation=cv2.INTER_CUBIC)
    pictures = [np.asarray(ground[:, 4 * i : 4 * i + 192], np.uint8) for i in range(10)]
    folder = write_folder(tmp_path / "pan", pictures)
    model = {"network": {"cues": ["background", "flow"]}, "cache": cache}
    config = tiny_config(folder, model=model, window={"stride": stride})
    listening = Listening(load_predictor(config))
    Stream(config, predictor=listening).run()
    assert [len(each) for each in listening.told] == [1] * 10 if stride == 1 else [2] * 5
    told = [motion for each in listening.told for motion in each]
    assert told[0] is None
    for motion in told[1:]:
        assert np.abs(motion @ (96, 64, 1) - (92, 64)).max() < 1.0
    assert listening._predictor._sources == {}


@pytest.mark.parametrize("cues", [[], ["background"]])
def test_without_the_flow_cue_the_cameras_motion_is_not_known(tmp_path: Path, cues: list[str]) -> None:
    folder = write_folder(tmp_path / "clip", [picture(i) for i in range(4)])
    config = tiny_config(folder, model={"network": {"cues": cues}})
    listening = Listening(load_predictor(config))
    Stream(config, predictor=listening).run()
    assert listening.told == [(None,)] * 4 if cues else [None] * 4


@pytest.mark.parametrize("model", [{"cues": False}, {"network": {"cues": []}}])
def test_cues_can_be_switched_off(
    tmp_path: Path, model: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "clip", [picture(i) for i in range(3)])
    with caplog.at_level(logging.INFO, logger="pipeline.inference.network_predictor"):
        given, _ = run_recorded(tiny_config(folder, model=model))
    assert given == [None] * 3
    assert "cues" not in caplog.text


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rendered_street_clip_streamed_live_has_the_cues_it_was_trained_with(
    tmp_path: Path, mirrored: bool
) -> None:
    clips = StreetClips(seed=2, height=HEIGHT, width=WIDTH, cues=("background", "flow"))
    for index in range(40):
        scene, clip = clips.scene(index), clips(index, num_frames=4)
        renderer = SceneRenderer(scene)
        pictures = [renderer(i)[0] for i in range(scene.num_frames)]
        if mirrored:
            pictures = [np.ascontiguousarray(rgb[:, ::-1]) for rgb in pictures]
        start = [i for i, rgb in enumerate(pictures) if np.array_equal(rgb, clip.images[0])]
        if start and clip.cues is not None and clip.cues.any(axis=(0, 2, 3)).all():
            break
    else:
        pytest.fail("none of 40 clips has cues that say something")
    folder = write_folder(tmp_path / "street", pictures)
    config = tiny_config(folder, source={"images_fps": scene.fps}, cadence={"fps": "source"}, model=BOTH)
    given, _ = run_recorded(config)
    live = np.stack([planes for planes in given[start[0] : start[0] + 4] if planes is not None])
    assert np.array_equal(live[:, 0], clip.cues[:, 0])
    if not mirrored:  # the flow of a mirrored clip was mirrored, not computed again
        assert np.array_equal(live[:, 1:], clip.cues[:, 1:])
