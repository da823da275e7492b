"""Cues: planes computed from a stream beside its images, one implementation for training and live use.

"background" is the difference to a running median of the last seconds, "flow" what moves against the camera's
own motion. Every cue keeps bounded state of one source, is zero until it knows something, and starts over at
a reset: after a gap, or at a cut, which is seen in the images. Ours; after BSUV-Net (background frames as
input carry over to unseen videos) and OCLR (flow as the input of a network trained on rendered layers).

Frames are the model-sized images of a stream in order, (H, W, 3) uint8 RGB, without padding; `seconds` is
stream time (PTS), so that the same clip gives the same planes whatever its speed of arrival.

H × W pixels, R cue planes, T frames of a clip.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from model.config import CUE_PLANES

__all__ = [
    "CUES",
    "BackgroundDifference",
    "Cue",
    "CueState",
    "CutDetector",
    "FlowCue",
    "clip_cues",
    "clip_indices",
    "median_image",
    "mirrored_planes",
    "sample_indices",
    "scale_motion",
]

Image = NDArray[np.uint8]
Planes = NDArray[np.float32]
Motion = NDArray[np.float64]
"""(2, 3) affine map of places x, y; whole numbers lie between pixels, as for boxes."""

BACKGROUND_SAMPLES = 9
BACKGROUND_SECONDS = 0.5
BACKGROUND_WARM = 3
"""Samples that the median needs at least."""
BACKGROUND_SCALE = 64.0
"""Grey levels of difference that make 1."""
FLOW_SCALE = 4.0
"""Pixels of motion in FLOW_SECONDS that make 1: about a walker 48 pixels high."""
FLOW_SECONDS = 0.1
FLOW_MAX_SECONDS = 0.4
"""Frames further apart are not compared."""
LIMIT = 2.0
"""Planes are clipped to ±LIMIT."""

# Times of containers that count milliseconds are rounded: a frame that is early by so little is in time.
_ROUNDING_SECONDS = 0.002
_CUT_LEVELS = 30
_CUT_CELL = 8
_SHOT_ROWS = 192
"""Rows, at least, that a picture is thinned out to before cells are compared."""
_FLAT_LEVELS = 4.0
_SAME_LIGHT = 0.5
_GRID_STEP = 4
_MIN_FLOW_SIDE = 16
_RANSAC_PIXELS = 0.5
_RANSAC_TRIES = 200
# Pixels of the half resolution, and a share of the vectors. On rendered streets a still camera leaves a
# fifth of them or more below that, unless nearly all moves before it; one that moves faster a tenth at most.
_STILL_PIXELS = 0.15
_STILL_SHARE = 0.15
_FLAT = 0.01
"""Least determinant of a map that is turned round."""


class Cue(Protocol):
    """One cue of one source."""

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Take the next frame; return its planes, (R, H, W) float32."""

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all frames: the next one does not continue them. Times are counted from `origin_seconds`,
        None: from the next frame."""

    @property
    def warm(self) -> bool:
        """Whether the next frame's planes will say something."""


def median_image(images: Sequence[Image]) -> Image:
    """The exact median, pixel by pixel, of an odd number of images of one shape, uint8.

    Forgetful selection: among any n // 2 + 2 of n values neither the least nor the greatest is the median of
    all, so both are dropped and the next value joins.
    Raises ValueError for an even number.
    """
    if len(images) % 2 == 0:
        raise ValueError(f"{len(images)} images have no middle one: give an odd number")
    first = len(images) // 2 + 2
    held, waiting = list(images[:first]), list(images[first:])
    while len(held) > 1:
        held = _without_extreme(_min, _max, held)
        held = _without_extreme(_max, _min, held)
        if waiting:
            held.append(waiting.pop())
    return held[0]


def _without_extreme(
    extreme: Callable[[Image, Image], Image], other: Callable[[Image, Image], Image], images: list[Image]
) -> list[Image]:
    """The images without, at each pixel, the extreme value; values change places between the images."""
    worst, rest = images[0], []
    for image in images[1:]:
        rest.append(other(worst, image))
        worst = extreme(worst, image)
    return rest


