"""Adapt weights to a camera: its own frames give the batch-norm statistics of the backbone.

A network learnt what grey levels, noise and sharpness to expect from what it was trained on. The statistics
carry that, and a camera's own frames tell them in seconds, without labels and gradients. Source: training.md
(re-estimated statistics gave the best numbers on real footage); Li et al., "Adaptive Batch Normalization".

N frames, H × W pixels, R cue planes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoint.weights_file import load_weights, save_weights, weights_path
from model.config import FORMER_WEIGHTS, ModelConfig
from model.cues.state import CueState
from model.errors import CheckpointError
from model.network import Network
from ops.preprocess import fit_content, fit_size, normalise_content

Frames = Iterable[tuple[NDArray[np.uint8], float] | None]
"""A stream's frames in order: (H, W, 3) RGB and stream time in seconds. None: what follows does not continue
what came before (a reconnect, a cut)."""

BATCH_FRAMES = 8
_WRITTEN_ANEW = ("format", "config", "name", "trained")
"""Entries of the metadata that `save_weights` writes itself."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A frame as the network sees it, without padding."""

    content: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    planes: NDArray[np.float32] | None
    """(R, H, W); None without cues."""
    seconds: float
    """Stream time."""
    warm: bool
    """Whether the cues speak."""


@dataclass(frozen=True)
class Shift:
    """How the statistics of one norm layer moved, over its channels."""

    layer: str
    mean: float
    """Mean of |new mean − old mean| / old standard deviation."""
    deviation: float
    """Geometric mean of new standard deviation / old standard deviation."""


@dataclass(frozen=True)
class Report:
    """What `adapt` did; as text, what a person wants to know of it."""

    weights: str
    overlay: str
    samples: Sequence[Sample]
    shifts: Sequence[Shift]
    """Of each norm layer, in the order of the network."""

    def __str__(self) -> str:
        seconds = self.samples[-1].seconds - self.samples[0].seconds
        first = self.shifts[0]
        most = max(self.shifts, key=lambda shift: shift.mean)
        mean = sum(shift.mean for shift in self.shifts) / len(self.shifts)
        lines = [
            f"{self.weights}: {len(self.shifts)} norm layers, from {len(self.samples)} frames "
            f"over {seconds:.1f} s",
            f"means moved by {mean:.2f} standard deviations on average (stem {first.mean:.2f}, "
            f"most in {most.layer}: {most.mean:.2f}); the stem's deviations are {first.deviation:.2f} times "
            "what they were",
            f"{self.overlay}: python run_stream.py --config {self.overlay}",
        ]
        if not all(sample.warm for sample in self.samples):
            lines.insert(
                1, "the source was too short for the cues to warm up: not all of them said something"
            )
        return "\n".join(lines)


@dataclass
class Thinned:
    """At most `limit` frames, evenly over all that were added, whose number nobody knows before."""

    limit: int
    samples: list[Sample] = field(default_factory=list)
    _step: int = 1
    _num_added: int = 0

    def add(self, sample: Sample) -> None:
        """Keep the sample, or not."""
        if self._num_added % self._step == 0:
            self.samples.append(sample)
        self._num_added += 1
        if len(self.samples) > 2 * self.limit:
            self.samples = self.samples[::2]
            self._step *= 2

    def chosen(self) -> list[Sample]:
        """The frames, oldest first."""
        if len(self.samples) <= self.limit:
            return self.samples
        places = np.linspace(0, len(self.samples) - 1, self.limit).round().astype(int)
        return [self.samples[place] for place in places]


