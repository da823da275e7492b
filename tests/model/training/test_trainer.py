"""The trainer: it resumes bit for bit, stops at what is not finite, and several processes train as one."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.training_runs import averaged_network, stage, state_tensors, tiny_options, toy_clips, trainer
from torch import nn

from model.checkpoint.weights_file import save_weights
from model.errors import CheckpointError, ModelError
from model.training.data.clip import ClipSource, TrainingClip
from model.training.progress import read_log
from model.training.state import read_state, write_state
from model.training.trainer import CHECKPOINT, Trainer, TrainingError

ROOT = Path(__file__).parents[3]


def assert_same_state(one: Path, other: Path) -> None:
    first, second = state_tensors(one), state_tensors(other)
    assert first.keys() == second.keys()
    assert any(name.startswith(".optimizer.state") and ".exp_avg" in name for name in first)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


class StopAfter:
    """A clip source that ends the training, as a lost machine would, after so many clips."""

    def __init__(self, num_clips: int) -> None:
        self._source, self._left = toy_clips(), num_clips

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        if self._left == 0:
            raise ConnectionError("the machine is gone")
        self._left -= 1
        return self._source(index, num_frames=num_frames)


# Dropout, noise, the discriminator and a border between stages: all that has state of its own.
STAGES = (
    stage("dense", steps=3, num_frames=1, dense_only=True),
    stage("clip", steps=5, num_denoising=6, separability_weight=0.05),
)
NETWORK = {"dropout": 0.2}


def interrupted(folder: Path, *, after: int) -> None:
    """Train with a checkpoint at every step until step `after` is done, then lose the machine."""
    options = tiny_options(*STAGES, network=NETWORK, checkpoint_seconds=1e-9)
    with pytest.raises(ConnectionError):
        trainer(options, folder, source=StopAfter(2 * after)).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert trainer(tiny_options(*STAGES, network=NETWORK), folder).run()
    return folder


@pytest.mark.parametrize("after", [2, 3, 6], ids=["first stage", "border of the stages", "second stage"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, whole: Path, after: int) -> None:
    interrupted(tmp_path, after=after)
    torch.manual_seed(999)  # another process would not have this one's generator
    second = trainer(tiny_options(*STAGES, network=NETWORK), tmp_path)
    assert second.resume()
    assert second.total_steps == after
    assert second.run()
    assert second.done
    assert_same_state(whole, tmp_path)
    assert [int(row["step"]) for row in read_log(tmp_path / "log.csv")] == [3, 8]


def test_time_that_is_up_saves_and_the_next_run_goes_on(tmp_path: Path) -> None:
    options = tiny_options(stage(steps=3), network=NETWORK)
    assert trainer(options, tmp_path / "whole").run()
    stops = []
    for _ in range(3):
        part = trainer(options, tmp_path / "parts")
        assert part.resume() == bool(stops)
        assert not part.run(max_seconds=0.0)
        stops.append(part.step)
    last = trainer(options, tmp_path / "parts")
    assert last.resume()
    assert last.done
    assert last.run(max_seconds=0.0)
    assert stops == [1, 2, 3]
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    options = tiny_options(stage(steps=2))
    trainer(options, tmp_path).run()
    before = state_tensors(tmp_path)
    again = trainer(options, tmp_path, source=StopAfter(0))
    assert again.resume()
    assert again.run()
    assert all(torch.equal(value, before[name]) for name, value in state_tensors(tmp_path).items())


def test_an_empty_folder_is_no_run_to_resume(tmp_path: Path) -> None:
    fresh = trainer(tiny_options(), tmp_path)
    assert not fresh.resume()
    assert fresh.total_steps == 0


def test_a_checkpoint_of_other_options_is_refused_naming_the_fields(tmp_path: Path) -> None:
    trainer(tiny_options(stage(steps=1)), tmp_path).run()
    other = tiny_options(stage(steps=1, learning_rate=5e-4), network={"num_queries": 7}, seed=2)
    with pytest.raises(CheckpointError, match="another run") as info:
        trainer(other, tmp_path).resume()
    text = str(info.value)
    for line in (
        "seed: the checkpoint has 0, asked for 2",
        "network.num_queries: the checkpoint has 6, asked for 7",
        "stages[0].learning_rate: the checkpoint has 0.001, asked for 0.0005",
    ):
        assert line in text
    assert "steps" not in text
    assert "--output" in text


def test_what_does_not_change_the_result_may_differ_at_resume(tmp_path: Path) -> None:
    trainer(tiny_options(stage(steps=1)), tmp_path).run()
    other = tiny_options(stage(steps=1), num_workers=3, piece_bytes=1 << 20, checkpoint_seconds=5.0)
    assert trainer(other, tmp_path).resume()


def test_a_checkpoint_written_before_a_field_existed_has_its_default(tmp_path: Path) -> None:
    run = trainer(tiny_options(stage(steps=1)), tmp_path)
    run.run()
    state = read_state(tmp_path / CHECKPOINT)
    del state["options"]["ema_decay"], state["options"]["stages"][0]["weight_decay"]
    write_state(state, tmp_path / CHECKPOINT, step=1)
    assert trainer(tiny_options(stage(steps=1)), tmp_path).resume()
    with pytest.raises(CheckpointError, match=r"ema_decay: the checkpoint has 0\.998, asked for 0\.5"):
        trainer(tiny_options(stage(steps=1), ema_decay=0.5), tmp_path).resume()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = trainer(tiny_options(stage(steps=1)), tmp_path)
    run.run()
    state = read_state(tmp_path / CHECKPOINT)
    del state["network"]["decoder.query_embed"]
    write_state(state, tmp_path / CHECKPOINT, step=1)
    with pytest.raises(CheckpointError, match=r"(?s)not of this version.*decoder\.query_embed"):
        trainer(tiny_options(stage(steps=1)), tmp_path).resume()


class Poisoned:
    """Clips whose cues hold one value from clip `first` on."""

    def __init__(self, value: float, *, first: int) -> None:
        self._source, self._value, self._first = toy_clips(), value, first

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        clip = self._source(index, num_frames=num_frames)
        if index < self._first or clip.cues is None:
            return clip
        return dataclasses.replace(clip, cues=np.full_like(clip.cues, self._value))


@pytest.mark.parametrize("dense_only", [True, False], ids=["dense stage", "window stage"])
def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(tmp_path: Path, dense_only: bool) -> None:
    options = tiny_options(stage(steps=6, dense_only=dense_only), checkpoint_seconds=1e-9)
    source = Poisoned(float("nan"), first=5)
    with pytest.raises(TrainingError, match=r"not finite at step 2 of stage 'clip'") as info:
        trainer(options, tmp_path, source=source).run()
    assert isinstance(info.value, ModelError)
    path = tmp_path / "nan_batch_0.pt"
    assert str(path) in str(info.value)

    saved = torch.load(path, weights_only=True)
    clips = [source(index, num_frames=2) for index in (4, 5)]
    assert torch.equal(saved["images"][1].permute(0, 2, 3, 1), torch.from_numpy(clips[1].images))
    assert saved["cues"].isnan().any(dim=(1, 2, 3, 4)).tolist() == [False, True]
    assert [target["labels"].shape[0] for target in saved["targets"]] == [2, 2]

    state = read_state(tmp_path / CHECKPOINT)
    assert state["step"] == 2
    assert all(bool(value.isfinite().all()) for value in state["network"].values())
    # With sound clips the run goes on from there.
    sound = trainer(options, tmp_path)
    assert sound.resume()
    assert sound.run()


def test_a_rate_that_blows_up_stops_with_an_error(tmp_path: Path) -> None:
    options = tiny_options(stage(steps=8, learning_rate=1e30, warmup_steps=0))
    with pytest.raises(TrainingError, match="learning rate"):
        trainer(options, tmp_path).run()
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_log_and_the_curves_are_written(tmp_path: Path) -> None:
    options = tiny_options(
        stage("dense", steps=21, num_frames=1, batch_size=1, dense_only=True),
        stage("clip", steps=2, num_denoising=3, separability_weight=0.1),
    )
    trainer(options, tmp_path).run()
    rows = read_log(tmp_path / "log.csv")
    assert [(int(row["step"]), row["stage"]) for row in rows] == [(20, "dense"), (21, "dense"), (23, "clip")]
    terms = dict(item.split("=") for item in rows[-1]["terms"].split())
    assert {"class", "l1", "giou", "mask", "dice", "class_0", "giou_noised", "dice_noised"} <= terms.keys()
    assert {"centre", "cell_l1", "cell_giou", "foreground", "separability", "discriminator"} <= terms.keys()
    assert {"total", "gradient_norm"} <= terms.keys()
    assert all(float(value) > 0 for value in terms.values())
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[1] == 1280
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_only_a_stage_that_asks_for_it_trains_the_discriminator(tmp_path: Path) -> None:
    without = stage("without", steps=1)
    assert trainer(tiny_options(without), tmp_path / "none").discriminator is None
    run = trainer(tiny_options(without, stage("with", steps=2, separability_weight=0.1)), tmp_path / "some")
    assert run.discriminator is not None
    start = {name: value.clone() for name, value in run.discriminator.state_dict().items()}
    assert not run.run(max_seconds=0.0)
    assert all(torch.equal(value, start[name]) for name, value in run.discriminator.state_dict().items())
    assert run.run()
    moved = [name for name, value in run.discriminator.state_dict().items() if not value.equal(start[name])]
    assert len(moved) == len(start)
    assert not any("judge" in name for name in averaged_network(run).state_dict())


def test_bf16_trains_otherwise_than_fp32_and_keeps_its_weights_in_fp32(tmp_path: Path) -> None:
    states = {}
    for precision in ("fp32", "bf16", "fp16"):
        options = tiny_options(stage(steps=2, num_denoising=3, separability_weight=0.1), precision=precision)
        trainer(options, tmp_path / precision).run()
        states[precision] = read_state(tmp_path / precision / CHECKPOINT)["network"]
    weight = "input_proj.0.0.weight"
    assert states["bf16"][weight].dtype == torch.float32
    assert not states["bf16"][weight].equal(states["fp32"][weight])
    assert torch.allclose(states["bf16"][weight], states["fp32"][weight], atol=5e-3)
    # A CPU has no use for half floats: it trains in fp32 instead.
    assert all(value.equal(states["fp16"][name]) for name, value in states["fp32"].items())


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    run = trainer(tiny_options(stage(steps=3), ema_decay=0.9), tmp_path)
    name = "decoder.class_embed.0.weight"
    expected = run.network.state_dict()[name].clone()
    for count in (1, 2, 3):
        run.run(max_seconds=0.0)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * run.network.state_dict()[name]
    averaged = averaged_network(run)
    assert torch.allclose(averaged.state_dict()[name], expected, atol=1e-7)
    assert not averaged.state_dict()[name].equal(run.network.state_dict()[name])
    assert not averaged.training


def run_two_processes(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--nnodes=1"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
            *(str(ROOT / "tests" / "support" / "train_child.py"), str(folder)),
        ],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    run_two_processes(tmp_path)
    for name in ("all", "exact"):
        ranks = [torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert ranks[0].keys() == ranks[1].keys()
        assert [key for key in ranks[0] if not ranks[0][key].equal(ranks[1][key])] == []

    from support.train_child import OPTIONS

    single = trainer(OPTIONS["exact"], tmp_path / "single")
    single.run()
    state = read_state(tmp_path / "exact" / CHECKPOINT)
    alone = read_state(tmp_path / "single" / CHECKPOINT)
    # The mean of two halves' gradients is the whole's: after one step the first moments are a tenth of it.
    for index, moments in alone["optimizer"]["state"].items():
        shared = state["optimizer"]["state"][index]["exp_avg"]
        scale = float(moments["exp_avg"].abs().max())
        assert torch.allclose(shared, moments["exp_avg"], rtol=0, atol=1e-3 * scale + 1e-9), index


def test_a_run_may_start_from_weights_of_the_same_network(tmp_path: Path) -> None:
    first = trainer(tiny_options(), tmp_path / "first")
    first.run()
    file = tmp_path / "first.safetensors"
    save_weights(averaged_network(first), file, name="first", trained=True)
    second = trainer(tiny_options(initial_weights=str(file)), tmp_path / "second")
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, first.average[name]), name
    other = tiny_options(initial_weights=str(file), network={"num_queries": 7})
    with pytest.raises(CheckpointError, match="num_queries: 7 was asked for"):
        trainer(other, tmp_path / "other")
    more = trainer(
        tiny_options(initial_weights=str(file), network={"cues": ["background", "flow"]}), tmp_path / "m"
    )
    weights = more.network.get_parameter("backbone.cue_conv.weight")
    assert torch.equal(weights[:, :1], first.average["backbone.cue_conv.weight"])
    assert not weights[:, 1:].any()


def test_a_run_may_have_its_own_dropout(tmp_path: Path) -> None:
    run = trainer(tiny_options(network=NETWORK, dropout=0.0), tmp_path)
    drops = [module for module in run.network.modules() if isinstance(module, nn.Dropout)]
    assert drops
    assert all(module.p == 0.0 for module in drops)
    assert run.options.model_config.dropout == 0.2


def test_options_and_sources_belong_together(tmp_path: Path) -> None:
    source: ClipSource = toy_clips()
    made: dict[str, Any] = {"options": tiny_options(), "source_of": {"other": source}, "folder": tmp_path}
    with pytest.raises(ValueError, match="clip"):
        Trainer(**made)
