"""The street set: a seed gives a scene as a street camera sees it; StreetClips cuts clips out of them.

Chances and ranges are set so that rendered clips share the statistics of surveillance footage: people mostly
dark and 12-160 pixels tall at 192 × 320, growing towards the camera; most cameras still; light, noise and
compression of cheap sensors. Source: ours.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.class_lists import ClassListName, categories
from model.config import CUE_PLANES
from model.training.data.clip import TrainingClip
from model.training.data.cue_clips import clip_cues, mirrored_planes
from model.training.data.instances import draw_window, instance_masks
from model.training.data.meshes.figures import list_figures
from model.training.data.render import SceneRenderer
from model.training.data.scene.crowd import REFERENCE_ROWS, Crowd, ground_range
from model.training.data.scene.scenes import ACTOR_KINDS, Backdrop, Scene
from model.training.data.scene.setting import draw_camera, draw_clutter, draw_light, draw_look, draw_view
from model.training.data.scene.values import draw_seed, rounded
from model.training.data.scenery.photographs import list_photos

__all__ = ["StreetClips", "draw_scene"]

_FPS = (5.0, 6.0, 7.5, 8.0, 10.0, 10.0, 10.0, 12.0)
_SCENE_FRAMES = 48
_CUE_DROPPED = 0.15
"""Part of the clips whose cue planes are zeros."""
_COLD = 0.12
"""Part of the clips that start anywhere, also before the background is warm."""
_WARM_SECONDS = 1.1
KIND_NAMES = {
    "walker": "person",
    "cyclist": "person",
    "scooter": "person",
    "car": "car",
    "van": "car",
    "bus": "bus",
    "truck": "truck",
}
"""Name of an actor's kind in class lists that have it; a rider with the vehicle is one instance, a person.
All else is `object`: animals are drawn too simply to stand for a name."""

_CLOSE_LOG_ZOOM = (math.log(1.5), math.log(3.5))


def draw_scene(
    seed: int,
    *,
    height: int = 192,
    width: int = 320,
    num_frames: int = _SCENE_FRAMES,
    fps: float | None = None,
    photos: tuple[str, ...] = (),
    walkers: bool = True,
) -> Scene:
    """The street scene of a seed. `photos` are the names of photographs that backgrounds may show.

    walkers=False draws nobody on foot, to measure what a network learns of people without them.
    """
    rng = np.random.default_rng(seed)
    rate = float(rng.choice(_FPS)) if fps is None else fps
    duration = num_frames / rate
    view = draw_view(rng, height, width)
    night = float(rounded(rng.uniform(0.3, 0.8))) if rng.random() < 0.08 else 0.0
    far, near = ground_range(view, height)
    depth = math.sqrt(far * near)
    kind = str(rng.choice(["street", "leaves", "noise", "photo"], p=[0.72, 0.09, 0.07, 0.12]))
    photo = str(rng.choice(photos)) if photos else ""
    if kind == "photo" and not photo:
        kind = "street"
    road = rounded(float(rng.choice([0.0, rng.uniform(-0.35, 0.35), math.pi / 2 + rng.uniform(-0.35, 0.35)])))
    backdrop = Backdrop(
        kind=kind,
        seed=draw_seed(rng),
        road_angle=road,
        road_offset=rounded(rng.uniform(-0.35, 0.5) * depth),
        road_width=rounded(rng.uniform(3.5, 12.0)),
        depth=rounded(depth),
        blur=rounded(rng.uniform(0.8, 3.5) * height / REFERENCE_ROWS) if rng.random() < 0.12 else 0.0,
        photo=photo if kind == "photo" else "",
    )
    crowd = Crowd(rng, view=view, height=height, width=width, duration=duration, road=road, depth=depth)
    crowd.fill(walkers=walkers)
    return Scene(
        seed=seed,
        height=height,
        width=width,
        num_frames=num_frames,
        fps=rate,
        view=view,
        camera=draw_camera(rng, height),
        backdrop=backdrop,
        light=draw_light(rng, night, duration),
        look=draw_look(rng, night, height),
        actors=tuple(crowd.actors),
        clutter=draw_clutter(rng, crowd),
    )


def kind_labels(class_list: ClassListName) -> dict[str, int]:
    """Class output of each kind of actor, one output per class of the list.

    Raises ValueError for a list that has no name for some kind, nor `object`.
    """
    outputs = {category.name: index for index, category in enumerate(categories(class_list))}
    labels = {}
    for kind in ACTOR_KINDS:
        label = outputs.get(KIND_NAMES.get(kind, "object"), outputs.get("object"))
        if label is None:
            raise ValueError(
                f"network.class_list: {class_list!r} has no name for rendered {kind}s and no 'object'; the "
                "street sets need 'object' or 'coco_and_object'"
            )
        labels[kind] = label
    return labels


class StreetClips:
    """Clip source of street scenes: clip `index` is cut out of a scene of its own.

    `cues` names the planes of model.cues that each clip carries; 15 % of the clips carry zeros. `crop`
    (h, w) cuts the same window out of all frames, mostly one that shows an instance; sizes stay those of
    height × width. `photos` is a folder of photographs that some backgrounds show; None renders without.
    `close` is the part of the scenes that is filmed through a longer lens: what stands near the middle fills
    the picture. `walkers` as in `draw_scene`. `figures` is a folder of figures that most people on foot and
    cars are shown as. `class_list` is what labels are outputs of. The frozen sets have none of these.

    Raises ValueError where the crop is larger than the picture, or `close` no part.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        height: int = 192,
        width: int = 320,
        cues: tuple[str, ...] = ("background",),
        crop: tuple[int, int] | None = None,
        photos: Path | None = None,
        close: float = 0.0,
        walkers: bool = True,
        figures: Path | None = None,
        class_list: ClassListName = "object",
    ) -> None:
        if not 0 <= close <= 1:
            raise ValueError(f"close {close} must be in [0, 1]")
        if crop is not None and not (0 < crop[0] <= height and 0 < crop[1] <= width):
            raise ValueError(f"crop {crop} must fit into the picture {(height, width)}")
        self.seed, self.height, self.width = seed, height, width
        self.cues, self.crop, self.photos = cues, crop, photos
        self.close, self.walkers, self.figures = close, walkers, figures
        self._labels = kind_labels(class_list)
        self._names = list_photos(photos) if photos is not None else ()
        if figures is not None:
            list_figures(figures)  # says what is missing before anything renders

    def scene(self, index: int, *, num_frames: int = _SCENE_FRAMES) -> Scene:
        """The scene that clip `index` is cut out of."""
        entropy = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        scene = draw_scene(
            int(entropy >> np.uint64(1)),
            height=self.height,
            width=self.width,
            num_frames=num_frames,
            photos=self._names,
            walkers=self.walkers,
        )
        rng = np.random.default_rng((self.seed, index, 2))
        if rng.random() < self.close:
            zoom = rounded(scene.camera.zoom * math.exp(rng.uniform(*_CLOSE_LOG_ZOOM)))
            scene = replace(scene, camera=replace(scene.camera, zoom=zoom))
        return scene

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        scene = self.scene(index, num_frames=max(_SCENE_FRAMES, num_frames))
        rng = np.random.default_rng((self.seed, index, 1))
        renderer = SceneRenderer(scene, photos=self.photos, figures=self.figures)
        last = scene.num_frames - num_frames
        warm = min(last, math.ceil(_WARM_SECONDS * scene.fps))
        start = int(rng.integers(0, last + 1)) if rng.random() < _COLD else int(rng.integers(warm, last + 1))
        rendered = {frame: renderer(frame) for frame in range(start, start + num_frames)}
        images = np.stack([image for image, _ in rendered.values()])
        ids = np.stack([identities for _, identities in rendered.values()])
        dropped = rng.random() < _CUE_DROPPED
        planes: NDArray[np.float32] | None = None
        if self.cues and not dropped:
            planes = clip_cues(
                self.cues,
                lambda frame: rendered[frame][0] if frame in rendered else renderer(frame)[0],
                first=start,
                num_frames=num_frames,
                fps=scene.fps,
            )
        elif self.cues:
            num_planes = sum(CUE_PLANES[cue] for cue in self.cues)
            planes = np.zeros((num_frames, num_planes, *ids.shape[1:]), np.float32)
        if self.crop is not None:
            rows, columns = draw_window(rng, ids, self.crop)
            images, ids = images[:, rows, columns], ids[:, rows, columns]
            planes = None if planes is None else planes[:, :, rows, columns]
        if rng.random() < 0.5:
            images, ids = images[:, :, ::-1], ids[:, :, ::-1]
            planes = None if planes is None else mirrored_planes(planes, self.cues)
        masks, labels = instance_masks(
            ids, np.array([self._labels[actor.kind] for actor in scene.actors], np.int64)
        )
        return TrainingClip(
            images=np.ascontiguousarray(images),
            masks=masks,
            labels=labels,
            cues=None if planes is None else np.ascontiguousarray(planes),
        )
