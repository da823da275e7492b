"""The trainer: stages of steps, the average of the weights, checkpoints, resuming, several processes.

The state after step n depends on the options and n alone (on the CPU bit for bit): clips by their number,
dropout and noise by the generators' stored states. Processes of one run (torchrun) share the windows of every
batch and average their gradients.

Source: AdamW, clipping, rates and steps of the paper and of Deformable DETR (model.md 5); the stages are
training.md's; the averaged weights are the usual exponential average with a faster start.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.errors import CheckpointError, ModelError
from model.training.batch import Batch, batches
from model.training.data.clip import ClipSource
from model.training.discriminator import Discriminator, discriminator_loss
from model.training.initial_network import initial_network
from model.training.matcher import NotFiniteError
from model.training.optimizers import make_judge_optimizer, make_optimizer, rate_factor
from model.training.options import Stage, TrainingOptions, differing_fields
from model.training.processes import (
    any_wishes,
    average_gradients,
    broadcast_parameters,
    gather_states,
    rank_and_world,
)
from model.training.progress import CourseLog, StatusLine, draw_curves
from model.training.state import MANIFEST, read_state, write_state
from model.training.step import Auxiliary, Judged, step_loss

__all__ = ["CHECKPOINT", "Trainer", "TrainingError"]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
_LOG_EVERY = 20


class TrainingError(ModelError):
    """A run cannot go on: its loss is not finite; the text says where the batch was saved."""


class Trainer:
    """A run in a folder: `checkpoint/`, `log.csv`, `curves.png`.

    source_of gives the clips of a stage. Raises CheckpointError where the folder holds the checkpoint of
    another run.
    """

    def __init__(
        self,
        options: TrainingOptions,
        source_of: Mapping[str, ClipSource],
        folder: Path,
        *,
        device: str = "cpu",
    ) -> None:
        unknown = [stage.name for stage in options.stages if stage.name not in source_of]
        if unknown:
            raise ValueError(f"source_of has no clips for stage {unknown[0]!r}")
        self.options = options
        self.folder = folder
        self.device = torch.device(device)
        self._sources = source_of
        self.rank, self.world = rank_and_world()
        self.step = 0
        self.stage_index = 0
        self.network = initial_network(options).to(self.device).train()
        if options.dropout is not None:
            for part in self.network.modules():
                if isinstance(part, nn.Dropout):
                    part.p = options.dropout
        torch.manual_seed(options.seed + 1 + self.rank)
        self.auxiliary = Auxiliary(options.model_config).to(self.device)
        with_judge = any(stage.separability_weight for stage in options.stages)
        self.discriminator = Discriminator(options.model_config).to(self.device) if with_judge else None
        for module in (self.auxiliary, self.discriminator):
            if module is not None:
                broadcast_parameters(module)
        torch.manual_seed(options.seed + 101 + self.rank)
        self.noise = torch.Generator().manual_seed(options.seed + 1001 + self.rank)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = make_optimizer(self.network, self.auxiliary, self.stage)
        self._judge_optimizer = (
            None if self.discriminator is None else make_judge_optimizer(self.discriminator)
        )
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=options.precision == "fp16" and self.device.type == "cuda"
        )
        self._course = CourseLog(folder)

    @property
    def stage(self) -> Stage:
        """The stage being trained."""
        return self.options.stages[self.stage_index]

    @property
    def done(self) -> bool:
        """Whether every stage is."""
        return self.stage_index == len(self.options.stages) - 1 and self.step >= self.stage.steps

    @property
    def total_steps(self) -> int:
        """Steps done, over all stages."""
        return sum(stage.steps for stage in self.options.stages[: self.stage_index]) + self.step

    def resume(self) -> bool:
        """Go on where the folder's checkpoint stands; False where there is none.

        Raises CheckpointError for a damaged one or one of other options, naming the fields.
        """
        where = self.folder / CHECKPOINT
        if not (where / MANIFEST).is_file():
            return False
        state = read_state(where)
        differing = differing_fields(state["options"], self.options.to_dict())
        if differing:
            raise CheckpointError(
                f"checkpoint {str(where)!r} is of another run:\n  "
                + "\n  ".join(differing)
                + "\nuse its options, or another folder with --output"
            )
        self.stage_index, self.step = int(state["stage_index"]), int(state["step"])
        try:
            self._load(state)
        except (RuntimeError, ValueError, KeyError) as exc:
            raise CheckpointError(
                f"checkpoint {str(where)!r}: not of this version's network ({exc}); train again, or go on "
                "with the version that wrote it"
            ) from exc
        if len(state["random"]) == self.world:
            torch.set_rng_state(state["random"][self.rank])
            self.noise.set_state(state["noise"][self.rank])
        else:
            logger.warning(
                "the checkpoint is of %d processes, this run has %d: dropout and noise are drawn again",
                len(state["random"]),
                self.world,
            )
        if state.get("cuda_random") is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"])
        if self.rank == 0:
            self._course.cut(self.total_steps)
        return True

    def _load(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.optimizer = make_optimizer(self.network, self.auxiliary, self.stage)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None:
            assert self._judge_optimizer is not None
            self.discriminator.load_state_dict(state["discriminator"])
            self._judge_optimizer.load_state_dict(state["judge_optimizer"])
        # The scaler of another precision has nothing to say to this one.
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])

    def run(self, *, max_seconds: float | None = None) -> bool:
        """Train to the end, or save and return False when the time is up.

        Raises TrainingError for a loss that is not finite, CheckpointError where the state cannot be saved.
        """
        began = saved = time.monotonic()
        status = StatusLine()
        while not self.done:
            if self.step >= self.stage.steps:
                self._enter_stage(self.stage_index + 1)
            sums: dict[str, float] = {}
            since, num_summed = time.monotonic(), 0
            for batch in self._batches():
                terms = self._train(batch.to(self.device))
                self.step += 1
                num_summed += 1
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                if self.step % _LOG_EVERY == 0 or self.step == self.stage.steps:
                    means = {name: value / num_summed for name, value in sums.items()}
                    speed = num_summed * self.stage.batch_size / (time.monotonic() - since)
                    self._show(status, means, speed)
                    sums, since, num_summed = {}, time.monotonic(), 0
                now = time.monotonic()
                if any_wishes(max_seconds is not None and now - began > max_seconds, self.device):
                    self.save()
                    return False
                if any_wishes(now - saved > self.options.checkpoint_seconds, self.device):
                    self.save()
                    saved = now
            self.save()
        return True

    def save(self) -> None:
        """Write the checkpoint and the curves (the first process alone). Raises CheckpointError."""
        random = gather_states(torch.get_rng_state())
        noise = gather_states(self.noise.get_state())
        if self.rank:
            return
        state = {
            "options": self.options.to_dict(),
            "stage_index": self.stage_index,
            "step": self.step,
            "network": self.network.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": random,
            "noise": noise,
            "cuda_random": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }
        if self.discriminator is not None:
            assert self._judge_optimizer is not None
            state["discriminator"] = self.discriminator.state_dict()
            state["judge_optimizer"] = self._judge_optimizer.state_dict()
        write_state(
            state, self.folder / CHECKPOINT, step=self.total_steps, piece_bytes=self.options.piece_bytes
        )
        if self._course.path.is_file():
            draw_curves(self._course.path, self.folder / "curves.png")

    def _enter_stage(self, index: int) -> None:
        self.stage_index, self.step = index, 0
        self.optimizer = make_optimizer(self.network, self.auxiliary, self.stage)

    def _batches(self) -> Iterator[Batch]:
        stage = self.stage
        return batches(
            self._sources[stage.name],
            start=self.step,
            stop=stage.steps,
            batch_size=stage.batch_size,
            num_frames=stage.num_frames,
            mask_pixels=stage.mask_pixels,
            num_workers=self.options.num_workers,
            rank=self.rank,
            world=self.world,
        )

    def _train(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; the loss terms."""
        stage = self.stage
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(stage, self.step)
        judging = stage.separability_weight > 0
        try:
            with self._autocast():
                loss = step_loss(
                    self.network,
                    self.auxiliary,
                    batch,
                    stage,
                    generator=self.noise,
                    discriminator=self.discriminator if judging else None,
                )
        except NotFiniteError as exc:
            raise TrainingError(self._save_batch(batch, str(exc))) from exc
        # One wait for all of them.
        values = torch.stack(
            [value.detach().float() for value in (*loss.terms.values(), loss.total)]
        ).tolist()
        terms, total = dict(zip(loss.terms, values[:-1], strict=True)), values[-1]
        if any_wishes(not math.isfinite(total), self.device):
            bad = [name for name, value in terms.items() if not math.isfinite(value)]
            raise TrainingError(self._save_batch(batch, ", ".join(bad) or "in another process"))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss.total))
        both = (*self.network.parameters(), *self.auxiliary.parameters())
        parameters = [parameter for parameter in both if parameter.requires_grad]
        # Averaged before the scaler looks at them, so that all processes skip the same steps.
        average_gradients(parameters)
        self._scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, stage.clip_norm))
        if not math.isfinite(norm) and not self._scaler.is_enabled():
            raise TrainingError(self._save_batch(batch, "the gradients"))
        self._scaler.step(self.optimizer)
        self._scaler.update()
        terms |= {"total": total, "gradient_norm": norm}
        if judging and loss.judged is not None:
            terms["discriminator"] = self._train_judge(loss.judged)
        self._update_average()
        return terms

    def _train_judge(self, judged: Judged) -> float:
        assert self.discriminator is not None
        assert self._judge_optimizer is not None
        self._judge_optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = discriminator_loss(
                self.discriminator, judged.frames, judged.real, judged.fake, judged.levels
            )
        torch.autograd.backward(loss)
        parameters = list(self.discriminator.parameters())
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self._judge_optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        count = self.total_steps + 1
        decay = min(self.options.ema_decay, (1 + count) / (10 + count))
        values = self.network.state_dict()
        moving = [name for name, kept in self.average.items() if kept.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in moving], [values[name] for name in moving], 1 - decay
        )
        for name in self.average.keys() - set(moving):
            self.average[name].copy_(values[name])

    def _autocast(self) -> AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.options.precision)
        if kind is None or (kind == torch.float16 and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=kind)

    def _show(self, status: StatusLine, means: dict[str, float], speed: float) -> None:
        if self.rank:
            return
        stage = self.stage
        rate = self.optimizer.param_groups[0]["lr"]
        self._course.add(
            step=self.total_steps, stage=stage.name, rate=rate, windows_per_second=speed, terms=means
        )
        shown = " ".join(f"{name} {value:.3g}" for name, value in means.items() if not name[-1].isdigit())
        status.show(
            f"{stage.name} {self.step}/{stage.steps} {speed:.1f} windows/s {shown}",
            last=self.step == stage.steps,
        )

    def _save_batch(self, batch: Batch, what: str) -> str:
        """Save a batch for a look at it; the text of the error."""
        path = self.folder / f"nan_batch_{self.rank}.pt"
        batch = batch.to(torch.device("cpu"))
        content = {
            "images": batch.images,
            "cues": batch.cues,
            "targets": [vars(target) for target in batch.targets],
            "stage": self.stage.name,
            "step": self.step,
        }
        torch.save(content, path)
        return (
            f"the loss is not finite at step {self.step} of stage {self.stage.name!r} ({what}); the batch is "
            f"in {str(path)!r}. Lower the learning rate or clip_norm, use fp32, or look at the batch; the "
            "last checkpoint is from before"
        )
