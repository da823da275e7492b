"""The demo source: a procedurally drawn clip of moving objects with known masks and track ids.

Seven textured toys cross, hide each other, enter and leave over a lawn. Everything is a function of the
frame index, so `demo_frame` gives pixels and true masks of any frame without a file, the same on every
machine up to the rounding of OpenCV's drawing. `demo_clip_path` encodes the clip once into the user's cache,
so that the demo is read through the real decoder like any file. Ours.

N objects visible in a frame, H = 360, W = 640.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ops.files import cache_folder, written_whole
from pipeline.errors import SourceUnreadable

WIDTH, HEIGHT = 640, 360
FPS = 25
NUM_FRAMES = 200
# Sprites are drawn this large and only ever made smaller, so that edges stay clean.
_SPRITE = 256
_MIN_PIXELS = 12
_SHADOW_SHIFT = (7, 5)
_SHADOW_BLUR = (11, 11)
_SHADOW_REACH = 22
_SHADOW_STRENGTH = 0.45
# More than the largest toy's diagonal with its shadow.
_MARGIN = 256

Image = NDArray[np.uint8]


class DemoFrame(NamedTuple):
    """One drawn frame with its truth."""

    rgb: Image
    """(H, W, 3) uint8."""
    masks: NDArray[np.bool_]
    """(N, H, W), the visible part of each object; no two overlap."""
    track_ids: tuple[int, ...]
    """(N,), 1-based, constant over the clip."""
    boxes_xyxy: NDArray[np.float32]
    """(N, 4) pixels, tight around the visible part, x1 and y1 exclusive."""


@dataclass(frozen=True)
class _Toy:
    """A sprite and its path; later toys lie in front of earlier ones."""

    draw: Callable[[], tuple[Image, Image]]
    size: float
    """Height of the sprite in pixels of the frame."""
    start: tuple[float, float]
    """Centre at frame 0, pixels; may lie outside the frame."""
    velocity: tuple[float, float]
    """Pixels a frame."""
    swing: tuple[float, float, float]
    """Amplitude in x and y (pixels) and period (frames) of a wave on top of the straight path."""
    spin: float = 0.0
    """Degrees a frame."""
    grow: float = 0.0
    """Share of the size gained over the clip."""

    def placement(self, index: int) -> tuple[float, float, float, float]:
        """Return centre x, centre y (pixels), angle (degrees) and height (pixels) at a frame."""
        swing_x, swing_y, period = self.swing
        phase = 2 * math.pi * index / period
        return (
            self.start[0] + self.velocity[0] * index + swing_x * math.sin(phase),
            self.start[1] + self.velocity[1] * index + swing_y * math.sin(phase),
            self.spin * index,
            self.size * (1 + self.grow * index / NUM_FRAMES),
        )


def demo_frame(index: int) -> DemoFrame:
    """Draw frame `index` of 0..NUM_FRAMES-1 and its visible masks; ValueError outside."""
    if not 0 <= index < NUM_FRAMES:
        raise ValueError(f"the demo clip has frames 0..{NUM_FRAMES - 1}, got {index}")
    # Drawn with a margin, so that a toy half outside needs no clipping; each only where it is.
    canvas = np.pad(_lawn(), ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    masks: dict[int, NDArray[np.bool_]] = {}
    for track_id, toy in enumerate(_TOYS, start=1):
        placed = _place(toy, index)
        if placed is None:
            continue
        area, colour, alpha = placed
        below = _blend(canvas[area], np.zeros_like(colour), _shadow(alpha), _SHADOW_STRENGTH)
        canvas[area] = _blend(below, colour, alpha, 1.0)
        solid = alpha > 127
        for mask in masks.values():
            mask[area] &= ~solid
        masks[track_id] = np.zeros(canvas.shape[:2], dtype=np.bool_)
        masks[track_id][area] = solid
    inside = slice(_MARGIN, _MARGIN + HEIGHT), slice(_MARGIN, _MARGIN + WIDTH)
    masks = {track_id: mask[inside] for track_id, mask in masks.items()}
    visible = {track_id: mask for track_id, mask in masks.items() if np.count_nonzero(mask) >= _MIN_PIXELS}
    stacked = np.stack(list(visible.values())) if visible else np.zeros((0, HEIGHT, WIDTH), dtype=np.bool_)
    boxes = np.array([_tight_box(mask) for mask in stacked], dtype=np.float32).reshape(-1, 4)
    return DemoFrame(np.ascontiguousarray(canvas[inside]), stacked, tuple(visible), boxes)


def demo_clip_path() -> Path:
    """Return the encoded clip (H.264, mp4), made on first use in the user's cache folder.

    The folder is `ops.files.cache_folder`'s; the name holds a hash of this module, so that a changed drawing
    is encoded again. Raises SourceUnreadable where it cannot be written.
    """
    folder = cache_folder()
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    path = folder / f"demo-{version}.mp4"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            _encode(unfinished)
    except OSError as error:
        raise SourceUnreadable(
            f"the demo clip cannot be written to {folder}: {error.strerror}; set "
            "XDG_CACHE_HOME to a folder that you may write"
        ) from error
    return path


def _encode(path: Path) -> None:
    if "libx264" not in av.codecs_available:
        raise SourceUnreadable(
            "the demo clip needs an H.264 encoder, and this build of PyAV has no libx264; "
            "install PyAV's wheel: pip install --only-binary av av"
        )
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": "18", "preset": "veryfast", "g": str(FPS)}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(NUM_FRAMES):
            picture = av.VideoFrame.from_ndarray(demo_frame(index).rgb, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _shadow(alpha: Image) -> Image:
    """Move an opacity (h, w) down and right and blur it (two box blurs are near enough to a Gaussian)."""
    rows, columns = _SHADOW_SHIFT
    moved = np.zeros_like(alpha)
    moved[rows:, columns:] = alpha[:-rows, :-columns]
    return np.asarray(cv2.blur(cv2.blur(moved, _SHADOW_BLUR), _SHADOW_BLUR), dtype=np.uint8)


def _blend(below: Image, above: Image, opacity: Image, strength: float) -> Image:
    """Lay `above` (h, w, 3) over `below` with opacity (h, w) 0..255 times `strength` 0..1."""
    share = opacity.astype(np.float32) * np.float32(strength / 255)
    return np.asarray(cv2.blendLinear(below, above, 1 - share, share), dtype=np.uint8)


def _place(toy: _Toy, index: int) -> tuple[tuple[slice, slice], Image, Image] | None:
    """Return the square (h, w) of the canvas where a toy and its shadow are, its colours (h, w, 3) and its
    opacity (h, w) 0..255 there; None where all of it lies outside the frame.
    """
    x, y, angle, size = toy.placement(index)
    reach = math.ceil(size * math.sqrt(0.5)) + _SHADOW_REACH
    left, top = round(x) - reach, round(y) - reach
    if left >= WIDTH or top >= HEIGHT or left + 2 * reach <= 0 or top + 2 * reach <= 0:
        return None
    matrix = cv2.getRotationMatrix2D((_SPRITE / 2, _SPRITE / 2), angle, size / _SPRITE)
    matrix[:, 2] += np.array([x - left - _SPRITE / 2, y - top - _SPRITE / 2])
    colour, alpha = (cv2.warpAffine(part, matrix, (2 * reach, 2 * reach)) for part in _sprite(toy))
    rows = slice(_MARGIN + top, _MARGIN + top + 2 * reach)
    columns = slice(_MARGIN + left, _MARGIN + left + 2 * reach)
    return (rows, columns), np.asarray(colour, dtype=np.uint8), np.asarray(alpha, dtype=np.uint8)


@cache
def _sprite(toy: _Toy) -> tuple[Image, Image]:
    """Draw a toy once, lit from the top left: colours (S, S, 3) and opacity (S, S), uint8."""
    colour, alpha = toy.draw()
    rows, columns = np.mgrid[0:_SPRITE, 0:_SPRITE] / _SPRITE
    light = 1.18 - 0.32 * rows - 0.12 * columns
    outline = cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)) > 0
    light = np.where(outline, light * 0.6, light)
    return np.clip(colour * light[..., None], 0, 255).astype(np.uint8), alpha


@cache
def _lawn() -> Image:
    """Draw the background: mown stripes, blades of grass in two sizes, a sandy path."""
    random = np.random.default_rng(7)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    blades = cv2.GaussianBlur(random.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), 0.8)
    patches = cv2.GaussianBlur(random.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), 22)
    texture = 18 * blades / blades.std() + 9 * patches / patches.std()
    texture += 7 * np.sign(np.sin((columns + 0.45 * rows) * 2 * np.pi / 150))
    grass = np.array([84, 128, 62]) + texture[..., None] * np.array([0.7, 1.0, 0.55])
    sand = np.array([196, 174, 132]) + (texture * 0.55)[..., None]
    path = np.abs(rows - (250 + 26 * np.sin(columns / 105))) - 34
    share = np.clip(0.5 - (path + 3 * patches / patches.std()) / 8, 0, 1)[..., None]
    lawn: Image = np.clip(grass + (sand - grass) * share, 0, 255).astype(np.uint8)
    return lawn


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _blank(colour: tuple[int, int, int]) -> tuple[Image, Image]:
    return np.full((_SPRITE, _SPRITE, 3), colour, np.uint8), np.zeros((_SPRITE, _SPRITE), np.uint8)


def _polar() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return radius (1 at the sprite's edge) and angle (radians) of each sprite pixel."""
    rows, columns = np.mgrid[0:_SPRITE, 0:_SPRITE] * 2 / (_SPRITE - 1) - 1
    return np.hypot(rows, columns), np.arctan2(rows, columns)


