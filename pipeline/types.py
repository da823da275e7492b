"""The values that flow through a stream: Frame → Window → WindowPrediction → FrameResult → MaskMessage.

`Gap` and `End` travel in order with the frames, so that no stage has to guess why frames are missing.
All are frozen and checked when made; arrays inside are shared, not copied: no stage writes into them.
Imports numpy, `ops.rle` and the errors only (a subscriber needs neither torch nor av nor cv2).

T frames in a window, N instance candidates of a window, K classes, C embedding width,
h, w mask logits at stride 4 of the model's input.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ops.rle import MAX_AREA, CropRLE
from pipeline.errors import MessageError

if TYPE_CHECKING:
    from ops.fit import Fit
    from ops.yuv import ColourMatrix

SOURCE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_SIDE = 32767
"""Largest width and height of a frame: boxes are int16 on the wire."""
MAX_PIXELS = MAX_AREA
"""Most pixels of a frame, twice 8K: no mask is expanded beyond."""
MAX_MASKS_PIXELS = 1 << 29
"""Most pixels that `MaskMessage.masks` gives at once, a byte each: 64 instances on 4K."""

TrackState = Literal["tentative", "confirmed", "lost", "ended"]
TRACK_STATES: tuple[TrackState, ...] = get_args(TrackState)

GapReason = Literal["reconnect", "resolution", "discontinuity", "cut"]
EndReason = Literal["end_of_file", "stopped", "max_frames", "lost", "error"]
SourceState = Literal["waiting", "live", "reconnecting", "stalled", "ended"]


def check_source_id(source: str) -> str:
    """Return `source` if it may stand in a topic; ValueError with the rule otherwise (source: wire.md)."""
    if not SOURCE_ID.fullmatch(source):
        shown = source if len(source) <= 80 else source[:80] + "…"
        raise ValueError(f"source id {shown!r} is not allowed: use 1 to 64 of A-Z a-z 0-9 _ . -")
    return source


class YuvPicture:
    """A decoded picture of 8 bits in 4:2:0 as its planes; RGB is made when it is first asked for."""

    def __init__(
        self,
        planes: tuple[Any, ...],
        *,
        matrix: ColourMatrix,
        full_range: bool,
        convert: Callable[[], NDArray[np.uint8]],
    ) -> None:
        """planes: of yuv420p Y (H, W), U and V (h, w), of NV12 Y (H, W) and UV (h, w, 2), with h and w half
        of H and W, rounded up; uint8 views of the decoder's memory, lines as far apart as they are there, or
        tensors on a GPU that decoded. convert makes (H, W, 3) uint8 RGB of the same picture."""
        self.planes = planes
        self.matrix: ColourMatrix = matrix
        self.full_range = full_range
        """Whether levels are 0..255, not 16..235 (chroma 16..240)."""
        self.height, self.width = planes[0].shape
        self._convert = convert
        self._rgb: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def rgb(self) -> NDArray[np.uint8]:
        """Return the picture, (H, W, 3) uint8 RGB: converted once, whichever threads ask; shared.

        Raises what the conversion raises (`sampling.PictureError`).
        """
        with self._lock:
            if self._rgb is None:
                self._rgb = self._convert()
            return self._rgb


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame: RGB, or the decoder's planes, of which RGB is made where something asks for it."""

    source: str
    """Source id."""
    epoch: int
    """Starts at 0, one more after each reconnect."""
    index: int
    """Counts the frames read from this source; never restarts."""
    pts: int | None
    """Presentation time in units of `time_base`; None where the container has none."""
    time_base: Fraction
    """Seconds per unit of `pts`."""
    seconds: float
    """Stream time in seconds: PTS where known, else estimated; restarts with the epoch."""
    captured_ns: int
    """Wall clock (ns since 1970) when the frame was decoded."""
    captured_monotonic_ns: int
    """Monotonic clock (ns) at the same moment."""
    picture: NDArray[np.uint8] | YuvPicture = field(repr=False)
    """(H, W, 3) RGB; or the decoder's planes, in streams whose model takes these (docs/architecture.md)."""
    rotation: int = 0
    """Degrees clockwise that were applied to the decoded picture (0, 90, 180, 270)."""
    sampled: bool = True
    """Whether the cadence picked it for the model; False: published with held instances only."""
    damaged: bool = False
    """Whether the decoder called it, or a picture that it continues, corrupt."""

    def __post_init__(self) -> None:
        picture = self.picture
        if isinstance(picture, YuvPicture):
            return
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"Frame.picture must be (H, W, 3) uint8, or planes, got {picture.shape} {picture.dtype}"
            )

    @property
    def yuv(self) -> YuvPicture | None:
        """The picture as the decoder's planes, where it came so."""
        return self.picture if isinstance(self.picture, YuvPicture) else None

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.picture.height if isinstance(self.picture, YuvPicture) else self.picture.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.picture.width if isinstance(self.picture, YuvPicture) else self.picture.shape[1])

    @property
    def image(self) -> NDArray[np.uint8]:
        """What `rgb` returns."""
        return self.rgb()

    def rgb(self) -> NDArray[np.uint8]:
        """Return the picture, (H, W, 3) uint8 RGB; shared, not to be written to.

        Of a frame with planes it is made here, once; PictureError where FFmpeg cannot make it, which from a
        sink is a fault of the stream like any other: the frame was read, and is not lost in silence.
        """
        return self.picture.rgb() if isinstance(self.picture, YuvPicture) else self.picture


