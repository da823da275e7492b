"""A scene and a frame index give the picture and whose each pixel is; no earlier frame is needed.

What does not change over a scene (its background, clutter and light) is made once and kept for the last few
scenes. Noise is drawn from (scene seed, frame index). Runs on numpy and OpenCV on the CPU; OpenCV's own
threads change nothing in the result. H × W pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.actors.creatures import animal_shapes, blob_shapes
from model.training.data.actors.riders import rider_shapes
from model.training.data.actors.vehicles import vehicle_shapes
from model.training.data.actors.walkers import walker_shapes
from model.training.data.draw import canvas, sensor
from model.training.data.draw.canvas import Shape, Sprite
from model.training.data.draw.lighting import lamp_map, light_map
from model.training.data.draw.shadows import cast_shadow
from model.training.data.draw.textures import cloud_noise, colour_noise, dead_leaves
from model.training.data.meshes.figures import figure_sprite, list_figures, load_figure
from model.training.data.scene.geometry import (
    Pose,
    Projector,
    camera_matrix,
    centred,
    is_still,
    pose,
    project,
    to_image,
)
from model.training.data.scene.scenes import Actor, Clutter, Scene
from model.training.data.scenery.clutter import clutter_shapes
from model.training.data.scenery.photographs import list_photos, photo_grain, photo_patch
from model.training.data.scenery.streetscape import street

__all__ = ["SceneRenderer", "render"]

Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]

_EXPOSURE_SECONDS = 0.05
_TEXTURE = 48
_IDENTITY = np.eye(2, 3)
_VEHICLES = ("car", "van", "bus", "truck")
_SHOWN_AS_FIGURES = 0.75
"""Part of the walkers and cars, where there are figures."""
_STANDING = 0.15
"""Metres per second below which a figure stands."""
_STRIDE = 0.8
"""Two steps of a figure, in parts of its height."""


def render(
    scene: Scene, index: int, *, photos: Path | None = None, figures: Path | None = None
) -> tuple[Bytes, NDArray[np.uint16]]:
    """Frame `index` as (H, W, 3) RGB, and (H, W) identities: 0 for nobody, i + 1 for scene.actors[i].

    Raises IndexError for a frame that the scene does not have, ValueError where the scene shows a photograph
    and no folder of `photos` is given.
    """
    return _renderer(scene, photos, figures)(index)


@lru_cache(maxsize=6)
def _renderer(scene: Scene, photos: Path | None, figures: Path | None) -> SceneRenderer:
    return SceneRenderer(scene, photos=photos, figures=figures)


class _Standing(NamedTuple):
    """A thing of the scenery, the row of its foot, and its sprite in the reference picture."""

    thing: Clutter
    foot_y: float
    sprite: Sprite


class SceneRenderer:
    """Renders the frames of one scene, in any order.

    `figures` is a folder of figures (`meshes.figures`); most walkers, cars and vans are then shown as one of
    them. The description does not know of it, and without it everybody is drawn.
    """

    def __init__(self, scene: Scene, *, photos: Path | None = None, figures: Path | None = None) -> None:
        self.scene = scene
        self._figures = {} if figures is None else _cast(scene, figures)
        self._still = is_still(scene.camera)
        self._margin = _margin(scene)
        self._canvas = self._background(photos)
        if photos is not None and scene.backdrop.kind == "street":
            self._canvas = _grained(self._canvas, scene, photos)
        if scene.backdrop.blur:
            self._canvas = np.asarray(cv2.GaussianBlur(self._canvas, (0, 0), scene.backdrop.blur), np.uint8)
        self._clutter = self._draw_clutter()
        self._textures = [_texture(actor) for actor in scene.actors]
        self._lamps = lamp_map(scene)
        self._kept: dict[int, Sprite] = {}
        self._frozen = self._ground(camera_matrix(scene, 0.0)) if self._still else None

    def __call__(self, index: int) -> tuple[Bytes, NDArray[np.uint16]]:
        scene = self.scene
        if not 0 <= index < scene.num_frames:
            raise IndexError(f"frame {index} of a scene of {scene.num_frames} frames")
        seconds = index / scene.fps
        exposed = min(scene.look.shutter / scene.fps, _EXPOSURE_SECONDS)
        matrix = camera_matrix(scene, seconds)
        before = camera_matrix(scene, seconds - exposed) if not self._still else matrix
        if self._frozen is not None:
            frame = self._frozen.copy()
        else:
            frame = self._camera_blur(self._ground(matrix), matrix, before)
        clutter = self._clutter_at(matrix, seconds)
        ids = np.zeros(frame.shape[:2], np.uint16)
        layers: list[tuple[float, int, Sprite]] = [(z, 0, sprite) for z, sprite in clutter]
        for number, actor in enumerate(scene.actors):
            now = pose(actor, seconds)
            sprite = self._actor_sprite(number, now, seconds, exposed, matrix, before)
            if sprite is not None:
                self._ground_shadow(frame, sprite, actor, now, matrix)
                layers.append((now.z, number + 1, sprite))
        for _, identity, sprite in sorted(layers, key=lambda layer: -layer[0]):
            canvas.lay(frame, ids, sprite, identity)
        rng = np.random.default_rng((scene.seed, index))
        gain = sensor.light_gain(scene.light, seconds)
        dim = light_map(scene, self._lamps, seconds)
        return sensor.expose(frame, scene.look, gain=gain, rng=rng, seconds=seconds, dim=dim), ids

    def _background(self, photos: Path | None) -> Bytes:
        scene, (margin_x, margin_y) = self.scene, self._margin
        height, width = scene.height + 2 * margin_y, scene.width + 2 * margin_x
        backdrop = scene.backdrop
        rng = np.random.default_rng(backdrop.seed)
        if backdrop.kind == "street":
            return street(
                backdrop,
                view=scene.view,
                width=scene.width,
                canvas_height=height,
                canvas_width=width,
                margin=self._margin,
            )
        if backdrop.kind == "leaves":
            return dead_leaves(rng, height, width)
        if backdrop.kind == "noise":
            return colour_noise(rng, height, width)
        if photos is None:
            raise ValueError(
                f"scene {scene.seed} shows the photograph {backdrop.photo!r}: give the folder of photos"
            )
        return photo_patch(rng, height, width, path=photos / backdrop.photo)

    def _draw_clutter(self) -> list[_Standing]:
        """The clutter in the canvas; its shadows go onto the canvas."""
        scene, margin = self.scene, np.array(self._margin)
        height, width = self._canvas.shape[:2]
        found = []
        for thing in scene.clutter:
            shapes = clutter_shapes(thing, view=scene.view, width=scene.width)
            moved = [shape._replace(points=shape.points + margin) for shape in shapes]
            sprite = canvas.rasterise(moved, height=height, width=width)
            if sprite is None:
                continue
            foot = project(np.array([[thing.x, 0.0, thing.z]]), view=scene.view, width=scene.width)[0]
            scale = scene.view.focal / max(thing.z, 0.3)
            cast_shadow(
                self._canvas, sprite, foot + margin, scene=scene, scale=scale, z=thing.z, spread=0.25 * scale
            )
            placed = Sprite(sprite.x - self._margin[0], sprite.y - self._margin[1], sprite.rgba)
            found.append(_Standing(thing, float(foot[1]), placed))
        return found

    def _ground(self, matrix: Points) -> Bytes:
        """The background through the camera."""
        scene, (margin_x, margin_y) = self.scene, self._margin
        if np.array_equal(matrix, _IDENTITY):
            rows, columns = slice(margin_y, margin_y + scene.height), slice(margin_x, margin_x + scene.width)
            return self._canvas[rows, columns].copy()
        moved = centred(matrix, (-margin_x, -margin_y), (0, 0))
        size = (scene.width, scene.height)
        return np.asarray(cv2.warpAffine(self._canvas, moved, size, borderMode=cv2.BORDER_REFLECT), np.uint8)

    def _clutter_at(self, matrix: Points, seconds: float) -> list[tuple[float, Sprite]]:
        """The clutter through the camera, in the wind, with its distances."""
        found = []
        for place, (thing, foot_y, sprite) in enumerate(self._clutter):
            if place in self._kept:
                found.append((thing.z, self._kept[place]))
                continue
            moved = matrix
            if thing.sway:
                lean = thing.sway * math.sin(2 * math.pi * thing.sway_rate * seconds + thing.sway_phase)
                lean *= 1 + 0.5 * math.sin(2 * math.pi * 0.31 * thing.sway_rate * seconds + thing.sway_phase)
                moved = matrix @ np.array([[1.0, -lean, lean * foot_y], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
            laid: Sprite | None = sprite
            if not np.array_equal(moved, _IDENTITY):
                laid = canvas.warp(sprite, moved, height=self.scene.height, width=self.scene.width)
            if laid is not None:
                if self._still and not thing.sway:
                    self._kept[place] = laid
                found.append((thing.z, laid))
        return found

    def _camera_blur(self, frame: Bytes, matrix: Points, before: Points) -> Bytes:
        centre = np.array([[self.scene.width / 2, self.scene.height / 2]])
        moved = (to_image(centre, matrix) - to_image(centre, before))[0]
        kernel = canvas.blur_kernel(float(moved[0]), float(moved[1]))
        return frame if kernel is None else cv2.filter2D(frame, -1, kernel).astype(np.uint8, copy=False)

    def _actor_sprite(
        self, number: int, now: Pose, seconds: float, exposed: float, matrix: Points, before: Points
    ) -> Sprite | None:
        scene, actor = self.scene, self.scene.actors[number]
        if now.z < 0.5:
            return None

        def to_pixels(points: Points) -> Points:
            return to_image(project(points, view=scene.view, width=scene.width), matrix)

        zoom = math.hypot(matrix[0, 0], matrix[0, 1])
        scale = scene.view.focal / now.z * zoom
        middle = np.array([[now.x, actor.height / 2, now.z]])
        centre = to_pixels(middle)[0]
        reach = actor.height * scale * (4.5 if actor.kind in _VEHICLES else 2.0)
        if not (-reach < centre[0] < scene.width + reach and -reach < centre[1] < scene.height + reach):
            return None
        if number in self._figures:
            sprite = self._figure(number, now, to_pixels, scale)
        else:
            shapes = _shapes(actor, now, seconds, to_pixels, scale)
            sprite = canvas.rasterise(shapes, height=scene.height, width=scene.width)
        if sprite is None:
            return None
        size = actor.height * scale * (2.5 if actor.kind in _VEHICLES else 1.1)
        canvas.shade(sprite, self._textures[number], centre=(float(centre[0]), float(centre[1])), size=size)
        earlier = pose(actor, seconds - exposed)
        then = to_image(
            project(np.array([[earlier.x, actor.height / 2, earlier.z]]), view=scene.view, width=scene.width),
            before,
        )[0]
        dx, dy = centre - then
        # no longer than half its width, or a thin thing would fade away
        limit = 0.25 * actor.height * scale / max(1e-6, math.hypot(dx, dy))
        kernel = canvas.blur_kernel(float(dx * min(1.0, limit)), float(dy * min(1.0, limit)))
        if kernel is not None:
            canvas.motion_blur(sprite, kernel)
        return sprite

    def _figure(self, number: int, now: Pose, to_pixels: Projector, scale: float) -> Sprite | None:
        """The actor as one of the figures, upright where it stands."""
        scene, actor, figure = self.scene, self.scene.actors[number], load_figure(self._figures[number])
        foot = to_pixels(np.array([[now.x, 0.0, now.z]]))[0]
        phase = None
        if now.speed > _STANDING:
            phase = actor.seed % 64 / 10 + 2 * math.pi * now.distance / (_STRIDE * actor.height)
        return figure_sprite(
            figure,
            heading=now.heading + math.atan2(now.x, now.z),
            tilt=(scene.view.camera_height - actor.height / 2) / now.z,
            phase=phase,
            foot=(float(foot[0]), float(foot[1])),
            pixels_per_metre=scale * actor.height / figure.metres,
            height=scene.height,
            width=scene.width,
        )

    def _ground_shadow(self, frame: Bytes, sprite: Sprite, actor: Actor, now: Pose, matrix: Points) -> None:
        scene = self.scene
        foot = to_image(project(np.array([[now.x, 0.0, now.z]]), view=scene.view, width=scene.width), matrix)[
            0
        ]
        scale = scene.view.focal / now.z * math.hypot(matrix[0, 0], matrix[0, 1])
        spread = {"walker": 0.28, "animal": 0.6 * actor.height, "blob": 0.5 * actor.height}.get(
            actor.kind, 0.8 * actor.height
        )
        cast_shadow(frame, sprite, foot, scene=scene, scale=scale, z=now.z, spread=spread * scale)


def _shapes(actor: Actor, now: Pose, seconds: float, to_pixels: Projector, scale: float) -> list[Shape]:
    """The actor's shapes in the picture, the lowest first."""
    seed, height = actor.seed, actor.height
    if actor.kind in ("walker", "animal", "blob"):
        draw = {"walker": walker_shapes, "animal": animal_shapes, "blob": blob_shapes}[actor.kind]
        return draw(
            seed, height=height, pose=now, seconds=seconds, to_pixels=to_pixels, pixels_per_metre=scale
        )
    if actor.kind in ("cyclist", "scooter"):
        return rider_shapes(
            seed,
            height=height,
            pose=now,
            to_pixels=to_pixels,
            pixels_per_metre=scale,
            motor=actor.kind == "scooter",
        )
    return vehicle_shapes(
        seed, kind=actor.kind, height=height, pose=now, to_pixels=to_pixels, pixels_per_metre=scale
    )


