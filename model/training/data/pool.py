"""A pool of rendered clips on disk, drawn again and again with changes that cost nothing.

Rendering a clip with its background costs a third of a second, and a small network takes several a second. A
clip of the pool is rendered when it is first asked for; later draws cut, mirror and re-light it.

Dimensions: T frames, N instances, H × W pixels, R cue planes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model.training.data.clip import ClipSource, TrainingClip
from model.training.data.cue_clips import mirrored_planes
from model.training.data.disguise import add_decoys, change_camera, dress, forget_cue, is_still, zoom
from model.training.data.instances import MIN_VISIBLE, draw_window, owners
from ops.files import written_whole


class PooledClips:
    """Clip source over the first `num_clips` clips of another, kept in a folder as clips of `stored_frames`.

    Draw `index` depends on (seed, index) alone; several processes may fill and read one folder.
    `disguise` is the part of the draws that get each of: other looks for their instances, decoys, another
    lens and sensor, a closer view (data.disguise); 0 leaves them as they were rendered.
    """

    def __init__(
        self,
        source: ClipSource,
        folder: Path,
        *,
        num_clips: int,
        stored_frames: int,
        seed: int = 0,
        crop: tuple[int, int] | None = None,
        cues: tuple[str, ...] = (),
        disguise: float = 0.0,
    ) -> None:
        self._source, self._folder = source, folder
        self._num_clips, self._stored_frames = num_clips, stored_frames
        self._seed, self._crop, self._cues = seed, crop, cues
        self._disguise = disguise
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        """T frames of a clip of the pool. Raises ValueError for more frames than are stored."""
        if not 1 <= num_frames <= self._stored_frames:
            raise ValueError(f"num_frames={num_frames} must be 1 to {self._stored_frames}, the pool's length")
        rng = np.random.default_rng((self._seed, index))
        turn, place = divmod(index, self._num_clips)
        order = np.random.default_rng((self._seed, 1 << 40, turn)).permutation(self._num_clips)
        clip = self.stored(int(order[place]))
        start = int(rng.integers(0, self._stored_frames - num_frames + 1))
        chosen = _frames(clip, start, num_frames)
        if not self._disguise:
            return augment(chosen, rng, crop=self._crop, cues=self._cues)
        dressed, crowded, filmed, zoomed = rng.random(4) < self._disguise
        chosen = forget_cue(chosen, rng, cues=self._cues)
        if dressed or crowded:
            other = self.stored(int(rng.integers(self._num_clips)), cues=False)
            chosen = dress(chosen, other, rng) if dressed else chosen
            if crowded:
                chosen = add_decoys(chosen, other, rng, cues=self._cues, still=is_still(clip))
        if zoomed:
            crop = self._crop or chosen.images.shape[1:3]
            chosen = zoom(chosen, rng, size=(crop[0], crop[1]), cues=self._cues)
        return augment(
            change_camera(chosen, rng) if filmed else chosen, rng, crop=self._crop, cues=self._cues
        )

    def stored(self, which: int, *, cues: bool = True) -> TrainingClip:
        """Clip `which` as it is stored, cues in half precision or left out; rendered if it is not."""
        path = self._folder / f"{which:06d}.npz"
        try:
            return _load(path, cues=cues)
        except (FileNotFoundError, ValueError, KeyError, EOFError, BadZipFile):  # a damaged one is made again
            clip = self._source(which, num_frames=self._stored_frames)
            _save(path, clip)
            return _load(path, cues=cues)


def augment(
    clip: TrainingClip, rng: np.random.Generator, *, crop: tuple[int, int] | None, cues: tuple[str, ...]
) -> TrainingClip:
    """The clip cut to `crop` (mostly where an instance is), mirrored at even odds, its light changed."""
    images, masks, planes = clip.images, clip.masks, clip.cues
    height, width = images.shape[1:3]
    if crop is not None and crop != (height, width):
        rows, columns = draw_window(rng, owners(masks), crop)
        images, masks = images[:, rows, columns], masks[..., rows, columns]
        planes = None if planes is None else planes[..., rows, columns]
    if rng.random() < 0.5:
        images, masks = images[:, :, ::-1], masks[..., ::-1]
        planes = None if planes is None else mirrored_planes(planes, cues)
    images = relight(images, rng)
    seen = masks.sum(axis=(2, 3)).max(axis=1, initial=0) >= MIN_VISIBLE
    return TrainingClip(
        images=images,
        masks=np.ascontiguousarray(masks[seen]),
        labels=clip.labels[seen],
        cues=None if planes is None else np.ascontiguousarray(planes),
    )


def relight(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same change of contrast, brightness and colour for all frames, by a table per channel."""
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3)
    gamma = rng.uniform(0.8, 1.25)
    shift = rng.uniform(-20, 20)
    levels = 255.0 * (np.arange(256) / 255.0) ** gamma
    tables = np.clip(levels[None] * gain[:, None] + shift, 0, 255).astype(np.uint8)
    changed = np.stack([tables[channel][images[..., channel]] for channel in range(3)], axis=-1)
    if rng.random() < 0.1:
        grey = changed.mean(axis=-1, keepdims=True).astype(np.uint8)
        changed = np.repeat(grey, 3, axis=-1)
    return np.ascontiguousarray(changed)


def _frames(clip: TrainingClip, start: int, num_frames: int) -> TrainingClip:
    chosen = slice(start, start + num_frames)
    return TrainingClip(
        images=clip.images[chosen],
        masks=clip.masks[:, chosen],
        labels=clip.labels,
        cues=None if clip.cues is None else clip.cues[chosen].astype(np.float32),
    )


def _save(path: Path, clip: TrainingClip) -> None:
    arrays: dict[str, Any] = {"images": clip.images, "owner": owners(clip.masks), "labels": clip.labels}
    if clip.cues is not None:
        arrays["cues"] = clip.cues.astype(np.float16)
    with written_whole(path) as unfinished:
        np.savez(unfinished, **arrays)


def _load(path: Path, *, cues: bool) -> TrainingClip:
    with np.load(path, allow_pickle=False) as arrays:
        owner, labels = arrays["owner"], arrays["labels"]
        return TrainingClip(
            images=arrays["images"],
            masks=np.stack([owner == index + 1 for index in range(len(labels))])
            if len(labels)
            else np.zeros((0, *owner.shape), np.bool_),
            labels=labels,
            cues=arrays["cues"] if cues and "cues" in arrays else None,
        )
