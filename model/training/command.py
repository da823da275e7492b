"""`python -m model train`: read a run's options, make its clips, train, and write the weights.

Exit codes are those of `python -m model`. The weights are written where safetensors is installed. Elsewhere
(on a bare GPU machine) the run leaves its checkpoint folder, and `python -m model convert FOLDER OUT` makes
the weights from it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed

from model.checkpoint.nanodet import NOTES
from model.errors import CheckpointError, MissingPackageError
from model.network import Network, build_model
from model.training.data.clip import ClipSource
from model.training.data.pool import PooledClips
from model.training.options import Stage, TrainingOptions
from model.training.state import read_state
from model.training.trainer import CHECKPOINT, Trainer

Crop = tuple[int, int] | None


def train(arguments: Sequence[str]) -> None:
    """Train a network from a TOML file of options, or go on with a run."""
    parser = argparse.ArgumentParser(prog="python -m model train", description=train.__doc__)
    parser.add_argument("--config", required=True, help="TOML file of the run (configs/train/*.toml)")
    parser.add_argument("--output", required=True, help="folder of the run; a checkpoint in it is resumed")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--max-minutes", type=float, help="save and stop after so long; run again to go on")
    parser.add_argument("--workers", type=int, help="processes that make clips (default: the file's)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the file's")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: torch's choice)")
    options = parser.parse_args(arguments)
    run = TrainingOptions.read(options.config)
    changes = {"num_workers": options.workers, "precision": options.precision}
    run = TrainingOptions.from_dict(
        run.to_dict() | {name: value for name, value in changes.items() if value is not None}
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    grouped = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if grouped:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        sources = {stage.name: clip_source(run, stage, Path(options.output)) for stage in run.stages}
        trainer = Trainer(run, sources, Path(options.output), device=device)
        if trainer.resume() and trainer.rank == 0:
            print(f"resumed at step {trainer.step} of stage {trainer.stage.name}")
        seconds = None if options.max_minutes is None else options.max_minutes * 60
        finished = trainer.run(max_seconds=seconds)
        if trainer.rank == 0:
            _report(trainer, finished=finished)
    finally:
        if grouped:
            torch.distributed.destroy_process_group()


def clip_source(run: TrainingOptions, stage: Stage, folder: Path) -> ClipSource:
    """The clips of a stage: new ones, each stage its own, or draws from the pool in the run's folder.

    Raises ValueError for an unknown set, DatasetError for a data set that cannot be used.
    """
    seed = run.seed * 1000 + [other.name for other in run.stages].index(stage.name)
    if run.data not in SOURCES:
        return _from_file(run, stage, seed)
    if not run.pool_clips:
        return SOURCES[run.data](run, seed, stage.crop)
    return PooledClips(
        SOURCES[run.data](run, run.seed, None),
        folder / "pool",
        num_clips=run.pool_clips,
        stored_frames=max(other.num_frames for other in run.stages),
        seed=seed,
        crop=stage.crop,
        cues=run.model_config.cues,
        disguise=run.disguise,
    )


def _street(
    run: TrainingOptions, seed: int, crop: Crop, *, close: float = 0.0, walkers: bool = True
) -> ClipSource:
    from model.training.data.street import StreetClips

    config = run.model_config
    return StreetClips(
        seed=seed,
        height=config.height,
        width=config.width,
        cues=config.cues,
        crop=crop,
        close=close,
        walkers=walkers,
        photos=None if run.photos is None else Path(run.photos),
        figures=None if run.figures is None else Path(run.figures),
        class_list=config.class_list,
    )


def _sprites(run: TrainingOptions, seed: int, crop: Crop) -> ClipSource:
    from model.training.data.sprites import SpriteClips

    config = run.model_config
    if config.class_list != "sprites":
        raise ValueError(f"data: 'sprites' needs network.class_list = 'sprites', not {config.class_list!r}")
    return SpriteClips(seed=seed, height=config.height, width=config.width, cues=config.cues, crop=crop)


SOURCES: dict[str, Callable[[TrainingOptions, int, Crop], ClipSource]] = {
    "street": _street,
    "street_close": partial(_street, close=0.3),
    "street_closer": partial(_street, close=0.5),
    "street_without_walkers": partial(_street, walkers=False),
    "sprites": _sprites,
}


def _from_file(run: TrainingOptions, stage: Stage, seed: int) -> ClipSource:
    if not run.data.endswith(".json"):
        raise ValueError(f"data: {run.data!r} is not one of {', '.join(SOURCES)} and no .json file")
    if run.pool_clips:
        raise ValueError(f"pool_clips: is for rendered sets, and {run.data} is a data set: leave it out")
    from model.training.data.ytvis import YouTubeVisClips

    source = YouTubeVisClips(
        run.data,
        config=run.model_config,
        images=run.images,
        seed=seed,
        crop=stage.crop,
        sampling=run.sampling,
        fps=run.fps,
    )
    source.check(stage.num_frames)
    return source


def trained_network(folder: Path) -> tuple[Network, dict[str, str]]:
    """The averaged weights of a run's folder or checkpoint folder, in eval mode, and notes about the run.

    Raises CheckpointError for a folder without a usable checkpoint.
    """
    where = folder / CHECKPOINT if (folder / CHECKPOINT).is_dir() else folder
    state = read_state(where)
    run = TrainingOptions.from_dict(state["options"])
    network = build_model(run.model_config, seed=run.seed)
    try:
        network.load_state_dict(state["average"])
    except RuntimeError as exc:
        raise CheckpointError(f"checkpoint {str(where)!r}: not of this version's network ({exc})") from exc
    stage = run.stages[int(state["stage_index"])]
    notes = {
        "data": run.data,
        "seed": str(run.seed),
        "steps": " ".join(f"{other.name}:{other.steps}" for other in run.stages[: int(state["stage_index"])])
        + f" {stage.name}:{int(state['step'])}/{stage.steps}",
    }
    if network.detector is not None:
        notes |= NOTES  # whose the detector inside is
    return network, notes


def _device(name: str) -> str:
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: no CUDA device is available; use --device cpu")
        if name == "cuda" and "LOCAL_RANK" in os.environ:
            name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    elif name != "cpu":
        raise ValueError(f"--device {name!r} is not one of cpu, cuda, cuda:N")
    return name


def write_trained(folder: Path, path: Path) -> str:
    """Write the averaged weights of a run's folder to `path`, half precision; say what was written.

    Raises CheckpointError for a folder without a usable checkpoint, MissingPackageError without safetensors.
    """
    from model.checkpoint.weights_file import save_weights

    network, notes = trained_network(folder)
    save_weights(network, path, name=path.stem, trained=True, notes=notes, dtype=torch.float16)
    elements = sum(value.numel() for value in network.state_dict().values())
    return f"{path}: averaged weights of steps {notes['steps']}, {elements / 1e6:.2f} M elements"


def _report(trainer: Trainer, *, finished: bool) -> None:
    if not finished:
        print(f"stopped at step {trainer.step} of stage {trainer.stage.name}; run again to go on")
        return
    try:
        print(write_trained(trainer.folder, trainer.folder / "weights.safetensors"))
    except MissingPackageError:
        print(
            f"trained; safetensors is not installed here: bring {trainer.folder / CHECKPOINT} back and run "
            "`python -m model convert FOLDER OUT.safetensors`"
        )