def _regular_polygon(radii: tuple[float, ...], num_corners: int) -> NDArray[np.int32]:
    angles = np.arange(num_corners) * 2 * np.pi / num_corners - np.pi / 2
    radius = np.resize(np.array(radii), num_corners) * _SPRITE / 2
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
    return (_SPRITE / 2 + corners).astype(np.int32)


def _ball() -> tuple[Image, Image]:
    colour, alpha = _blank((240, 240, 235))
    radius, angle = _polar()
    sector = np.floor((angle + np.pi) / (np.pi / 3)).astype(int) % 3
    colour[sector == 0] = (214, 48, 49)
    colour[sector == 1] = (9, 104, 196)
    colour[radius < 0.16] = (250, 210, 60)
    alpha[radius < 0.95] = 255
    return colour, alpha


def _ring() -> tuple[Image, Image]:
    colour, alpha = _blank((246, 196, 80))
    radius, angle = _polar()
    colour[np.floor((angle + np.pi) / (np.pi / 6)).astype(int) % 2 == 0] = (236, 112, 20)
    alpha[(radius < 0.95) & (radius > 0.45)] = 255
    return colour, alpha


def _star() -> tuple[Image, Image]:
    colour, alpha = _blank((250, 205, 30))
    cv2.fillPoly(alpha, [_regular_polygon((0.97, 0.45), 10)], 255)
    rows, columns = np.mgrid[0:_SPRITE, 0:_SPRITE]
    colour[((rows % 40) - 20) ** 2 + ((columns % 40) - 20) ** 2 < 70] = (228, 90, 160)
    return colour, alpha


