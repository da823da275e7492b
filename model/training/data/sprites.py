"""The sprites set, rendered: scenes of flat shapes to frames and identities; SpriteClips cuts clips out.

Each sprite is drawn once, at several sizes, and turned and scaled into the frame. No motion blur: one frame
alone must not tell how a sprite moves. A corrupted frame keeps its identities: the things are still there.

Dimensions: T frames, N instances, H × W pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from model.cues.state import CueState
from model.training.data.clip import TrainingClip
from model.training.data.cue_clips import clip_cues
from model.training.data.draw import canvas, sensor
from model.training.data.draw.palette import any_colour
from model.training.data.draw.textures import cloud_noise, colour_noise, dead_leaves
from model.training.data.instances import draw_window, instance_masks
from model.training.data.scene.scenes import Light
from model.training.data.scene.sprite_scenes import (
    DECOY,
    Corruption,
    SpriteScene,
    draw_sprite_scene,
    sprite_position,
    sprite_turn,
)

__all__ = ["SpriteClips", "SpriteRenderer"]

Bytes = NDArray[np.uint8]
Ids = NDArray[np.uint16]
Rng = np.random.Generator


_LEVELS = (16, 32, 64, 128, 192, 384)
"""Sides of the drawn sprites; the circle around the shape touches them."""
_TEXTURE = 32
_BLOCK = 16
_SCENE_FRAMES = 40


class SpriteRenderer:
    """Renders the frames of one scene, in any order; a frame depends on the scene and its index alone."""

    def __init__(self, scene: SpriteScene) -> None:
        self.scene = scene
        self._background = _background(scene)
        needed: dict[tuple[str, int], float] = {}
        for actor in scene.actors:
            key = (actor.shape, actor.seed)
            needed[key] = max(needed.get(key, 0.0), actor.size, actor.end_size)
        drawn = {key: _drawn(*key, largest=size) for key, size in needed.items()}
        self._drawn = [drawn[actor.shape, actor.seed] for actor in scene.actors]
        self._corruptions = {corruption.frame: corruption for corruption in scene.corruptions}

    def __call__(self, index: int) -> tuple[Bytes, Ids]:
        """Frame `index` as (H, W, 3) RGB, and (H, W) identities: 0 for nobody, i + 1 for scene.actors[i].

        Raises IndexError for a frame that the scene does not have.
        """
        scene = self.scene
        if not 0 <= index < scene.num_frames:
            raise IndexError(f"frame {index} of a scene of {scene.num_frames} frames")
        seconds = index / scene.fps
        frame = self._background.copy()
        ids = np.zeros(frame.shape[:2], np.uint16)
        for number, (actor, levels) in enumerate(zip(scene.actors, self._drawn, strict=True)):
            if index not in actor.hidden:
                size = actor.size * (actor.end_size / actor.size) ** (index / (scene.num_frames - 1))
                sprite = _placed(levels, size, sprite_position(actor, seconds), sprite_turn(actor, seconds))
                canvas.lay(frame, ids, sprite, 0 if actor.label == DECOY else number + 1)
        rng = np.random.default_rng((scene.seed, index))
        gain = sensor.light_gain(Light(), seconds)
        frame = sensor.expose(frame, scene.look, gain=gain, rng=rng, seconds=seconds, dim=None)
        if index in self._corruptions:
            frame = _corrupted(frame, self._corruptions[index])
        return frame, ids


class SpriteClips:
    """Clip source of the sprites set: clip `index` is cut out of a scene of its own; labels are its classes.

    `cues` names the planes of model.cues that each clip carries; they are those of a stream of the whole
    scene, corrupted frames included. `crop` (h, w) cuts the same window out of all frames, mostly one that
    shows an instance. Raises ValueError where the crop is larger than the picture.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        height: int = 192,
        width: int = 320,
        cues: tuple[str, ...] = (),
        crop: tuple[int, int] | None = None,
    ) -> None:
        if crop is not None and not (0 < crop[0] <= height and 0 < crop[1] <= width):
            raise ValueError(f"crop {crop} must fit into the picture {(height, width)}")
        self.seed, self.height, self.width = seed, height, width
        self.cues, self.crop = cues, crop

    def scene(self, index: int, *, num_frames: int = _SCENE_FRAMES) -> SpriteScene:
        """The scene that clip `index` is cut out of."""
        entropy = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        return draw_sprite_scene(
            int(entropy >> np.uint64(1)), height=self.height, width=self.width, num_frames=num_frames
        )

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        """T frames of scene `index`, from a frame that (seed, index) determine."""
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        scene = self.scene(index, num_frames=max(_SCENE_FRAMES, num_frames))
        rng = np.random.default_rng((self.seed, index, 1))
        renderer = SpriteRenderer(scene)
        start = int(rng.integers(0, scene.num_frames - num_frames + 1))
        rendered = {frame: renderer(frame) for frame in range(start, start + num_frames)}
        images = np.stack([image for image, _ in rendered.values()])
        ids = np.stack([identities for _, identities in rendered.values()])

        def image(frame: int) -> Bytes:
            return rendered[frame][0] if frame in rendered else renderer(frame)[0]

        planes: NDArray[np.float32] | None = None
        if self.cues and scene.corruptions:
            # A lost frame looks like a cut, after which the live cues start over: feed all frames as there.
            state = CueState(self.cues)
            every = [state.update(image(frame), frame / scene.fps) for frame in range(start + num_frames)]
            planes = np.stack(every[start:])
        elif self.cues:
            planes = clip_cues(self.cues, image, first=start, num_frames=num_frames, fps=scene.fps)
        if self.crop is not None:
            rows, columns = draw_window(rng, ids, self.crop)
            images, ids = images[:, rows, columns], ids[:, rows, columns]
            planes = None if planes is None else planes[..., rows, columns]
        masks, labels = instance_masks(ids, np.array([actor.label for actor in scene.actors], np.int64))
        return TrainingClip(
            images=np.ascontiguousarray(images),
            masks=masks,
            labels=labels,
            cues=None if planes is None else np.ascontiguousarray(planes),
        )