def _cast(scene: Scene, figures: Path) -> dict[int, Path]:
    """Which actors are shown as which figures."""
    kinds = {"walker": "walker", "car": "car", "van": "car"}
    names = {kind: list_figures(figures, kind) for kind in set(kinds.values())}
    found = {}
    for number, actor in enumerate(scene.actors):
        rng = np.random.default_rng((actor.seed, 2))
        chosen = names.get(kinds.get(actor.kind, ""), ())
        if chosen and rng.random() < _SHOWN_AS_FIGURES:
            found[number] = figures / chosen[int(rng.integers(0, len(chosen)))]
    return found


def _grained(canvas: Bytes, scene: Scene, photos: Path) -> Bytes:
    """The drawn background, at even odds with a photograph's grain."""
    rng = np.random.default_rng((scene.backdrop.seed, 3))
    names = list_photos(photos)
    if rng.random() < 0.5:
        return canvas
    return photo_grain(rng, canvas, path=photos / names[int(rng.integers(0, len(names)))])


def _margin(scene: Scene) -> tuple[int, int]:
    """Canvas beyond the picture on each side, enough for the camera's widest swing."""
    camera = scene.camera
    if np.array_equal(camera_matrix(scene, 0.0), _IDENTITY) and is_still(camera):
        return 0, 0
    shrink = 1 / (camera.zoom * math.exp(-abs(camera.zoom_amplitude))) - 1
    shake = 2 * camera.jitter + abs(camera.roll) * scene.width / 2
    margins = [
        abs(pan) + shake + max(0.0, shrink) * size / 2
        for pan, size in zip(camera.pan, (scene.width, scene.height), strict=True)
    ]
    return min(scene.width, math.ceil(margins[0])), min(scene.height, math.ceil(margins[1]))


def _texture(actor: Actor) -> NDArray[np.float32]:
    """(k, k, 4) factors of the actor's colours: folds, dirt and the light from above."""
    rng = np.random.default_rng((actor.seed, 1))
    strength = float(rng.uniform(0.03, 0.25)) * (2.0 if actor.kind == "blob" else 1.0)
    if actor.kind in _VEHICLES:
        strength *= 0.35
    factors = 1 + strength * cloud_noise(rng, _TEXTURE, _TEXTURE, coarsest=0.3, fall=0.95)
    rows = np.linspace(-1, 1, _TEXTURE, dtype=np.float32)
    factors -= np.float32(rng.uniform(-0.02, 0.22)) * rows[:, None]
    factors += np.float32(rng.uniform(-0.22, 0.22)) * rows[None]
    texture = np.ones((_TEXTURE, _TEXTURE, 4), np.float32)
    texture[..., :3] = np.clip(factors, 0.2, 1.8)[..., None]
    if actor.kind == "blob" and rng.random() < 0.5:
        texture[..., :3] *= 1 + 0.3 * np.stack(
            [cloud_noise(rng, _TEXTURE, _TEXTURE, coarsest=0.2) for _ in range(3)], axis=2
        )
    return np.clip(texture, 0.0, 3.0)
