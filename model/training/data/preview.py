"""Contact sheets: what a clip source gives, as one picture to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.clip import ClipSource

__all__ = ["contact_sheet"]

_COLOURS = (
    (255, 64, 64),
    (64, 255, 64),
    (80, 120, 255),
    (255, 220, 40),
    (255, 80, 255),
    (40, 240, 240),
    (255, 150, 40),
)
_GAP = 4


def contact_sheet(
    source: ClipSource,
    path: Path | str,
    *,
    num_clips: int = 12,
    num_frames: int = 3,
    first: int = 0,
    num_columns: int = 2,
    outlines: bool = True,
    cues: bool = False,
) -> Path:
    """Write a PNG: a clip a row (in `num_columns` columns), its frames side by side with mask outlines.

    With `cues`, the first cue plane of the last frame is put at the end of each row. Raises OSError where the
    file cannot be written.
    """
    rows = [
        _row(source, first + index, num_frames, outlines=outlines, cues=cues) for index in range(num_clips)
    ]
    while len(rows) % num_columns:
        rows.append(np.zeros_like(rows[0]))
    lines = [np.concatenate(rows[at : at + num_columns], axis=1) for at in range(0, len(rows), num_columns)]
    path = Path(path)
    done, data = cv2.imencode(".png", np.concatenate(lines)[..., ::-1])
    if not done:
        raise OSError(f"cannot encode the contact sheet for {path}")
    path.write_bytes(data.tobytes())
    return path


def _row(source: ClipSource, index: int, num_frames: int, *, outlines: bool, cues: bool) -> NDArray[np.uint8]:
    clip = source(index, num_frames=num_frames)
    pictures = []
    for frame in range(num_frames):
        picture = np.ascontiguousarray(clip.images[frame])
        if outlines:
            for number, mask in enumerate(clip.masks[:, frame]):
                found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(picture, found, -1, _COLOURS[number % len(_COLOURS)], 1)
        pictures.append(picture)
    if cues and clip.cues is not None:
        plane = np.clip(clip.cues[-1, 0] * 127, 0, 255).astype(np.uint8)
        pictures.append(np.repeat(plane[..., None], 3, axis=2))
    return np.pad(np.concatenate(pictures, axis=1), ((0, _GAP), (0, _GAP), (0, 0)))
