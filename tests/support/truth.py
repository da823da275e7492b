"""Scenes with known masks, and window predictions made from them: right, or corrupted on purpose.

A scene is scripted: ellipses that move, later ones in front. `predict` turns a window of it into what a model
would say: mask logits from the coverage of each cell, scores, boxes, one appearance vector per object. Places
that must be ignored (repeated frames, the padding of the input) are filled with garbage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ops.preprocess import Fit, fit_size
from pipeline.association.associator import Associator
from pipeline.inference.window import Windower
from pipeline.types import Frame, FrameResult, Window, WindowPrediction

NUM_OUTPUTS = 6
CLASSES = {1: (1, "person"), 2: (2, "dog"), 3: (3, "car"), 4: (4, "bird")}
"""Outputs 0 and 5 mean nothing, as in published SeqFormer heads."""

Path = Callable[[int], tuple[float, float] | None]
"""Frame number → centre x, y in 0..1 of the frame, or None while it is not there."""


@dataclass(frozen=True)
class Mover:
    """An ellipse on a path."""

    path: Path
    radii: tuple[float, float] = (0.09, 0.16)
    """x, y in 0..1 of the frame."""
    output: int = 1
    """Class output."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Known masks of each frame."""

    height: int
    width: int
    masks: Sequence[Mapping[int, NDArray[np.bool_]]]
    """Per frame: object id → (H, W) of what is visible of it; no entry while nothing is."""
    outputs: Mapping[int, int]
    """Object id → class output."""
    frames_per_second: float = 10.0

    def __len__(self) -> int:
        return len(self.masks)

    def frame(self, index: int, *, epoch: int = 0) -> Frame:
        """Return a frame with a black picture."""
        return Frame(
            source="test",
            epoch=epoch,
            index=index,
            pts=index,
            time_base=Fraction(1, 10),
            seconds=index / self.frames_per_second,
            captured_ns=index,
            captured_monotonic_ns=index,
            picture=np.zeros((self.height, self.width, 3), np.uint8),
        )


def script(movers: Sequence[Mover], num_frames: int, *, height: int = 180, width: int = 320) -> Scene:
    """Draw movers 0, 1, … into a scene; a later one hides an earlier one."""
    y, x = np.ogrid[:height, :width]
    masks = []
    for number in range(num_frames):
        drawn: dict[int, NDArray[np.bool_]] = {}
        for name, mover in enumerate(movers):
            centre = mover.path(number)
            if centre is None:
                continue
            dx = (x + 0.5 - centre[0] * width) / (mover.radii[0] * width)
            dy = (y + 0.5 - centre[1] * height) / (mover.radii[1] * height)
            shape = np.asarray(dx**2 + dy**2 <= 1)
            for earlier in drawn:
                drawn[earlier] = drawn[earlier] & ~shape
            drawn[name] = shape
        masks.append({name: mask for name, mask in drawn.items() if mask.any()})
    return Scene(height, width, masks, {name: mover.output for name, mover in enumerate(movers)})


@dataclass(frozen=True)
class Corruption:
    """What goes wrong in a window's prediction; all off by default. The queries' order is always shuffled."""

    jitter: int = 0
    """Each mask is moved by up to so many cells (at most 4) each way, again in each window."""
    shrink: float = 0.0
    """Subtracted from all logits: masks get smaller (coverage 0..1 stands for logits −8..8)."""
    miss: float = 0.0
    """Chance that an object is not predicted in a window."""
    drop_score: float = 0.0
    """Chance that its score is 0.2 in a window."""
    duplicates: int = 0
    """Further predictions of each object, a little weaker and smaller."""
    noise: int = 0
    """Predictions of nothing, with scores below 0.5."""
    class_flicker: float = 0.0
    """Chance that another class leads in a window."""
    embedding_noise: float = 0.0
    """Size of what is added to each appearance vector of length 1."""