def adapt(
    frames: Frames,
    weights: str,
    output: str,
    *,
    shown: str,
    overlay: str | None = None,
    num_frames: int = 64,
    strength: float = 1.0,
) -> Report:
    """Adapt weights in a file (`resnet18`: the former default) to a camera's frames, write them and a config
    that names them; see `collect` and `re_estimate`.

    frames come at the rate that the network runs at on this camera (`cadence.fps`), as the cues depend on it;
    the first is asked for when all else has been checked. shown: what the files say of where they are from,
    a path or an address without secrets. overlay: where the config goes; None: `output` with the suffix
    .yaml.
    Raises CheckpointError for weights that cannot be read or have no batch norm, ValueError for a number out
    of range or no frames, OSError where a file cannot be written, and what `frames` raises.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1")
    _check_strength(strength)
    config_path = Path(output).with_suffix(".yaml") if overlay is None else Path(overlay)
    if config_path.resolve() == Path(output).resolve():
        raise ValueError(f"the weights and the config cannot both be written to {output}")
    for path in (Path(output), config_path):
        if not path.parent.is_dir():  # rather now than after a long look at the camera
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it first")
    network = load_weights(weights_path(weights))
    _norms(network)
    samples = collect(frames, network.config, num_frames=num_frames)
    shifts = re_estimate(network, samples, strength=strength)
    name = network.metadata.get("name", Path(weights).stem)
    notes = {key: text for key, text in network.metadata.items() if key not in _WRITTEN_ANEW}
    notes |= {
        "adapted_from": name,
        "adapted_to": shown if "://" in shown else Path(shown).name,
        "adapted_frames": str(len(samples)),
        "adapted_seconds": f"{samples[-1].seconds - samples[0].seconds:.1f}",
        "adapted_strength": f"{strength:g}",
    }
    save_weights(network, output, name=f"{name}-adapted", trained=network.trained, notes=notes)
    # A JSON string is a YAML string whatever the path holds.
    named = json.dumps(str(Path(output).resolve()), ensure_ascii=False)
    config_path.write_text(
        f"# {name}, adapted by `python -m model adapt` to {shown}\nmodel:\n  weights: {named}\n",
        encoding="utf-8",
    )
    return Report(output, str(config_path), samples, shifts)


def collect(frames: Frames, config: ModelConfig, *, num_frames: int) -> list[Sample]:
    """Fit a stream's frames into the network's size and choose up to `num_frames`.

    Cues are computed in the order of the stream, as live. Frames whose cues are still zero are left out where
    there are others.
    """
    state = CueState(config.cues)
    warm, cold = Thinned(num_frames), Thinned(num_frames)
    size: tuple[int, ...] = ()
    for frame in frames:
        if frame is None:
            state.reset()
            continue
        rgb, seconds = frame
        content, _ = fit_content(rgb, height=config.height, width=config.width)
        if content.shape != size:
            state.reset()
            size = content.shape
        planes = state.update(content, seconds) if config.cues else None
        speaks = planes is None or state.spoke
        (warm if speaks else cold).add(Sample(content, planes, seconds, speaks))
        if speaks:
            cold.samples.clear()
    return warm.chosen() or cold.chosen()


@torch.no_grad()
def re_estimate(network: Network, samples: Sequence[Sample], *, strength: float = 1.0) -> list[Shift]:
    """Put statistics of the samples into the backbone's batch norms; how each layer moved, in its order.

        new = strength · (cumulative average over batches of the samples) + (1 − strength) · old

    Each batch holds frames from all over the stream, and every layer sees what the layers before it make of
    the batch by its own statistics. Padding, which no camera shows, has no part in them.
    Raises CheckpointError if the backbone has no batch norm, ValueError without samples or for a strength
    outside 0..1.
    """
    if not samples:
        raise ValueError("there are no frames to adapt to")
    _check_strength(strength)
    norms = _norms(network)
    kept = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    counts = {name: norm.num_batches_tracked.clone() for name, norm in norms.items()}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
    network.backbone.train()
    for images, cues in _batches(samples):
        network.backbone(images, cues)
    network.backbone.eval()
    shifts = []
    for name, norm in norms.items():
        old_mean, old_var = kept[name]
        norm.momentum = momenta[name]
        norm.num_batches_tracked.copy_(counts[name])
        norm.running_mean.lerp_(old_mean, 1 - strength)
        norm.running_var.lerp_(old_var, 1 - strength)
        deviation = (old_var + norm.eps).sqrt()
        ratio = ((norm.running_var + norm.eps).sqrt() / deviation).log().mean().exp()
        mean = ((norm.running_mean - old_mean).abs() / deviation).mean()
        shifts.append(Shift(name, float(mean), float(ratio)))
    return shifts


def _check_strength(strength: float) -> None:
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength={strength} must be in 0..1")


def _norms(network: Network) -> dict[str, Any]:
    """The backbone's batch norms by name; CheckpointError if it has none."""
    modules = network.backbone.named_modules()
    norms: dict[str, Any] = {name: module for name, module in modules if isinstance(module, nn.BatchNorm2d)}
    if not norms:
        trunk = network.config.backbone
        what = "backbone 'csp', a frozen trunk" if trunk == "csp" else f"norm {network.config.norm!r}"
        raise CheckpointError(
            f"these weights have {what}: only a ResNet trained with norm 'bn' has batch-norm statistics that "
            f"a camera's frames can replace, as --weights {FORMER_WEIGHTS} has"
        )
    return norms


def _batches(samples: Sequence[Sample]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images (N, 3, H, W) and cues (N, R, H, W) of frames of one size, N about BATCH_FRAMES."""
    by_size: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_size[sample.content.shape].append(sample)
    for (height, width, _), alike in by_size.items():
        fit = fit_size(height, width, height=height, width=width)
        num_batches = -(-len(alike) // BATCH_FRAMES)
        for first in range(num_batches):
            batch = alike[first::num_batches]
            images = torch.stack([normalise_content(sample.content, fit) for sample in batch])
            planes = [torch.from_numpy(sample.planes) for sample in batch if sample.planes is not None]
            cues = torch.stack(planes) if planes else None
            yield images.contiguous(memory_format=torch.channels_last), cues