def _min(one: Image, other: Image) -> Image:
    return _image(cv2.min(one, other))


def _max(one: Image, other: Image) -> Image:
    return _image(cv2.max(one, other))


class BackgroundDifference:
    """Cue "background", one plane: the frame's difference to the median of earlier samples.

        plane = min(max over red, green, blue of |frame − median| / 64, 2)

    A sample is the first frame of each slot of `every_seconds` of stream time, counted from the first frame
    after a reset (frames 0, 5, 10, … at 10 frames/s); a frame is compared before it becomes a sample. The
    median is that of the last 3, 5, … samples, at most `samples`, of which there is an odd number: what
    stood still for more than half of `samples · every_seconds` is background. Zeros before 3 samples.
    """

    def __init__(
        self, *, samples: int = BACKGROUND_SAMPLES, every_seconds: float = BACKGROUND_SECONDS
    ) -> None:
        if samples < BACKGROUND_WARM or samples % 2 == 0:
            raise ValueError(f"samples={samples} must be an odd number from {BACKGROUND_WARM}")
        if not every_seconds > 0:
            raise ValueError(f"every_seconds={every_seconds} must be above 0")
        self._every_seconds = every_seconds
        self._samples: deque[Image] = deque(maxlen=samples)
        self.reset()

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all samples. Slots are counted from `origin_seconds`, None: from the next frame."""
        self._samples.clear()
        self._median: Image | None = None
        self._origin = origin_seconds
        self._seconds = 0.0 if origin_seconds is None else origin_seconds
        self._slot = -1

    @property
    def warm(self) -> bool:
        """Whether there are samples enough."""
        return self._median is not None

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Compare a frame (H, W, 3), then keep it if a sample is due; returns (1, H, W) in 0..2.

        Raises ValueError if its size is not the samples' one.
        """
        if self._samples and self._samples[-1].shape != rgb.shape:
            raise ValueError(_size_error(rgb.shape, self._samples[-1].shape))
        plane = np.zeros((1, *rgb.shape[:2]), np.float32)
        if self._median is not None:
            red, green, blue = cv2.split(cv2.absdiff(rgb, self._median))
            largest = cv2.max(cv2.max(red, green), blue)
            _, levels = cv2.threshold(largest, BACKGROUND_SCALE * LIMIT, 0, cv2.THRESH_TRUNC)
            np.multiply(levels, np.float32(1 / BACKGROUND_SCALE), out=plane[0])
        if self._due(seconds):
            self._samples.append(rgb.copy())
            if len(self._samples) >= BACKGROUND_WARM:
                even = 1 - len(self._samples) % 2
                self._median = median_image(list(self._samples)[even:])
        return plane

    def _due(self, seconds: float) -> bool:
        """Whether the frame is the first of a slot."""
        if self._origin is None or seconds < self._seconds:
            self._origin, self._slot = seconds, -1  # also for a clock that went back: slots begin here
        self._seconds = seconds
        slot = _slot(seconds - self._origin, self._every_seconds)
        due, self._slot = slot > self._slot, slot
        return due


