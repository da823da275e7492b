"""Batches: clips of a source, in a fixed order, as tensors.

Batch i of a stage is made of clips i·B … i·B + B − 1 of the source, in whichever process. So a resumed run
goes on with exactly the clips that it would have had.

Dimensions: B windows, T frames, H × W pixels, R cue planes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.training.data.clip import ClipSource, TrainingClip
from model.training.targets import Lattice, Target

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0..1 (model.md 5)."""


@dataclass(frozen=True)
class Batch:
    """images: (B, T, 3, H, W) uint8 RGB; cues: (B, T, R, H, W) float or None; one target per window."""

    images: Tensor
    cues: Tensor | None
    targets: tuple[Target, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            images=self.images.to(device, non_blocking=True),
            cues=None if self.cues is None else self.cues.to(device, non_blocking=True),
            targets=tuple(target.to(device, non_blocking=True) for target in self.targets),
        )

    def normalised(self) -> Tensor:
        """Images as the network wants them, (B, T, 3, H, W) float32."""
        images = self.images.float() / 255.0
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (images - mean) / std


def make_batch(clips: Sequence[TrainingClip], *, lattice: Lattice | None = None) -> Batch:
    """Clips of one size → a batch; targets with the `fine_masks` of a lattice where one is given.

    Raises ValueError if only some of the clips have cues.
    """
    images = torch.from_numpy(np.stack([clip.images for clip in clips])).permute(0, 1, 4, 2, 3).contiguous()
    known = [clip.cues for clip in clips if clip.cues is not None]
    if known and len(known) < len(clips):
        raise ValueError("some clips of a batch have cues and some have none")
    return Batch(
        images=images,
        cues=torch.from_numpy(np.stack(known)) if known else None,
        targets=tuple(
            Target.from_clip(clip.masks, clip.labels, ignore=clip.ignore, lattice=lattice) for clip in clips
        ),
    )


class _Batches(Dataset[Batch]):
    def __init__(
        self,
        source: ClipSource,
        *,
        start: int,
        length: int,
        batch_size: int,
        num_frames: int,
        mask_pixels: int,
        rank: int,
        world: int,
    ) -> None:
        self._source, self._mask_pixels = source, mask_pixels
        self._start, self._length = start, length
        self._batch_size, self._num_frames = batch_size, num_frames
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        first = (self._start + index) * self._batch_size
        own = range(first + self._rank, first + self._batch_size, self._world)
        clips = [self._source(clip, num_frames=self._num_frames) for clip in own]
        stride, step = self._mask_pixels, self._start + index
        return make_batch(clips, lattice=Lattice.of_step(stride, step) if stride else None)


def batches(
    source: ClipSource,
    *,
    start: int,
    stop: int,
    batch_size: int,
    num_frames: int,
    num_workers: int,
    mask_pixels: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches `start` to `stop` − 1; each of `world` processes gets its share of every batch's clips. Above
    0, mask_pixels is the stride of the lattice of the targets' `fine_masks`, which moves from batch to batch.

    Raises ValueError where a batch has fewer windows than there are processes.
    """
    if batch_size < world:
        raise ValueError(f"batch_size {batch_size} is less than the {world} processes; use at least one each")
    data = _Batches(
        source,
        start=start,
        length=stop - start,
        batch_size=batch_size,
        num_frames=num_frames,
        mask_pixels=mask_pixels,
        rank=rank,
        world=world,
    )
    if num_workers == 0:
        threads = torch.get_num_threads()
        for index in range(len(data)):
            try:
                made = data[index]
            finally:  # a source that fails must not leave the caller with one thread
                torch.set_num_threads(threads)
            yield made
        return
    # Workers are started afresh: a forked child of a process that holds OpenMP threads may hang. The loader
    # gets a generator of its own: it would draw from the one that dropout uses, once more in a resumed run.
    yield from DataLoader(
        data,
        batch_size=None,
        shuffle=False,
        num_workers=num_workers,
        prefetch_factor=4,
        multiprocessing_context="spawn",
        generator=torch.Generator(),
    )
