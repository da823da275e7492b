"""Adapting: a camera's own frames give the statistics, and the weights and a config say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.small_models import live_model, small_config

from model.adapt import Thinned, adapt, collect, re_estimate
from model.checkpoint.weights_file import load_weights, save_weights
from model.cues.state import CueState
from model.errors import CheckpointError
from model.layers.backbone import ResNet
from model.network import Network
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


def unread() -> Iterator[tuple[Image, float]]:
    """Frames that nobody may ask for."""
    raise AssertionError("a frame was asked for")
    yield dim_street(0), 0.0


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    notes = {"steps": "12"}
    save_weights(live_model(small_config()), path, name="street", trained=True, notes=notes)
    return path


def stem_statistics(
    network: Network, pictures: list[Image], *, cues: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the stem's convolution over the warm frames, 11 to the last, computed plainly."""
    state, inputs = CueState(("background",)), []
    for index, rgb in enumerate(pictures):
        planes = state.update(rgb, index / 10)
        image, _ = fit_image(rgb, height=64, width=96)
        if state.spoke:
            inputs.append(torch.cat([image, torch.from_numpy(planes) * cues]))
    backbone = network.backbone
    weight = torch.cat([backbone.conv1.weight, backbone.cue_conv.weight], dim=1)
    x = torch.nn.functional.conv2d(torch.stack(inputs), weight, stride=2, padding=3)
    return x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))


def test_frames_give_the_statistics_and_the_weights_and_config_that_hold_them(
    tmp_path: Path, weights: Path
) -> None:
    pictures = [dim_street(i) for i in range(19)]
    output = tmp_path / "camera.safetensors"
    frames = ((rgb, i / 10) for i, rgb in enumerate(pictures))
    told = str(adapt(frames, str(weights), str(output), shown="somewhere/camera"))
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

    mean, var = stem_statistics(old, pictures, cues=True)
    assert torch.allclose(new.backbone.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(new.backbone.bn1.running_var, var, rtol=1e-4)
    without, _ = stem_statistics(old, pictures, cues=False)
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


def test_a_gap_starts_the_cues_anew_as_in_a_stream() -> None:
    pictures = [(dim_street(i), i / 10) for i in range(40)]
    whole = collect(pictures, small_config(), num_frames=40)
    assert [round(sample.seconds * 10) for sample in whole] == list(range(11, 40))
    cut = collect([*pictures[:20], None, *pictures[20:]], small_config(), num_frames=40)
    # Frames 11 to 19, then a second without cues behind the gap.
    assert [round(sample.seconds * 10) for sample in cut] == [*range(11, 20), *range(31, 40)]


class TestRefused:
    def test_a_frozen_trunk_is_refused_before_a_frame_is_asked_for(self, tmp_path: Path) -> None:
        output = str(tmp_path / "out.safetensors")
        with pytest.raises(CheckpointError, match=r"backbone 'csp', a frozen trunk: .* --weights resnet18"):
            adapt(unread(), "default", output, shown="camera")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("norm", ["gn", "frozen_bn"])
    def test_weights_without_batch_norm(self, tmp_path: Path, norm: str) -> None:
        path = tmp_path / "other.safetensors"
        save_weights(live_model(small_config(norm=norm)), path, name="other", trained=True)
        with pytest.raises(CheckpointError, match=f"norm '{norm}': only a ResNet trained with norm 'bn'"):
            adapt(unread(), str(path), str(tmp_path / "out.safetensors"), shown="camera")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_frames": 0}, "num_frames=0"),
            ({"strength": 1.5}, r"strength=1\.5"),
            ({"overlay": "out.safetensors"}, "cannot both be written"),
        ],
    )
    def test_impossible_numbers(
        self, tmp_path: Path, weights: Path, values: dict[str, Any], message: str
    ) -> None:
        if "overlay" in values:
            values = {"overlay": str(tmp_path / values["overlay"])}
        with pytest.raises(ValueError, match=message):
            adapt(unread(), str(weights), str(tmp_path / "out.safetensors"), shown="camera", **values)
        assert not (tmp_path / "out.safetensors").exists()

    def test_no_frames(self, tmp_path: Path, weights: Path) -> None:
        with pytest.raises(ValueError, match="no frames to adapt to"):
            adapt([], str(weights), str(tmp_path / "out.safetensors"), shown="camera")
        assert not (tmp_path / "out.safetensors").exists()

    def test_a_folder_to_write_to_that_is_not_there(self, tmp_path: Path, weights: Path) -> None:
        with pytest.raises(FileNotFoundError, match="make it first"):
            adapt(unread(), str(weights), str(tmp_path / "absent" / "out.safetensors"), shown="camera")
