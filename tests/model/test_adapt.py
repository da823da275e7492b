"""`python -m model adapt`: a camera's own frames give the statistics, and the weights say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.rtsp_server import RtspServer
from support.small_models import live_model, small_config
from support.video import read_number, write_video

from model.__main__ import main
from model.adapt import Thinned, adapt, collect, re_estimate
from model.checkpoint.weights_file import load_weights, save_weights, weights_path
from model.config import FORMER_WEIGHTS
from model.cues.state import CueState
from model.errors import CheckpointError, VideoError
from model.layers.backbone import ResNet
from model.network import Network
from model.video import read_frames
from ops.preprocess import fit_image
from pipeline.config_file import load_config

Image = NDArray[np.uint8]


def dim_street(index: int, *, height: int = 64, width: int = 96) -> Image:
    """A dark, soft, noisy scene with something that moves."""
    grey = np.random.default_rng(0).normal(60, 12, (height // 8, width // 8, 3)).astype(np.float32)
    image = cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC)
    left = 2 * index % (width - 16)
    image[16:40, left : left + 16] += 50
    noise = np.random.default_rng(index).normal(0, 3, image.shape)
    return np.asarray((image + noise).clip(0, 255), dtype=np.uint8)


def write_folder(folder: Path, pictures: list[Image]) -> Path:
    folder.mkdir()
    for index, rgb in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"frame{index}.png"), rgb[..., ::-1])
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    notes = {"steps": "12"}
    save_weights(live_model(small_config()), path, name="street", trained=True, notes=notes)
    return path


def stem_statistics(network: Network, folder: Path, *, cues: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the stem's convolution over warm frames 11 to 18, computed plainly."""
    state, inputs = CueState(("background",)), []
    for index, path in enumerate(sorted(folder.iterdir(), key=lambda path: int(path.stem[5:]))[:19]):
        rgb = np.asarray(cv2.imread(str(path)))[..., ::-1].copy()
        planes = state.update(rgb, index / 10)
        image, _ = fit_image(rgb, height=64, width=96)
        if state.spoke:
            inputs.append(torch.cat([image, torch.from_numpy(planes) * cues]))
    backbone = network.backbone
    weight = torch.cat([backbone.conv1.weight, backbone.cue_conv.weight], dim=1)
    x = torch.nn.functional.conv2d(torch.stack(inputs), weight, stride=2, padding=3)
    return x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))


def test_a_source_alone_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "camera", [dim_street(i) for i in range(19)])
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", "--source", str(folder)]) == 0
    assert "norm layers" in capsys.readouterr().out
    adapted, shipped = load_weights("adapted.safetensors"), load_weights(weights_path(FORMER_WEIGHTS))
    assert adapted.config == shipped.config
    assert not torch.equal(adapted.backbone.bn1.running_mean, shipped.backbone.bn1.running_mean)
    assert "adapted.safetensors" in (tmp_path / "adapted.yaml").read_text()