def _box() -> tuple[Image, Image]:
    colour, alpha = _blank((120, 72, 190))
    cv2.rectangle(alpha, (38, 22), (218, 234), 255, -1)
    rows, columns = np.mgrid[0:_SPRITE, 0:_SPRITE]
    colour[(rows // 30 + columns // 30) % 2 == 0] = (208, 178, 240)
    return colour, alpha


def _fish() -> tuple[Image, Image]:
    colour, alpha = _blank((20, 150, 170))
    cv2.ellipse(alpha, (142, 128), (104, 62), 0, 0, 360, 255, -1)
    cv2.fillPoly(alpha, [np.array([[60, 128], [6, 62], [24, 128], [6, 194]], np.int32)], 255)
    cv2.fillPoly(alpha, [np.array([[120, 76], [150, 34], [184, 80]], np.int32)], 255)
    columns = np.mgrid[0:_SPRITE, 0:_SPRITE][1]
    colour[(columns // 22) % 2 == 0] = (240, 240, 210)
    cv2.circle(colour, (208, 112), 13, (255, 255, 255), -1)
    cv2.circle(colour, (211, 112), 7, (20, 20, 20), -1)
    # It swims to the left.
    return np.ascontiguousarray(colour[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])


def _car() -> tuple[Image, Image]:
    colour, alpha = _blank((206, 40, 60))
    cv2.rectangle(alpha, (8, 120), (248, 184), 255, -1)
    cv2.fillPoly(alpha, [np.array([[52, 122], [84, 66], [178, 66], [212, 122]], np.int32)], 255)
    for centre in ((70, 186), (190, 186)):
        cv2.circle(alpha, centre, 34, 255, -1)
        cv2.circle(colour, centre, 34, (36, 36, 40), -1)
        cv2.circle(colour, centre, 15, (190, 190, 196), -1)
    rear, front = [[70, 118], [92, 78], [126, 78], [126, 118]], [[136, 118], [136, 78], [170, 78], [194, 118]]
    cv2.fillPoly(colour, [np.array(rear, np.int32), np.array(front, np.int32)], (176, 220, 240))
    cv2.rectangle(colour, (8, 146), (248, 156), (245, 245, 245), -1)
    return colour, alpha


def _leaf() -> tuple[Image, Image]:
    colour, alpha = _blank((232, 140, 30))
    radius, angle = _polar()
    alpha[radius < 0.55 + 0.38 * np.abs(np.cos(2.5 * angle)) ** 0.7] = 255
    for spoke in range(5):
        turn = spoke * 2 * np.pi / 5
        tip = (int(128 + 112 * math.cos(turn)), int(128 + 112 * math.sin(turn)))
        cv2.line(colour, (128, 128), tip, (128, 52, 14), 7)
    return colour, alpha


_TOYS = (
    _Toy(_box, 104, (470, 120), (-0.55, 0.1), (0, 26, 110), spin=0.35),
    _Toy(_leaf, 84, (120, -60), (0.9, 1.35), (46, 0, 60), spin=1.1),
    _Toy(_car, 128, (-90, 236), (3.9, 0.0), (0, 3, 18)),
    _Toy(_star, 92, (330, 150), (0.0, 0.0), (150, 60, 160), spin=-1.4),
    _Toy(_fish, 118, (730, 96), (-4.1, 0.35), (0, 22, 46)),
    _Toy(_ring, 96, (90, 300), (1.5, -0.3), (0, 34, 90), spin=2.0),
    _Toy(_ball, 78, (560, 330), (-2.3, -0.25), (0, -30, 50), spin=-3.2, grow=0.35),
)
