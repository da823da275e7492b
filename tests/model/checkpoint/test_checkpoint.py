"""Weights in files: our format, published checkpoints, and files that must be refused."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.seqformer_weights import published_shapes, reference_tensor
from support.small_models import live_model, random_images, small_config
from torch import Tensor

from model.__main__ import main
from model.checkpoint.weights_file import load_seqformer, load_weights, read_pickle, save_weights
from model.errors import CheckpointError
from model.network import Network, build_model


def small_published(**changes: Tensor) -> dict[str, Tensor]:
    """A state dict of the published layout (ResNet-50), narrowed so that tests are quick.

    C 256 → 32, 1 encoder and 2 decoder layers, 10 queries, an eighth of the backbone's width.
    """
    narrow = {256: 32, 1024: 128, 512: 64, 768: 96, 300: 10, 128: 128, 42: 42}
    tensors = {}
    for key, shape in published_shapes().items():
        layer = key.split(".layers.")
        if "transformer.encoder" in key and not layer[1].startswith("0."):
            continue
        if "transformer.decoder.layers" in key and not layer[1].startswith(("0.", "1.")):
            continue
        if "_embed." in key and "query_embed" not in key and key.split("_embed.")[1][0] not in "01":
            continue
        if ".backbone." in key:
            small = tuple(size // 8 if size > 7 else size for size in shape)
        elif "input_proj" in key:
            small = (32, shape[1] // 8, *shape[2:]) if len(shape) > 1 else (32,)
        elif "sampling_offsets" in key:
            small = (256, *(32 for _ in shape[1:]))
        elif "attention_weights" in key and "time" not in key:
            small = (128, *(32 for _ in shape[1:]))
        elif "controller.layers.2" in key:
            small = (169, *(32 for _ in shape[1:]))
        elif "mask_head.lay2" in key:
            small = (8, 8, 3, 3) if len(shape) > 1 else (8,)
        elif "mask_head.lay1" in key:
            small = (8, 32, 3, 3) if len(shape) > 1 else (8,)
        else:
            small = tuple(narrow.get(size, size) for size in shape)
        tensors[key] = reference_tensor(key, small)
    return {**tensors, **changes}


def published_file(path: Path, model: dict[str, Tensor]) -> Path:
    """A file of the true published shape: weights, optimiser, scheduler, epoch and the training arguments."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], lr=2e-4)
    parameter.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 10])
    assert isinstance(scheduler.state_dict()["milestones"], collections.Counter)
    torch.save(
        {
            "model": collections.OrderedDict(model),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": 11,
            "args": argparse.Namespace(lr=2e-4, lr_backbone_names=["backbone.0"], resume="", masks=True),
        },
        path,
    )
    return path


def same_output(first: Network, second: Network) -> bool:
    images = random_images(2, 3, 64, 96)
    with torch.inference_mode():
        one, two = (network.decode_window(network.encode_frames(images)) for network in (first, second))
    return torch.equal(one.logits, two.logits) and torch.equal(one.mask_logits, two.mask_logits)