def test_a_folder_gives_the_statistics_and_the_weights_and_config_that_hold_them(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "camera", [dim_street(i) for i in range(19)])
    output = tmp_path / "camera.safetensors"
    arguments = ["--source", str(folder), "--weights", str(weights), "--output", str(output)]
    assert main(["adapt", *arguments]) == 0
    told = capsys.readouterr().out
    assert "20 norm layers, from 8 frames over 0.7 s" in told
    assert "too short" not in told

    old, new = load_weights(weights), load_weights(output)
    assert new.metadata["name"] == "street-adapted"
    assert new.trained
    assert {key: new.metadata[key] for key in ("steps", "adapted_from", "adapted_to", "adapted_frames")} == {
        "steps": "12",
        "adapted_from": "street",
        "adapted_to": "camera",
        "adapted_frames": "8",
    }
    changed = {
        key for key, value in new.state_dict().items() if not torch.equal(value, old.state_dict()[key])
    }
    statistics = {key for key in old.state_dict() if key.endswith(("running_mean", "running_var"))}
    assert changed == statistics
    assert len(statistics) == 40

    mean, var = stem_statistics(old, folder, cues=True)
    assert torch.allclose(new.backbone.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(new.backbone.bn1.running_var, var, rtol=1e-4)
    without, _ = stem_statistics(old, folder, cues=False)
    assert not torch.allclose(mean, without, atol=1e-3), "the cues have a part in it"

    config = load_config(tmp_path / "camera.yaml")
    assert config.model.weights == str(output.resolve())
    assert load_config(values={"model": {"weights": str(output.resolve())}}) == config


def test_an_adapted_backbone_gives_maps_of_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    network = live_model(small_config())
    pictures = [dim_street(i) for i in range(40)]
    samples = collect(((rgb, i / 10) for i, rgb in enumerate(pictures)), network.config, num_frames=8)
    assert [round(sample.seconds * 10) for sample in samples] == [11, 15, 19, 23, 27, 31, 35, 39]

    @torch.no_grad()
    def stem(backbone: ResNet) -> tuple[float, float]:
        images = torch.stack([fit_image(rgb, height=64, width=96)[0] for rgb in pictures[11::4]])
        planes = torch.stack([torch.from_numpy(sample.planes) for sample in samples])
        normed: list[torch.Tensor] = []
        handle = backbone.bn1.register_forward_hook(lambda *values: normed.append(values[2].clone()))
        backbone(images, planes)
        handle.remove()
        x = (normed[0] - backbone.bn1.bias[:, None, None]) / backbone.bn1.weight[:, None, None]
        return float(x.mean(dim=(0, 2, 3)).abs().max()), float((x.std(dim=(0, 2, 3)) - 1).abs().max())

    before = stem(network.backbone)
    shifts = re_estimate(network, samples)
    after = stem(network.backbone)
    assert max(before) > 0.3
    assert max(after) < 0.01
    assert [shift.layer for shift in shifts][:2] == ["bn1", "layer1.0.bn1"]
    assert shifts[0].deviation < 0.9
    assert not network.backbone.training
    again = re_estimate(network, samples)
    assert max(abs(shift.mean) for shift in again) < 1e-6, "the same frames change nothing any more"


def test_strength_blends_with_what_was_there(tmp_path: Path) -> None:
    samples = collect(((dim_street(i), i / 10) for i in range(20)), small_config(), num_frames=8)
    networks = [live_model(small_config()) for _ in range(3)]
    for network, strength in zip(networks, (0.0, 0.25, 1.0), strict=True):
        re_estimate(network, samples, strength=strength)
    old, quarter, new = (network.backbone.layer2[0].bn1 for network in networks)
    assert torch.equal(old.running_mean, live_model(small_config()).backbone.layer2[0].bn1.running_mean)
    assert torch.allclose(quarter.running_mean, 0.75 * old.running_mean + 0.25 * new.running_mean, atol=1e-6)
    assert torch.allclose(quarter.running_var, 0.75 * old.running_var + 0.25 * new.running_var, atol=1e-6)
    assert old.num_batches_tracked == new.num_batches_tracked


def test_padding_has_no_part_and_frames_of_another_size_may_follow() -> None:
    config = small_config()
    wide = [dim_street(i, height=48) for i in range(15)]
    samples = collect(((rgb, i / 10) for i, rgb in enumerate(wide)), config, num_frames=4)
    assert {sample.content.shape for sample in samples} == {(48, 96, 3)}
    mixed = [*wide, *(dim_street(i) for i in range(15))]
    samples = collect(((rgb, i / 10) for i, rgb in enumerate(mixed)), config, num_frames=8)
    assert {sample.content.shape for sample in samples} == {(48, 96, 3), (64, 96, 3)}
    assert len(re_estimate(live_model(config), samples)) == 20


def test_frames_are_spread_over_a_stream_of_unknown_length() -> None:
    samples = collect(((dim_street(i), i / 10) for i in range(300)), small_config(), num_frames=5)
    places = [round(sample.seconds * 10) for sample in samples]
    assert len(places) == 5
    assert np.all(np.diff(places) >= 40)
    assert places[0] == 11
    thinned = Thinned(3)
    for sample in samples * 100:
        thinned.add(sample)
        assert len(thinned.samples) <= 6


def test_a_source_too_short_for_the_cues_is_used_and_told(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "short", [dim_street(i) for i in range(6)])
    output = tmp_path / "short.safetensors"
    overlay = tmp_path / "mine.yaml"
    arguments = ["--source", str(folder), "--weights", str(weights), "--output", str(output)]
    assert main(["adapt", *arguments, "--config-overlay", str(overlay)]) == 0
    told = capsys.readouterr().out
    assert "from 6 frames" in told
    assert "too short for the cues" in told
    assert overlay.exists()
    assert not (tmp_path / "short.yaml").exists()


@pytest.mark.rtsp
def test_a_live_camera_is_looked_at_for_a_while_and_its_password_stays_secret(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    with RtspServer(live=True, size=(64, 96), user="viewer", password="s3cret") as server:
        url = server.url("/live", user="viewer", password="s3cret")
        report = adapt(url, str(weights), str(output), seconds=3.0, num_frames=10)
        with pytest.raises(VideoError, match=r"^rtsp://127\.0\.0\.1:\d+/…: cannot be opened"):
            adapt(url.replace("s3cret", "wr0ng!"), str(weights), str(tmp_path / "other.safetensors"))
    seconds = [sample.seconds for sample in report.samples]
    assert len(seconds) == 10
    assert 1.0 < seconds[-1] - seconds[0] < 2.0, "three seconds, of which the cues need one"
    assert all(sample.planes is not None and sample.planes.any() for sample in report.samples)
    told = capfd.readouterr()
    texts = [told.out, told.err, str(load_weights(output).metadata), (tmp_path / "out.yaml").read_text()]
    assert not any(secret in text for text in texts for secret in ("s3cret", "wr0ng", "viewer"))


class TestReading:
    def test_a_video_at_the_rate_of_the_stream(self, tmp_path: Path) -> None:
        clip = write_video(tmp_path / "clip.mp4", num_frames=50, fps=25)
        frames = list(read_frames(str(clip), fps=10.0))
        assert [read_number(rgb) for rgb, _ in frames] == [i * 5 // 2 for i in range(20)]
        assert [seconds for _, seconds in frames] == pytest.approx([i * 5 // 2 / 25 for i in range(20)])
        assert frames[0][0].shape == (96, 128, 3)
        assert len(list(read_frames(str(clip), fps=10.0, seconds=1.0))) == 10
        assert len(list(read_frames(str(clip), fps=1000.0))) == 50

    def test_a_folder_in_natural_order_and_in_rgb(self, tmp_path: Path) -> None:
        folder = write_folder(
            tmp_path / "images", [np.full((8, 8, 3), (i, 0, 200), np.uint8) for i in range(12)]
        )
        (folder / "notes.txt").write_text("no image")
        (folder / "frame3.png").write_bytes(b"broken")
        frames = list(read_frames(str(folder)))
        assert [int(rgb[0, 0, 0]) for rgb, _ in frames] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
        assert [seconds for _, seconds in frames] == [i / 10 for i in range(12) if i != 3]
        assert int(frames[0][0][0, 0, 2]) == 200


class TestRefused:
    def test_a_frozen_trunk_is_refused_and_says_what_can_be_adapted(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"backbone 'csp', a frozen trunk: .* --weights resnet18"):
            adapt("nothing.mp4", "default", str(tmp_path / "out.safetensors"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("norm", ["gn", "frozen_bn"])
    def test_weights_without_batch_norm(self, tmp_path: Path, norm: str) -> None:
        path = tmp_path / "other.safetensors"
        save_weights(live_model(small_config(norm=norm)), path, name="other", trained=True)
        with pytest.raises(CheckpointError, match=f"norm '{norm}': only a ResNet trained with norm 'bn'"):
            adapt("absent.mp4", str(path), str(tmp_path / "out.safetensors"))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_frames": 0}, "num_frames=0"),
            ({"seconds": 0.0}, r"seconds=0\.0"),
            ({"fps": -1.0}, r"fps=-1\.0"),
            ({"strength": 1.5}, r"strength=1\.5"),
            ({"overlay": "out.safetensors"}, "cannot both be written"),
        ],
    )
    def test_impossible_numbers(
        self, tmp_path: Path, weights: Path, values: dict[str, Any], message: str
    ) -> None:
        folder = write_folder(tmp_path / "camera", [dim_street(i) for i in range(3)])
        if "overlay" in values:
            values = {"overlay": str(tmp_path / values["overlay"])}
        with pytest.raises(ValueError, match=message):
            adapt(str(folder), str(weights), str(tmp_path / "out.safetensors"), **values)
        assert not (tmp_path / "out.safetensors").exists()

    def test_sources_that_cannot_be_read(
        self, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "out.safetensors"
        text = tmp_path / "text.mp4"
        text.write_text("this is no video\n" * 100)
        empty = tmp_path / "empty"
        empty.mkdir()
        broken = write_folder(tmp_path / "broken", [dim_street(0)])
        (broken / "frame0.png").write_bytes(b"")
        for source, message in (
            (tmp_path / "absent.mp4", "no such file or folder"),
            (text, "cannot be read as a video"),
            (empty, "no images in this folder"),
            (broken, "not one picture can be decoded"),
        ):
            with pytest.raises(VideoError, match=message) as caught:
                adapt(str(source), str(weights), str(output))
            assert str(source) in str(caught.value)
        arguments = ["--source", str(text), "--weights", str(weights), "--output", str(output)]
        assert main(["adapt", *arguments]) == 1
        assert f"error: {text}: cannot be read as a video" in capsys.readouterr().err
        assert not output.exists()

    def test_a_camera_that_does_not_answer_is_named_without_its_password(
        self, tmp_path: Path, weights: Path
    ) -> None:
        url = "rtsp://admin:hun/t@er2@127.0.0.1:9/stream?token=abcd"
        with pytest.raises(VideoError) as caught:
            adapt(url, str(weights), str(tmp_path / "out.safetensors"))
        assert str(caught.value).startswith("rtsp://127.0.0.1:9/…: cannot be opened")

    def test_a_folder_to_write_to_that_is_not_there(self, tmp_path: Path, weights: Path) -> None:
        with pytest.raises(FileNotFoundError, match="make it first"):
            adapt(str(tmp_path), str(weights), str(tmp_path / "absent" / "out.safetensors"))