class FlowCue:
    """Cue "flow", two planes: motion right and down against the camera's, from the previous frame to this.

        plane = clip((motion − camera) · 0.1 s / interval / 4 pixels, −2, 2)

    Motion is dense optical flow (`cv2.DISOpticalFlow`) at half resolution, taken at this frame's pixels; the
    camera's is the affine map that most vectors of a grid agree with (RANSAC with OpenCV's fixed seed).
    Zeros for the first frame, for frames that are more than 0.4 s apart, and where a side is below 32 pixels.
    """

    camera: Motion | None
    """The camera's own motion, from the previous frame's pixels to the last one's; None where it is not
    known. Of a still camera it is exactly none, so that nothing adds up over hours."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.reset()

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget the previous frame."""
        self._previous: Image | None = None
        self._size: tuple[int, ...] = ()
        self._seconds = 0.0
        self.camera = None

    @property
    def warm(self) -> bool:
        """Whether there is a previous frame."""
        return self._previous is not None

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Compare a frame (H, W, 3) with the one before; returns (2, H, W) in -2..2.

        Raises ValueError if its size is another one.
        """
        if self._size and self._size != rgb.shape:
            raise ValueError(_size_error(rgb.shape, self._size))
        height, width = rgb.shape[:2]
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        half = _image(cv2.resize(grey, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
        previous, interval = self._previous, seconds - self._seconds
        self._previous, self._size, self._seconds = half, rgb.shape, seconds
        self.camera = None
        if previous is None or not 0 < interval <= FLOW_MAX_SECONDS or min(half.shape) < _MIN_FLOW_SIDE:
            return np.zeros((2, height, width), np.float32)
        flow = np.asarray(self._flow.calc(half, previous, None), np.float32)  # (h, w, 2), back in time
        back = _camera_back(flow)
        moved = _flow_of(back, height=half.shape[0], width=half.shape[1]) - flow
        if _rests(flow, moved):
            self.camera = np.eye(2, 3)
        elif back is not None:
            self.camera = _turned_round(back, scale=(width / half.shape[1], height / half.shape[0]))
        # Half resolution doubles what a full pixel is.
        moved *= np.float32(2 * FLOW_SECONDS / interval / FLOW_SCALE)
        moved = np.clip(cv2.resize(moved, (width, height), interpolation=cv2.INTER_LINEAR), -LIMIT, LIMIT)
        return np.ascontiguousarray(moved.transpose(2, 0, 1), np.float32)


def scale_motion(motion: Motion, scale: tuple[float, float]) -> Motion:
    """The same motion of a picture that is so many times as wide and as high."""
    factor = np.array(scale, np.float64)
    return np.column_stack((motion[:, :2] * factor[:, None] / factor, motion[:, 2] * factor))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.mgrid[_GRID_STEP // 2 : height : _GRID_STEP, _GRID_STEP // 2 : width : _GRID_STEP]
    return rows, columns


def _rests(flow: NDArray[np.float32], moved: NDArray[np.float32]) -> bool:
    """Whether the camera stands still: a good part of the vectors (h, w, 2) is next to nothing, or no fewer
    than agree with the camera's motion, of which `moved` is what they differ by."""
    places = _grid(*flow.shape[:2])

    def share(vectors: NDArray[np.float32]) -> float:
        return float((np.square(vectors[places]).sum(axis=-1) < _STILL_PIXELS**2).mean())

    resting = share(flow)
    return resting >= _STILL_SHARE or (resting > 0 and resting >= share(moved))


def _turned_round(back: NDArray[np.float64], *, scale: tuple[float, float]) -> Motion | None:
    """The camera's motion from the frame before, given the map `back` to it.

    `back` is of pixels of the half resolution, counted from their middles, the motion in pixels of `scale`
    times it (x, y). None for a map that has no inverse."""
    linear = back[:, :2]
    if abs(np.linalg.det(linear)) < _FLAT:
        return None
    corners = np.column_stack((linear, back[:, 2] + 0.5 - linear.sum(axis=1) * 0.5))
    return scale_motion(np.asarray(cv2.invertAffineTransform(corners), np.float64), scale)


