"""Frames and results for tests of sinks: pictures with known masks, made here."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ops.rle import encode_crop
from pipeline.types import Frame, FrameResult, Instance, TrackState


def ellipse(
    height: int, width: int, centre: tuple[float, float], radii: tuple[float, float]
) -> NDArray[np.bool_]:
    """Return a filled ellipse, (height, width) bool; `centre` and `radii` are (x, y)."""
    y, x = np.ogrid[:height, :width]
    return np.asarray(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1)


def make_instance(
    mask: NDArray[np.bool_] | None,
    *,
    track_id: int = 1,
    name: str = "person",
    score: float = 0.9,
    state: TrackState = "confirmed",
) -> Instance:
    """Return an instance with this full-frame mask."""
    rle = None if mask is None else encode_crop(mask, 0, 0)
    box = (0, 0, 0, 0) if rle is None else rle.box_xyxy
    return Instance(
        track_id=track_id, class_id=1, class_name=name, score=score, box_xyxy=box, state=state, mask=rle
    )


def make_result(
    index: int = 0,
    *,
    image: NDArray[np.uint8] | None = None,
    instances: Sequence[Instance] = (),
    source: str = "source0",
    seconds: float | None = None,
    epoch: int = 0,
    captured_seconds: float | None = None,
    revision: int = 0,
    final: bool = True,
    held: bool = False,
) -> FrameResult:
    """Return a result; frame `index` lies at index / 10 s unless told, on a grey 64×96 picture."""
    time = index / 10 if seconds is None else seconds
    captured = time if captured_seconds is None else captured_seconds
    frame = Frame(
        source=source,
        epoch=epoch,
        index=index,
        pts=round(time * 90_000),
        time_base=Fraction(1, 90_000),
        seconds=time,
        captured_ns=round(captured * 1e9),
        captured_monotonic_ns=round(captured * 1e9),
        picture=np.full((64, 96, 3), 128, dtype=np.uint8) if image is None else image,
    )
    return FrameResult(
        frame=frame,
        instances=tuple(instances),
        window=(index, index),
        revision=revision,
        final=final,
        held=held,
    )