@dataclass(frozen=True)
class Gap:
    """No frame after this one continues the frames before it."""

    source: str
    epoch: int
    """Epoch of the frames that follow."""
    reason: GapReason


@dataclass(frozen=True)
class End:
    """The last item of a source."""

    source: str
    epoch: int
    reason: EndReason
    detail: str = ""
    """One sentence for people, never with a password."""


@dataclass(frozen=True, eq=False)
class Window:
    """Exactly T frames in time order.

    `frames[i]` for i outside [first, last] repeats the nearest real frame (stream start, after a gap):
    such places are computed, because shapes are static, and their outputs discarded.
    """

    frames: tuple[Frame, ...]
    first: int
    """Position of the first real frame."""
    last: int
    """Position of the last real frame (inclusive)."""
    num_new: int
    """How many real frames, the last ones, no earlier window has held."""

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < len(self.frames):
            raise ValueError(f"Window [{self.first}, {self.last}] does not lie in {len(self.frames)} frames")
        if not 1 <= self.num_new <= self.last - self.first + 1:
            raise ValueError(f"num_new {self.num_new} must be in 1..{self.last - self.first + 1}")

    @property
    def real(self) -> tuple[Frame, ...]:
        """The frames without the repeated ones."""
        return self.frames[self.first : self.last + 1]

    @property
    def new(self) -> tuple[Frame, ...]:
        """The real frames that no earlier window has held."""
        return self.frames[self.last + 1 - self.num_new : self.last + 1]


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """What a model says about the T frames of one window, on the host."""

    scores: NDArray[np.float32]
    """(N, K) class probabilities in 0..1, each class on its own (sigmoid)."""
    boxes_xyxy: NDArray[np.float32]
    """(N, T, 4) pixels of the source frame, clipped to it."""
    mask_logits: NDArray[np.float32] | None
    """(N, T, h, w) at `mask_stride` of the model's input, padding included; None of a model without masks,
    whose boxes are published. A box without area says that its frame does not show the candidate."""
    fit: Fit
    """How the source frame lies in the model's input."""
    embeddings: NDArray[np.float32] | None = None
    """(N, C), for re-identification; None where the model has none."""
    mask_stride: int = 4
    """Pixels of the model's input per mask cell."""
    camera: tuple[NDArray[np.float64] | None, ...] | None = None
    """For each new frame of the window the camera's own motion since the frame shown to the model before it:
    (2, 3), an affine map of source pixels there to those here; None where it is not known."""
    ids: NDArray[np.int64] | None = None
    """(N,) the model's own identities, each once: association follows them alone. None: the candidates have
    none, and association finds out who is who."""
    on_device: Any = field(repr=False, default=None)
    """The mask logits once more, as a tensor where the model computed them, for `Capabilities.mask_sums`."""

    def __post_init__(self) -> None:
        num, num_frames = self.boxes_xyxy.shape[:2]
        if self.scores.ndim != 2 or len(self.scores) != num or self.boxes_xyxy.shape[2:] != (4,):
            raise ValueError(
                f"scores {self.scores.shape} and boxes {self.boxes_xyxy.shape} do not belong together"
            )
        masks = self.mask_logits
        if masks is not None and (masks.ndim != 4 or masks.shape[:2] != (num, num_frames)):
            raise ValueError(f"mask_logits {masks.shape} must be ({num}, {num_frames}, h, w)")
        if self.embeddings is not None and len(self.embeddings) != num:
            raise ValueError(f"embeddings {self.embeddings.shape} must be ({num}, C)")
        if self.ids is not None and (self.ids.shape != (num,) or len(np.unique(self.ids)) != num):
            raise ValueError(f"ids {self.ids} must be {num} different numbers, one a candidate")
        for motion in self.camera or ():
            if motion is not None and motion.shape != (2, 3):
                raise ValueError(f"camera {motion.shape} must be (2, 3) for each new frame, or None")