def _background(scene: SpriteScene) -> Bytes:
    rng = np.random.default_rng(scene.backdrop_seed)
    if scene.backdrop in ("noise", "leaves"):
        draw = colour_noise if scene.backdrop == "noise" else dead_leaves
        # Made at half size, in a quarter of the time that would otherwise be most of a short clip's.
        half = draw(rng, -(-scene.height // 2), -(-scene.width // 2))
        size = (scene.width, scene.height)
        return np.asarray(cv2.resize(half, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    first, second = (np.array(any_colour(rng), np.float32) for _ in range(2))
    part = np.linspace(0, 1, scene.width, dtype=np.float32)[None, :, None]
    return np.ascontiguousarray(
        np.broadcast_to(np.rint(first + (second - first) * part), (scene.height, scene.width, 3)), np.uint8
    )


def _drawn(shape: str, seed: int, *, largest: float) -> list[Bytes]:
    """The sprite at those of _LEVELS that sizes up to `largest` need, (side, side, 4) premultiplied RGBA.

    Its texture is made at one size, so that copies of other sizes look alike.
    """
    levels = [level for level in _LEVELS if level < largest]
    levels.append(_LEVELS[min(len(levels), len(_LEVELS) - 1)])
    side = levels[-1]
    mask = np.zeros((side, side), np.uint8)
    for polygon, value in _outlines(shape):
        fixed = np.rint((polygon * (0.5 * side) + 0.5 * side - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], (value,), cv2.LINE_AA, 4)
    rng = np.random.default_rng(seed)
    first, second = (np.array(any_colour(rng), np.float32) for _ in range(2))
    pattern = cloud_noise(rng, _TEXTURE, _TEXTURE, coarsest=float(rng.uniform(0.2, 0.6)), fall=0.5)
    part = np.clip(cv2.resize(pattern, (side, side), interpolation=cv2.INTER_LINEAR) * 2 + 0.5, 0, 1)
    rgba = np.empty((side, side, 4), np.float32)
    rgba[..., :3] = first + (second - first) * part[..., None]
    rgba[..., 3] = 255
    whole = np.rint(rgba * (mask[..., None] / np.float32(255))).astype(np.uint8)
    return [
        np.asarray(cv2.resize(whole, (level, level), interpolation=cv2.INTER_AREA), np.uint8)
        for level in levels
    ]


def _outlines(shape: str) -> list[tuple[NDArray[np.float64], float]]:
    """Polygons (n, 2) in the unit circle, and 255 where they fill or 0 where they cut out, in order."""
    if shape in ("triangle", "square"):
        return [(_corners(3 if shape == "triangle" else 4), 255.0)]
    if shape == "star":
        radii = np.tile([1.0, 0.42], 5)[:, None]
        return [(_corners(10) * radii, 255.0)]
    if shape == "cross":
        arm, reach = 0.32, math.sqrt(1 - 0.32**2)
        bar = np.array([[-reach, -arm], [reach, -arm], [reach, arm], [-reach, arm]])
        return [(bar, 255.0), (bar[:, ::-1], 255.0)]
    if shape == "propeller":
        blade = np.stack([_corners(24)[:, 0] * 0.27, _corners(24)[:, 1] * 0.5 - 0.5], axis=1)
        turns = [2 * math.pi * third / 3 for third in range(3)]
        return [
            (blade @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]), 255.0)
            for turn in turns
        ] + [(_corners(24) * 0.22, 255.0)]
    disc = _corners(64)
    if shape == "ring":
        return [(disc, 255.0), (disc * 0.55, 0.0)]
    if shape == "crescent":
        return [(disc, 255.0), (disc * 0.85 + [0.45, 0.0], 0.0)]
    if shape == "disc":
        return [(disc, 255.0)]
    raise ValueError(f"shape {shape!r} cannot be drawn")


def _corners(count: int) -> NDArray[np.float64]:
    """(count, 2) points on the unit circle, the first one on top."""
    angles = 2 * math.pi * np.arange(count) / count
    return np.stack((np.sin(angles), -np.cos(angles)), axis=1)


def _placed(levels: list[Bytes], size: float, middle: tuple[float, float], turn: float) -> canvas.Sprite:
    """The sprite of a diameter of `size`, turned, around `middle`."""
    drawn = next((level for level in levels if len(level) >= size), levels[-1])
    reach = size / 2 + 1
    x0, y0 = math.floor(middle[0] - reach), math.floor(middle[1] - reach)
    width, height = math.ceil(middle[0] + reach) - x0, math.ceil(middle[1] + reach) - y0
    scale = len(drawn) / size
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    # From the frame's pixel centres back to the drawing's: turned back, from middle to middle.
    x, y = x0 + 0.5 - middle[0], y0 + 0.5 - middle[1]
    half = len(drawn) / 2 - 0.5
    matrix = np.array(
        [[cosine, sine, cosine * x + sine * y + half], [-sine, cosine, cosine * y - sine * x + half]]
    )
    laid = cv2.warpAffine(
        drawn,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return canvas.Sprite(x0, y0, np.asarray(laid, np.uint8))


def _corrupted(frame: Bytes, corruption: Corruption) -> Bytes:
    """Noise alone, black, or half of the blocks replaced by flat ones."""
    rng = np.random.default_rng(corruption.seed)
    if corruption.kind == "black":
        return np.zeros_like(frame)
    if corruption.kind == "noise":
        return rng.integers(0, 256, frame.shape, np.uint8)
    height, width = frame.shape[:2]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    flat = rng.integers(0, 256, (rows, columns, 3), np.uint8)
    lost = rng.random((rows, columns)) < 0.5
    spread = np.ones((_BLOCK, _BLOCK), np.uint8)
    over = np.kron(lost, spread)[:height, :width, None].astype(bool)
    return np.where(over, np.kron(flat, spread[..., None])[:height, :width], frame)
