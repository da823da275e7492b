"""Clips in another look, so that form, motion and cues tell what counts, and not the look alone.

Drawn things look drawn. A network that learns their colour and texture finds drawn things only, and takes
what stands out in a real picture for one of them. So in some clips the things wear pieces of other pictures,
in some still copies of other clips' things stand about and are ignored, and lens and sensor differ.
Source: domain randomisation (Tobin et al. 2017), decoys as in the sprites set; chances and ranges are ours.

T frames, N instances, H × W pixels, R cue planes.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.config import CUE_PLANES
from model.cues.planes import LIMIT
from model.training.data.clip import TrainingClip
from model.training.data.instances import draw_window, owners

__all__ = ["add_decoys", "change_camera", "dress", "forget_cue", "is_still", "zoom"]

Rng = np.random.Generator

DRESSED = 0.5
"""Part of the instances that are dressed, in clips where any is."""
MAX_DECOYS = 3
DECOY_MIN_PIXELS = 40
DECOY_COVERS = 0.3
"""Part of an instance's pixels in a frame that a decoy may hide at most."""
FORGOTTEN = 0.15
"""Part of the clips in which one of several cues says nothing."""
MAX_ZOOM = 2.0
STILL_LEVELS = 5.0
"""Median change of the background's grey levels over a clip up to which the camera counts as still."""


def is_still(clip: TrainingClip) -> bool:
    """Whether the camera stands still over the clip, judged by the background; one frame cannot show it."""
    nobody = ~clip.masks.any(axis=(0, 1))
    if len(clip.images) < 2 or not nobody.any():
        return False
    changed = cv2.absdiff(clip.images[0], clip.images[-1]).max(axis=2)[nobody]
    busy = float(np.percentile(changed, 90))
    return busy <= 3 * STILL_LEVELS and float(np.median(changed)) <= STILL_LEVELS


def dress(clip: TrainingClip, other: TrainingClip, rng: Rng) -> TrainingClip:
    """The clip with pieces of `other`'s pictures on some of its instances, as if they wore them.

    A piece keeps its place in the box around the instance from frame to frame, and some of the light and dark
    beneath it stays.
    """
    images = clip.images.copy()
    for mask in clip.masks:
        if not mask.any() or rng.random() >= DRESSED:
            continue
        boxes = [cv2.boundingRect(seen.astype(np.uint8)) for seen in mask]
        cloth = _piece(other, max(box[3] for box in boxes), max(box[2] for box in boxes), rng)
        share = rng.uniform(0.5, 1.0)
        for image, seen, (x, y, width, height) in zip(images, mask, boxes, strict=True):
            if not width:
                continue
            inside = seen[y : y + height, x : x + width]
            under = image[y : y + height, x : x + width]
            shade = under.astype(np.float32).mean(axis=2, keepdims=True)
            shade = 0.5 + 0.5 * shade / max(1.0, float(shade[inside].mean()))
            worn = share * cloth[:height, :width] * shade + (1 - share) * under
            under[inside] = np.clip(worn, 0, 255).astype(np.uint8)[inside]
    return TrainingClip(images=images, masks=clip.masks, labels=clip.labels, cues=clip.cues)


def add_decoys(
    clip: TrainingClip, other: TrainingClip, rng: Rng, *, cues: tuple[str, ...], still: bool
) -> TrainingClip:
    """The clip with still copies of `other`'s instances in it that are ignored.

    Their cues alone tell them from instances: they say that nothing has moved there. Where the camera moves
    (`still` false), only clips of one frame get copies, and the background cue stays as it is. Where no cue
    would tell, the clip is returned as it is.
    """
    if clip.cues is None or not (still or len(clip.images) == 1):
        return clip
    images, masks, planes = clip.images.copy(), clip.masks.copy(), clip.cues.copy()
    if not any(planes[:, telling].any() for telling in _telling(cues, still=still)):
        return clip
    height, width = images.shape[1:3]
    areas = masks.sum(axis=(2, 3))
    frame = int(rng.integers(len(other.images)))
    for index in rng.permutation(len(other.masks))[: int(rng.integers(1, MAX_DECOYS + 1))]:
        cut = other.masks[index, frame]
        x, y, wide, high = cv2.boundingRect(cut.astype(np.uint8))
        cut = cut[y : y + high, x : x + wide]
        if cut.sum() < DECOY_MIN_PIXELS or high > height or wide > width:
            continue
        top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
        rows, columns = slice(top, top + high), slice(left, left + wide)
        if ((masks[:, :, rows, columns] & cut).sum(axis=(2, 3)) > DECOY_COVERS * areas).any():
            continue
        images[:, rows, columns][:, cut] = other.images[frame, y : y + high, x : x + wide][cut]
        masks[:, :, rows, columns][..., cut] = False
        _silence(planes[:, :, rows, columns], cut, cues, still=still)
    return TrainingClip(images=images, masks=masks, labels=clip.labels, cues=planes)