@dataclass(frozen=True)
class Instance:
    """One tracked instance in one frame."""

    track_id: int
    """Unique within (source, boot); never reused."""
    class_id: int
    """Category id of the model's class list."""
    class_name: str
    score: float
    """0..1."""
    box_xyxy: tuple[int, int, int, int]
    """Source pixels, the mask's tight box (x1, y1 exclusive), of a model without masks its own box; (0, 0,
    0, 0) where the frame does not show it."""
    state: TrackState
    mask: CropRLE | None = field(repr=False, default=None)
    """Crop run-length mask in source pixels; None for lost and ended rows, and of a model without masks."""
    merged_into: int | None = None
    """Id of the older track that this one turned out to be."""
    moved: bool | None = None
    """Whether the track has ever moved (docs/association.md); None in messages before version 1.1."""

    @property
    def visible(self) -> bool:
        """Whether the frame shows it: not a row that tells of a lost or ended track."""
        return self.mask is not None or any(self.box_xyxy)

    def dense_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask over the whole frame, (height, width) bool."""
        if self.mask is None:
            return np.zeros((height, width), dtype=np.bool_)
        return self.mask.decode(height, width)


@dataclass(frozen=True, eq=False)
class FrameResult:
    """A frame with its instances: what every sink receives."""

    frame: Frame
    instances: tuple[Instance, ...]
    window: tuple[int, int]
    """Index of the first and last real frame of the window that it was made from."""
    revision: int = 0
    """0 is the frame's first result."""
    final: bool = True
    """No later revision of this frame comes."""
    held: bool = False
    """Not shown to the model: instances are the last known ones."""

    @property
    def source(self) -> str:
        """Source id."""
        return self.frame.source

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool, dense masks of `instances` in their order."""
        return _dense_masks(self.instances, self.frame.height, self.frame.width)


@dataclass(frozen=True)
class MaskMessage:
    """A frame's instances as read from the wire (version 1); fields as in `FrameResult` and docs/wire.md."""

    source: str
    producer: str
    boot: str
    seq: int
    epoch: int
    frame_index: int
    pts: int | None
    time_base: Fraction
    captured_ns: int
    published_ns: int
    width: int
    height: int
    rotation: int
    revision: int
    final: bool
    held: bool
    window: tuple[int, int]
    model_name: str
    class_list: str
    trained: bool
    dropped: dict[str, int]
    """Frames dropped since the stream began, by cause."""
    instances: tuple[Instance, ...]
    wire_version: tuple[int, int] = (1, 1)
    source_clock_ns: int | None = None
    """The camera's own clock (RTCP), where known."""
    source_clock_quality: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Header keys of a later minor version."""
    damaged: bool = False
    """Whether the decoder called the picture corrupt; False too in messages before version 1.1."""

    @property
    def pts_seconds(self) -> float | None:
        """Presentation time in seconds."""
        return None if self.pts is None else float(self.pts * self.time_base)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool, dense masks of `instances` in their order.

        MessageError above MAX_MASKS_PIXELS: a message of some KB could ask for the whole memory.
        """
        number = len(self.instances)
        if number * self.height * self.width > MAX_MASKS_PIXELS:
            raise MessageError(
                f"{number} masks of {self.width}×{self.height} are more than the {MAX_MASKS_PIXELS} pixels "
                "that .masks gives at once: take them one by one with instance.dense_mask(height, width), "
                "or instance.mask.decode_crop() for the crop alone"
            )
        return _dense_masks(self.instances, self.height, self.width)


def _dense_masks(instances: tuple[Instance, ...], height: int, width: int) -> NDArray[np.bool_]:
    masks = np.zeros((len(instances), height, width), dtype=np.bool_)
    for mask, instance in zip(masks, instances, strict=True):
        if instance.mask is not None:
            x1, y1, x2, y2 = instance.mask.box_xyxy
            mask[y1:y2, x1:x2] = instance.mask.decode_crop()
    return masks