def _camera_back(flow: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The affine map (2, 3) to the frame before that most vectors of `flow` (h, w, 2) agree with, if any."""
    rows, columns = _grid(*flow.shape[:2])
    points = np.stack((columns, rows), axis=-1).reshape(-1, 2).astype(np.float32)
    moved = points + flow[rows, columns].reshape(-1, 2)
    fitted: Any = cv2.estimateAffine2D(
        points, moved, method=cv2.RANSAC, ransacReprojThreshold=_RANSAC_PIXELS, maxIters=_RANSAC_TRIES
    )
    return None if fitted[0] is None else np.asarray(fitted[0], np.float64)


def _flow_of(back: NDArray[np.float64] | None, *, height: int, width: int) -> NDArray[np.float32]:
    """The flow (h, w, 2) of an affine map; zero without one."""
    if back is None:
        return np.zeros((height, width, 2), np.float32)
    matrix = back - np.eye(2, 3)
    x, y = np.arange(width), np.arange(height)[:, None]
    along = [row[0] * x + row[1] * y + row[2] for row in matrix]
    return np.stack(along, axis=-1).astype(np.float32)


class CutDetector:
    """Tells whether a frame shows another scene than the one before: most of the picture differs at once.

    Both are reduced to cells of 8×8 pixels; at a cut more than half of them differ by over 30 grey levels in
    a colour. A sudden change of all light counts too: what was learnt of the background is worth nothing.
    """

    def __init__(self) -> None:
        self._previous: Image | None = None

    def update(self, rgb: Image) -> bool:
        """Take the next frame, (H, W, 3); another size than before is a cut."""
        height, width = rgb.shape[:2]
        rows, columns = max(1, height // _CUT_CELL), max(1, width // _CUT_CELL)
        whole = rgb[: rows * _CUT_CELL, : columns * _CUT_CELL]  # a whole ratio is several times as fast
        small = _image(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA))
        previous, self._previous = self._previous, small
        if previous is None:
            return False
        if previous.shape != small.shape:
            return True
        return bool(np.median(cv2.absdiff(small, previous).max(axis=2)) > _CUT_LEVELS)

    def reset(self) -> None:
        """Forget the previous frame."""
        self._previous = None


class ShotDetector:
    """Tells whether a frame begins another shot: most of the picture differs at once, as for `CutDetector`,
    and bright and dark lie elsewhere.

    Switching on a lamp changes the first and not the second. A picture of one colour shows nothing: the next
    is compared with the one before it.
    """

    def __init__(self) -> None:
        self._previous: NDArray[np.float32] | None = None

    def update(self, picture: Image) -> bool:
        """Take the next frame, (H, W, 3) RGB or (H, W) luma; another size than before is another shot."""
        height, width = picture.shape[:2]
        step = max(1, min(height, width) // _SHOT_ROWS)
        rows, columns = max(1, height // step // _CUT_CELL), max(1, width // step // _CUT_CELL)
        sparse = np.ascontiguousarray(picture[::step, ::step])
        small = np.asarray(cv2.resize(sparse, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
        light = small.mean(axis=2) if small.ndim == 3 else small
        if light.std() < _FLAT_LEVELS:
            return False
        previous, self._previous = self._previous, small
        if previous is None:
            return False
        if previous.shape != small.shape:
            return True
        apart = np.abs(small - previous)
        if np.median(apart.max(axis=2) if apart.ndim == 3 else apart) <= _CUT_LEVELS:
            return False
        before = previous.mean(axis=2) if previous.ndim == 3 else previous
        return bool(np.corrcoef(light.ravel(), before.ravel())[0, 1] < _SAME_LIGHT)

    def reset(self) -> None:
        """Forget the previous frame."""
        self._previous = None


CUES: dict[str, Callable[[], Cue]] = {"background": BackgroundDifference, "flow": FlowCue}


class CueState:
    """All cues of a config over one source's frames.

    `detect_cuts=False` is for frames that are known to belong together but are not all shown.
    Raises ValueError for a cue that does not exist.
    """

    def __init__(self, cues: Sequence[str], *, detect_cuts: bool = True) -> None:
        unknown = [cue for cue in cues if cue not in CUES]
        if unknown:
            raise ValueError(f"cue {unknown[0]!r} is not one of {', '.join(map(repr, CUES))}")
        self.num_planes = sum(CUE_PLANES[cue] for cue in cues)
        """R."""
        self.num_cuts = 0
        """Cuts seen so far."""
        self.spoke = False
        """Whether all cues knew enough to say something about the last frame."""
        self._cues = {cue: CUES[cue]() for cue in cues}
        self._warmed: set[str] = set()
        self._cuts = CutDetector() if detect_cuts else None
        self._size: tuple[int, ...] = ()

    def update(self, rgb: Image, seconds: float) -> Planes:
        """Take the next frame, (H, W, 3) uint8 RGB at stream time `seconds`; return its planes, (R, H, W).

        Raises ValueError for another shape or dtype, and for another size than the frames since the last
        reset.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        if self._size and self._size != rgb.shape:
            raise ValueError(_size_error(rgb.shape, self._size))
        if self._cuts is not None and self._cuts.update(rgb):
            self.num_cuts += 1
            self._reset_cues()
        self._size = rgb.shape
        warm = {name for name, cue in self._cues.items() if cue.warm}
        self.spoke = len(warm) == len(self._cues)
        self._warmed |= warm
        if not self._cues:
            return np.zeros((0, *rgb.shape[:2]), np.float32)
        return np.concatenate([cue.update(rgb, seconds) for cue in self._cues.values()])

    @property
    def camera(self) -> Motion | None:
        """The camera's own motion from the frame before to the last one (`FlowCue.camera`); None without the
        cue."""
        flow = self._cues.get("flow")
        return flow.camera if isinstance(flow, FlowCue) else None

    @property
    def never_warm(self) -> tuple[str, ...]:
        """The cues that have had nothing to say so far, resets included."""
        return tuple(name for name in self._cues if name not in self._warmed)

    def reset(self, *, origin_seconds: float | None = None) -> None:
        """Forget all frames: the next one does not continue them. See `BackgroundDifference.reset`."""
        self._size = ()
        if self._cuts is not None:
            self._cuts.reset()
        self._reset_cues(origin_seconds)

    def _reset_cues(self, origin_seconds: float | None = None) -> None:
        for cue in self._cues.values():
            cue.reset(origin_seconds=origin_seconds)


def sample_indices(index: int, fps: float) -> list[int]:
    """The frames, ascending, whose samples the background at frame `index` consists of.

    For a stream of `fps` frames a second whose frame 0 is the first after a reset: at 10 frames/s the last
    nine of 0, 5, 10, … below `index`. Raises ValueError for a negative index or fps not above 0.
    """
    if index < 0 or not fps > 0:
        raise ValueError(f"index={index} must be at least 0 and fps={fps} above 0")

    def slot(frame: int) -> int:
        return _slot(frame / fps, BACKGROUND_SECONDS)

    found: list[int] = []
    for frame in range(index - 1, -1, -1):
        if frame == 0 or slot(frame) > slot(frame - 1):
            found.append(frame)
            if len(found) == BACKGROUND_SAMPLES:
                break
    return found[::-1]


def clip_indices(cues: Sequence[str], first: int, num_frames: int, fps: float) -> list[int]:
    """The frames, ascending, that the cue planes of frames `first` to `first + num_frames − 1` depend on.

    They end with the clip's own. Frame 0 is the first of the stream.
    """
    needed = set(range(first, first + num_frames))
    if "background" in cues:
        needed.update(sample_indices(first, fps))
    if "flow" in cues and first > 0:
        needed.add(first - 1)
    return sorted(needed)


def clip_cues(
    cues: Sequence[str], frame: Callable[[int], Image], *, first: int, num_frames: int, fps: float
) -> Planes:
    """The planes (T, R, H, W) that a stream of `fps` frames a second gives at T frames from `first` on.

    frame(i) gives frame i, (H, W, 3) uint8 RGB; it is asked for those of `clip_indices` alone, in order and
    once each. The same bits as a `CueState` fed with all frames from 0 on gives, unless that sees a cut.
    """
    state = CueState(cues, detect_cuts=False)
    state.reset(origin_seconds=0.0)
    planes = {i: state.update(frame(i), i / fps) for i in clip_indices(cues, first, num_frames, fps)}
    return np.stack([planes[i] for i in range(first, first + num_frames)])


def mirrored_planes(planes: Planes, cues: Sequence[str]) -> Planes:
    """The planes (T, R, H, W) of the mirrored frames: flow to the right becomes flow to the left."""
    signs: list[float] = []
    for cue in cues:
        signs += [-1.0, 1.0] if cue == "flow" else [1.0] * CUE_PLANES[cue]
    return planes[..., ::-1] * np.array(signs, np.float32)[:, None, None]


def _slot(seconds: float, every_seconds: float) -> int:
    return math.floor((seconds + _ROUNDING_SECONDS) / every_seconds)


def _size_error(shape: Sequence[int], before: Sequence[int]) -> str:
    return (
        f"a frame of {shape[0]}×{shape[1]} follows frames of {before[0]}×{before[1]}: "
        "call reset() where frames do not continue"
    )


def _image(array: Any) -> Image:
    return np.asarray(array, dtype=np.uint8)