def change_camera(clip: TrainingClip, rng: Rng) -> TrainingClip:
    """The clip through another lens and sensor, the same for every frame: unsharp, with the background out of
    focus, grainy, or with its colours exchanged."""
    images = clip.images
    if len(clip.masks) and rng.random() < 0.15:
        sigma = float(rng.uniform(1.0, 4.0))
        front: NDArray[np.bool_] = np.any(clip.masks, axis=0)
        blurred = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])
        images = np.where(front[..., None], images, blurred)
    if rng.random() < 0.35:
        sigma = float(rng.uniform(0.4, 1.5))
        images = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])
    if rng.random() < 0.25:
        grain = rng.standard_normal(images.shape, np.float32) * np.float32(rng.uniform(2, 12))
        images = np.clip(images + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        images = images[..., rng.permutation(3)]
    return TrainingClip(
        images=np.ascontiguousarray(images), masks=clip.masks, labels=clip.labels, cues=clip.cues
    )


def forget_cue(clip: TrainingClip, rng: Rng, *, cues: tuple[str, ...]) -> TrainingClip:
    """The clip, by chance with the planes of one of its cues at zero; a clip with one cue stays as it is."""
    if clip.cues is None or len(cues) < 2 or rng.random() >= FORGOTTEN:
        return clip
    which = int(rng.integers(len(cues)))
    first = sum(CUE_PLANES[cue] for cue in cues[:which])
    planes = clip.cues.copy()
    planes[:, first : first + CUE_PLANES[cues[which]]] = 0.0
    return TrainingClip(images=clip.images, masks=clip.masks, labels=clip.labels, cues=planes)


def zoom(clip: TrainingClip, rng: Rng, *, size: tuple[int, int], cues: tuple[str, ...]) -> TrainingClip:
    """A window of the clip, mostly where an instance is, enlarged to `size` (h, w); flow grows with it."""
    factor = float(np.exp(rng.uniform(0.0, np.log(MAX_ZOOM))))
    part = (max(8, round(size[0] / factor)), max(8, round(size[1] / factor)))
    rows, columns = draw_window(rng, owners(clip.masks), part)

    def enlarged(frame: NDArray[Any], interpolation: int) -> NDArray[Any]:
        cut = np.ascontiguousarray(frame[rows, columns])
        return np.asarray(cv2.resize(cut, (size[1], size[0]), interpolation=interpolation))

    owner = np.stack([enlarged(frame, cv2.INTER_NEAREST) for frame in owners(clip.masks)])
    planes = None
    if clip.cues is not None:
        growth = [factor if cue == "flow" else 1.0 for cue in cues for _ in range(CUE_PLANES[cue])]
        planes = np.stack(
            [
                np.stack([enlarged(plane, cv2.INTER_LINEAR) for plane in frame])
                * np.array(growth, np.float32)[:, None, None]
                for frame in clip.cues
            ]
        ).clip(-LIMIT, LIMIT)
    return TrainingClip(
        images=np.stack([enlarged(image, cv2.INTER_LINEAR) for image in clip.images]),
        masks=np.stack([owner == index + 1 for index in range(len(clip.masks))])
        if len(clip.masks)
        else np.zeros((0, *owner.shape), np.bool_),
        labels=clip.labels,
        cues=planes,
    )


def _piece(other: TrainingClip, height: int, width: int, rng: Rng) -> NDArray[np.float32]:
    """(height, width, 3) out of a picture of `other`, at a random scale, its contrast and colour changed."""
    image = other.images[int(rng.integers(len(other.images)))]
    rows, columns = image.shape[:2]
    side = rng.uniform(0.5, 2.0)
    high, wide = (
        int(np.clip(round(side * size), 4, most)) for size, most in ((height, rows), (width, columns))
    )
    top, left = int(rng.integers(0, rows - high + 1)), int(rng.integers(0, columns - wide + 1))
    piece = cv2.resize(image[top : top + high, left : left + wide], (width, height)).astype(np.float32)
    centre = piece.mean(axis=(0, 1))
    piece = (piece - centre) * np.float32(rng.uniform(0.5, 1.5))
    return np.asarray(piece + rng.uniform(20, 235, 3), np.float32)


def _silence(
    planes: NDArray[np.float32], cut: NDArray[np.bool_], cues: tuple[str, ...], *, still: bool
) -> None:
    """Make the planes (T, R, h, w) say in place that nothing has moved where `cut` (h, w) is."""
    for telling in _telling(cues, still=still):
        planes[:, telling, cut] = 0.0


def _telling(cues: tuple[str, ...], *, still: bool) -> list[slice]:
    """The planes that are zero where nothing moves: those of every cue, or of flow if the camera moves."""
    ends = np.cumsum([CUE_PLANES[cue] for cue in cues])
    return [
        slice(end - CUE_PLANES[cue], end)
        for cue, end in zip(cues, ends.tolist(), strict=True)
        if still or cue == "flow"
    ]