@dataclass(eq=False)
class Oracle:
    """A predictor that knows the scene."""

    scene: Scene
    corruption: Corruption = field(default_factory=Corruption)
    seed: int = 0
    score: float = 0.9
    embeddings: bool = True
    input_size: tuple[int, int] = (96, 160)
    """Height and width of the model's input."""
    stride: int = 4
    hide: Callable[[int, int], bool] = lambda name, newest: False
    """(object, newest frame) → whether the window with that newest frame misses it."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.looks = {
            name: np.random.default_rng(100 + name).standard_normal(32) for name in self.scene.outputs
        }
        self._coverage: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def fit(self) -> Fit:
        """How the scene lies in the input."""
        return fit_size(
            self.scene.height, self.scene.width, height=self.input_size[0], width=self.input_size[1]
        )

    def predict(self, window: Window) -> WindowPrediction:
        """Return the window's candidates, in random order."""
        wrong, rng = self.corruption, self.rng
        newest = window.frames[window.last].index
        rows: list[tuple[NDArray[np.float32], int, float, NDArray[np.float64]]] = []
        for name in sorted({name for frame in window.real for name in self.scene.masks[frame.index]}):
            output = self.scene.outputs[name]
            if rng.random() < wrong.miss or self.hide(name, newest):
                continue
            score = 0.2 if rng.random() < wrong.drop_score else self.score
            if rng.random() < wrong.class_flicker:
                output = 1 + output % len(CLASSES)
            look = self.looks[name] / np.linalg.norm(self.looks[name])
            shift = rng.integers(-wrong.jitter, wrong.jitter + 1, 2)
            for copy in range(1 + wrong.duplicates):
                noise = rng.standard_normal(32) * wrong.embedding_noise / np.sqrt(32)
                logits = self._logits(window, name, shift) - np.float32(copy)
                rows.append((logits, output, score - 0.05 * copy, look + noise))
        rows.extend(
            (self._noise(window), 1, float(rng.uniform(0.12, 0.49)), rng.standard_normal(32))
            for _ in range(wrong.noise)
        )
        return self._pack(window, [rows[place] for place in rng.permutation(len(rows))])

    def coverage(self, index: int, name: int) -> NDArray[np.float32]:
        """Return (h, w): the share of each cell that the object covers; 0 in the padding."""
        key = (index, name)
        if key not in self._coverage:
            fit, cells = self.fit, np.zeros((self.input_size[0], self.input_size[1]), np.float32)
            mask = self.scene.masks[index].get(name)
            if mask is not None:
                cells[: fit.content_height, : fit.content_width] = cv2.resize(
                    mask.astype(np.float32),
                    (fit.content_width, fit.content_height),
                    interpolation=cv2.INTER_AREA,
                )
            height, width = self.input_size[0] // self.stride, self.input_size[1] // self.stride
            self._coverage[key] = cells.reshape(height, self.stride, width, self.stride).mean((1, 3))
        return self._coverage[key]

    def _logits(self, window: Window, name: int, shift: NDArray[np.int64]) -> NDArray[np.float32]:
        covered = np.stack([self.coverage(frame.index, name) for frame in window.frames])
        # Padded, so that what leaves on one side does not enter on the other.
        covered = np.roll(np.pad(covered, ((0, 0), (4, 4), (4, 4))), shift, axis=(1, 2))[:, 4:-4, 4:-4]
        return ((covered - 0.5) * 16 - self.corruption.shrink).astype(np.float32)

    def _noise(self, window: Window) -> NDArray[np.float32]:
        height, width = self.input_size[0] // self.stride, self.input_size[1] // self.stride
        logits = np.full((len(window.frames), height, width), -8, np.float32)
        top, left = int(self.rng.integers(0, height - 4)), int(self.rng.integers(0, width - 5))
        logits[:, top : top + 4, left : left + 5] = 6
        return logits

    def _pack(
        self, window: Window, rows: list[tuple[NDArray[np.float32], int, float, NDArray[np.float64]]]
    ) -> WindowPrediction:
        fit, num_frames = self.fit, len(window.frames)
        height, width = self.input_size[0] // self.stride, self.input_size[1] // self.stride
        scores = np.full((len(rows), NUM_OUTPUTS), 0.02, np.float32)
        logits = np.zeros((len(rows), num_frames, height, width), np.float32)
        boxes = np.zeros((len(rows), num_frames, 4), np.float32)
        for place, (mask, output, score, _) in enumerate(rows):
            logits[place] = mask
            scores[place, output] = score
            scores[place, [0, 5]] = 0.99
            boxes[place] = [self._box(frame) for frame in mask]
        # Garbage where nothing must be read: places without a real frame, and the padding of the input.
        for position in range(num_frames):
            if not window.first <= position <= window.last:
                logits[:, position] = 9
                boxes[:, position] = (0, 0, fit.source_width, fit.source_height)
        logits[:, :, -(-fit.content_height // self.stride) :] = 9
        logits[:, :, :, -(-fit.content_width // self.stride) :] = 9
        looks = np.array([look for *_, look in rows], np.float32).reshape(len(rows), 32)
        return WindowPrediction(
            scores=scores,
            boxes_xyxy=boxes,
            mask_logits=logits,
            fit=fit,
            embeddings=looks if self.embeddings else None,
            mask_stride=self.stride,
        )

    def _box(self, logits: NDArray[np.float32]) -> tuple[float, float, float, float]:
        ys, xs = np.nonzero(logits > 0)
        if not len(ys):
            return (0.0, 0.0, 0.0, 0.0)
        across, down = self.stride / self.fit.scale_x, self.stride / self.fit.scale_y
        return xs.min() * across, ys.min() * down, (xs.max() + 1) * across, (ys.max() + 1) * down


def run(
    oracle: Oracle,
    associator: Associator,
    *,
    num_frames: int,
    stride: int = 1,
    frames: Sequence[int] | None = None,
    flush: bool = True,
) -> list[FrameResult]:
    """Feed a scene's frames through the real windower; return all results, finals flushed at the end."""
    windower = Windower(num_frames=num_frames, stride=stride)
    results: list[FrameResult] = []
    for index in range(len(oracle.scene)) if frames is None else frames:
        window = windower.push(oracle.scene.frame(index))
        if window is not None:
            results += associator.update(window, oracle.predict(window))
    window = windower.flush()
    if window is not None:
        results += associator.update(window, oracle.predict(window))
    return results + associator.flush() if flush else results


def ids_of(
    results: Sequence[FrameResult], scene: Scene, *, least_iou: float = 0.5, least_area: int = 1
) -> dict[int, list[int]]:
    """Return per object the track ids that covered it, in time order, one entry per frame that has one.

    Only masks of at least `least_area` pixels are looked for.
    """
    found: dict[int, list[int]] = {name: [] for name in scene.outputs}
    for result in results:
        rows = [row for row in result.instances if row.mask is not None]
        dense = [row.dense_mask(scene.height, scene.width) for row in rows]
        for name, mask in scene.masks[result.frame.index].items():
            if np.count_nonzero(mask) < least_area:
                continue
            overlaps = [float((mask & each).sum() / (mask | each).sum()) for each in dense]
            if overlaps and max(overlaps) >= least_iou:
                found[name].append(rows[int(np.argmax(overlaps))].track_id)
    return found


def count_switches(ids: Mapping[int, Sequence[int]]) -> int:
    """Return how often an object's id differs from the one it had before, summed over objects."""
    return sum(int(before != after) for each in ids.values() for before, after in pairwise(each))