class TestOurFormat:
    """safetensors with the config inside."""

    def test_round_trip_keeps_weights_config_and_metadata(self, tmp_path: Path) -> None:
        network = live_model(small_config(variant="sequential_encoder_1", class_list="ovis"))
        path = tmp_path / "weights.safetensors"
        save_weights(network, path, name="small", trained=True, notes={"epoch": "3"})
        loaded = load_weights(path)
        assert loaded.config == network.config
        assert same_output(loaded, network)
        assert loaded.trained
        assert loaded.metadata["name"] == "small"
        assert loaded.metadata["epoch"] == "3"
        assert not loaded.training
        assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]

    def test_untrained_weights_say_so(self, tmp_path: Path) -> None:
        network = build_model(small_config(), seed=0)
        assert not network.trained
        save_weights(network, tmp_path / "w.safetensors", name="random", trained=False)
        assert not load_weights(tmp_path / "w.safetensors").trained

    def test_half_precision_in_the_file_is_float32_in_memory(self, tmp_path: Path) -> None:
        network = live_model(small_config())
        full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
        save_weights(network, full, name="n", trained=False)
        save_weights(network, half, name="n", trained=False, dtype=torch.float16)
        assert half.stat().st_size < 0.6 * full.stat().st_size
        loaded = load_weights(half)
        assert all(value.dtype == torch.float32 for value in loaded.parameters())
        for key, value in network.state_dict().items():
            assert torch.allclose(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-6), key

    def test_reserved_notes_are_refused(self, tmp_path: Path) -> None:
        network = build_model(small_config(), seed=0)
        with pytest.raises(ValueError, match="reserved keys config"):
            save_weights(network, tmp_path / "w", name="n", trained=False, notes={"config": "{}"})

    def test_a_failed_write_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = build_model(small_config(), seed=0)
        path = tmp_path / "w.safetensors"
        save_weights(network, path, name="old", trained=False)

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_weights(network, path, name="new", trained=False)
        assert load_weights(path).metadata["name"] == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"nothing.safetensors'?: no such file"):
            load_weights(tmp_path / "nothing.safetensors")

    @pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
    def test_truncated_file(self, tmp_path: Path, kept: float) -> None:
        path = tmp_path / "w.safetensors"
        save_weights(build_model(small_config(), seed=0), path, name="n", trained=False)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
        with pytest.raises(CheckpointError, match=r"not a complete safetensors file .*copy it again"):
            load_weights(path)

    def test_a_pickle_is_told_where_to_go(self, tmp_path: Path) -> None:
        torch.save({}, tmp_path / "w.pth")
        torch.save({}, tmp_path / "w.bin")
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
        for name in ("w.pth", "w.bin", "w.pkl"):
            with pytest.raises(
                CheckpointError, match=r"': a PyTorch checkpoint .*python -m model convert"
            ) as error:
                load_weights(tmp_path / name)
            assert "copy it again" not in str(error.value)

    def test_foreign_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_file({"x": torch.zeros(2)}, path)
        with pytest.raises(CheckpointError, match="format 'unknown', expected 'mssts-stream/1'"):
            load_weights(path)

    def test_config_of_a_later_version(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_file({"x": torch.zeros(2)}, path, {"format": "mssts-stream/1", "config": '{"wings": 2}'})
        with pytest.raises(CheckpointError, match="'wings'"):
            load_weights(path)

    def test_another_architecture_names_the_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        network = build_model(small_config(), seed=0)
        network.config = small_config(hidden_dim=64, variant="baseline", decoder_layers=3)
        save_weights(network, path, name="n", trained=False)
        with pytest.raises(CheckpointError) as error:
            load_weights(path)
        text = str(error.value)
        assert "missing: decoder.layers.2" in text
        assert "unexpected: encoder.sts.0" in text
        assert "level_embed (4, 32) instead of (4, 64)" in text


class TestPublished:
    """SeqFormer checkpoints."""

    def test_narrow_checkpoint_loads_from_a_file_of_the_published_shape(self, tmp_path: Path) -> None:
        tensors = small_published()
        network = load_seqformer(read_pickle(published_file(tmp_path / "r50.pth", tensors)))
        assert network.config.backbone == "resnet50"
        assert (network.config.hidden_dim, network.config.num_points) == (32, 4)
        assert same_output(network, load_seqformer(tensors))

    def test_resnet101_is_told_by_its_blocks(self) -> None:
        tensors = small_published()
        block = {key: value for key, value in tensors.items() if ".layer3.5." in key}
        for index in range(6, 23):
            tensors.update({key.replace(".5.", f".{index}."): value for key, value in block.items()})
        assert load_seqformer(tensors).config.backbone == "resnet101"

    def test_sampling_rows_become_planar(self) -> None:
        tensors = small_published()
        prefix = "detr.transformer.encoder.layers.0.self_attn."
        offsets, weights = (
            tensors[prefix + f"{name}.bias"] for name in ("sampling_offsets", "attention_weights")
        )
        bias = load_seqformer(tensors).encoder.layers[0].attention.sampling.bias
        x, y, logits = bias.view(3, 8, 4, 4)
        assert torch.equal(x, offsets.view(8, 4, 4, 2)[..., 0])
        assert torch.equal(y, offsets.view(8, 4, 4, 2)[..., 1])
        assert torch.equal(logits, weights.view(8, 4, 4))

    def test_class_head_of_the_dense_layout(self) -> None:
        changes = {
            f"detr.class_embed.{layer}.{part}": torch.zeros(25, *size)
            for layer in (0, 1)
            for part, size in (("weight", (32,)), ("bias", ()))
        }
        network = load_seqformer(small_published(**changes), class_list="ovis")
        assert network.config.outputs == 25
        first = network.config.output_categories[0]
        assert first is not None
        assert first.name == "person"

    def test_faults_are_named(self) -> None:
        tensors = small_published(extra=torch.zeros(1))
        del tensors["controller.layers.0.bias"]
        tensors["mask_head.dcn.bias"] = torch.zeros(31)
        with pytest.raises(CheckpointError) as error:
            load_seqformer(tensors)
        text = str(error.value)
        assert "missing: mask_head.controller.layers.0.bias" in text
        assert "unexpected: extra" in text
        assert "mask_branch.dcn.bias (31,) instead of (32,)" in text

    def test_a_checkpoint_of_something_else(self) -> None:
        with pytest.raises(CheckpointError, match=r"not a SeqFormer checkpoint.*level_embed.*fc\.weight"):
            load_seqformer({"fc.weight": torch.zeros(2, 2)})

    def test_an_unknown_backbone(self) -> None:
        tensors = small_published()
        for key in [key for key in tensors if ".layer3.5." in key]:
            del tensors[key]
        with pytest.raises(CheckpointError, match=r"bottleneck blocks \(3, 4, 5, 3\)"):
            load_seqformer(tensors)

    @pytest.mark.parametrize("variant", ["sequential_encoder_1", "sequential_encoder_2"])
    def test_variants_that_cannot_start_as_the_baseline(self, variant: Any) -> None:
        with pytest.raises(ValueError, match=f"'{variant}' cannot start as the baseline"):
            load_seqformer(small_published(), variant=variant)


class Evil:
    """Unpickles into a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


class TestPickles:
    """Reading .pth files runs nothing in them."""

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path: Path, zipped: bool) -> None:
        trace, path = tmp_path / "trace", tmp_path / "evil.pth"
        torch.save({"model": {}, "args": Evil(trace)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds code \(.*mkdir\).*nothing of it was run"):
            read_pickle(path)
        assert not trace.exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_bare_pickle_with_code(self, tmp_path: Path, protocol: int) -> None:
        trace, path = tmp_path / "trace", tmp_path / "evil.pth"
        # The second one takes its name from the pickle's memo.
        content = {"model": collections.OrderedDict(), "mkdir": "posix", "args": [Evil(trace), Evil(trace)]}
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(CheckpointError, match=r"holds code \(.*mkdir\).*nothing of it was run"):
            read_pickle(path)
        assert not trace.exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_later_pickle_protocol(self, tmp_path: Path, zipped: bool) -> None:
        trace, path = tmp_path / "trace", tmp_path / "evil.pth"
        content = {"model": {"x": torch.zeros(2)}, "args": Evil(trace)}
        torch.save(content, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds code \(.*mkdir\).*nothing of it was run"):
            read_pickle(path)
        assert not trace.exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_a_damaged_file_without_code_is_not_accused(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pth"
        torch.save({"model": collections.OrderedDict(x=torch.zeros(2))}, path, pickle_protocol=4)
        with pytest.raises(CheckpointError, match="damaged or not a PyTorch file"):
            read_pickle(path)

    @pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 3, None, "text"])
    def test_a_file_of_something_else(
        self, tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "w.pth"
        torch.save(content, path)
        with pytest.raises(
            CheckpointError, match=rf"w\.pth.*holds a {type(content).__name__}, expected a state"
        ):
            read_pickle(path)
        assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 1
        assert "expected a state dict" in capsys.readouterr().err
        wrong: Any = content
        with pytest.raises(CheckpointError, match="expected a state dict"):
            load_seqformer(wrong)

    @pytest.mark.parametrize(
        "key",
        [
            "detr.transformer.level_embed",
            "detr.query_embed.weight",
            "detr.backbone.0.body.conv1.weight",
            "mask_head.lay2.weight",
            "detr.transformer.encoder.layers.0.self_attn.sampling_offsets.weight",
        ],
    )
    @pytest.mark.parametrize("shape", [(), (0, 32), (3,)])
    def test_tensors_of_no_fitting_shape_are_named(self, key: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(CheckpointError, match=key.split(".")[-2]):
            load_seqformer({**small_published(**{key: torch.zeros(shape)}), 7: torch.zeros(1)})

    def test_a_network_of_absurd_size_is_a_checkpoint_error(self) -> None:
        key = "detr.query_embed.weight"
        with pytest.raises(CheckpointError, match="num_queries: 5000 must be at most"):
            load_seqformer(small_published(**{key: torch.zeros(5000, 32)}))

    @pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
    def test_truncated(self, tmp_path: Path, kept: float) -> None:
        path = tmp_path / "w.pth"
        torch.save({"model": {"x": torch.zeros(1000)}}, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
        with pytest.raises(CheckpointError, match="copy it again"):
            read_pickle(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no such file"):
            read_pickle(tmp_path / "w.pth")

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_text("not weights at all\n")
        with pytest.raises(CheckpointError, match="not a PyTorch file"):
            read_pickle(tmp_path / "w.pth")


class TestVerbs:
    """`python -m model`."""

    def test_convert_then_show(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = published_file(tmp_path / "in.pth", small_published())
        target = tmp_path / "out.safetensors"
        assert main(["convert", str(source), str(target), "--variant", "split"]) == 0
        assert "seqformer-resnet50" in capsys.readouterr().out
        # The second in a process of its own, as a user runs it.
        shown = subprocess.run(
            [sys.executable, "-m", "model", "show", str(target)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in ("name: seqformer-resnet50", "trained: true", "  variant: split", "  num_queries: 10"):
            assert line in shown.splitlines()
        network = load_weights(target)
        total = sum(value.numel() for value in network.state_dict().values())
        assert f"  all: {total}" in shown.splitlines()
        assert same_output(network, load_seqformer(small_published(), variant="split"))

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["fly"],
            ["show"],
            ["show", "missing.safetensors"],
            ["convert", "missing.pth", "out.safetensors"],
            ["convert", "a", "b", "--variant", "splitt"],
        ],
    )
    def test_bad_arguments_end_with_1_and_a_message(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 1
        assert "error" in capsys.readouterr().err

    def test_unwritable_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = published_file(tmp_path / "in.pth", small_published())
        assert main(["convert", str(source), str(tmp_path / "no" / "out.safetensors")]) == 1
        assert str(tmp_path / "no") in capsys.readouterr().err

    def test_help_ends_with_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        out = capsys.readouterr().out
        assert "convert" in out
        assert "show" in out
