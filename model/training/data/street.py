"""The street set: a seed gives a scene as a street camera sees it; StreetClips cuts training clips out of them.

Chances and ranges are set so that rendered clips share the statistics of surveillance footage: people mostly dark
and 12-160 pixels tall at 192 × 320, growing towards the camera; most cameras still; light, noise and compression
of cheap sensors. Source: ours.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.config import CUE_PLANES
from model.cues import clip_cues
from model.training.data.backgrounds import list_photos
from model.training.data.clip import TrainingClip
from model.training.data.render import SceneRenderer
from model.training.data.scenes import Actor, Backdrop, Camera, Clutter, Light, Look, Scene, View

__all__ = ["StreetClips", "draw_scene"]

Rng = np.random.Generator

_PERSON_METRES = 1.7
_LEAST_PIXELS, _MOST_PIXELS = 12.0, 160.0
"""Heights of people at a picture 192 rows high; they grow with the picture."""
_ROWS = 192
_FPS = (5.0, 6.0, 7.5, 8.0, 10.0, 10.0, 10.0, 12.0)
_CUE_DROPPED = 0.15
"""Part of the clips whose cue planes are zeros."""
_MIN_VISIBLE = 12
"""An instance with fewer visible pixels than this in every frame of a clip is left out."""


def draw_scene(
    seed: int,
    *,
    height: int = 192,
    width: int = 320,
    num_frames: int = 48,
    fps: float | None = None,
    photos: tuple[str, ...] = (),
) -> Scene:
    """The street scene of a seed. `photos` are the names of photographs that backgrounds may show."""
    rng = np.random.default_rng(seed)
    rate = float(rng.choice(_FPS)) if fps is None else fps
    duration = num_frames / rate
    view = _draw_view(rng, height, width)
    night = float(_round(rng.uniform(0.3, 0.8))) if rng.random() < 0.08 else 0.0
    far, near = _ground_range(view, height)
    depth = math.sqrt(far * near)
    kind = str(rng.choice(["street", "leaves", "noise", "photo"], p=[0.72, 0.09, 0.07, 0.12]))
    photo = str(rng.choice(photos)) if photos else ""
    if kind == "photo" and not photo:
        kind = "street"
    road = _round(float(rng.choice([0.0, rng.uniform(-0.35, 0.35), math.pi / 2 + rng.uniform(-0.35, 0.35)])))
    backdrop = Backdrop(
        kind=kind,
        seed=_seed(rng),
        road_angle=road,
        road_offset=_round(rng.uniform(-0.35, 0.5) * depth),
        road_width=_round(rng.uniform(3.5, 12.0)),
        depth=_round(depth),
        photo=photo if kind == "photo" else "",
    )
    crowd = _Crowd(rng, view=view, height=height, width=width, duration=duration, road=road, depth=depth)
    crowd.fill()
    return Scene(
        seed=seed,
        height=height,
        width=width,
        num_frames=num_frames,
        fps=rate,
        view=view,
        camera=_draw_camera(rng, height),
        backdrop=backdrop,
        light=_draw_light(rng, night, duration),
        look=_draw_look(rng, night, height),
        actors=tuple(crowd.actors),
        clutter=_draw_clutter(rng, crowd),
    )


def _round(value: float) -> float:
    """Descriptions carry four decimals, so that no platform's last bits reach their hash."""
    return round(float(value), 4)


def _seed(rng: Rng) -> int:
    return int(rng.integers(0, 2**31))


def _draw_view(rng: Rng, height: int, width: int) -> View:
    draw = rng.random()
    if draw < 0.38:  # a camera on a wall
        horizon, up = rng.uniform(0.1, 0.45), rng.uniform(2.0, 4.0)
    elif draw < 0.70:  # on a mast, looking down
        horizon, up = rng.uniform(-0.7, 0.2), rng.uniform(3.5, 8.0)
    elif draw < 0.82:  # on a roof
        horizon, up = rng.uniform(-1.8, -0.2), rng.uniform(8.0, 18.0)
    else:  # in somebody's hand
        horizon, up = rng.uniform(0.3, 0.55), rng.uniform(1.3, 1.9)
    return View(
        horizon=_round(horizon * height),
        camera_height=_round(up),
        focal=_round(rng.uniform(0.8, 2.2) * width),
    )


def _ground_range(view: View, height: int) -> tuple[float, float]:
    """Distances to the far and near end of where people are drawn."""
    unit = view.camera_height / _PERSON_METRES * height / _ROWS
    least = max(_LEAST_PIXELS * unit, 0.08 * height - view.horizon)
    most = max(
        least * 1.2,
        min(_MOST_PIXELS * unit, (1.5 if view.camera_height < 2 else 1.08) * height - view.horizon),
    )
    reach = view.camera_height * view.focal
    return reach / least, reach / most


class _Crowd:
    """Draws the actors of one scene and keeps them on the ground in view."""

    def __init__(
        self, rng: Rng, *, view: View, height: int, width: int, duration: float, road: float, depth: float
    ) -> None:
        self.rng, self.view, self.height, self.width = rng, view, height, width
        self.duration, self.road, self.depth = duration, road, depth
        self.far, self.near = _ground_range(view, height)
        self.actors: list[Actor] = []

    def fill(self) -> None:
        """Draw everybody."""
        rng = self.rng
        if rng.random() < 0.015:
            return
        wanted = int(min(16, 1 + rng.poisson(float(rng.choice([2.0, 5.0, 9.0])))))
        theme = rng.dirichlet((3.5, 1.0, 1.6, 0.45, 0.6))
        while len(self.actors) < wanted:
            group = str(rng.choice(["walker", "rider", "vehicle", "animal", "blob"], p=theme))
            if group == "walker":
                self._walkers()
            elif group == "rider":
                self._add(
                    "scooter" if rng.random() < 0.2 else "cyclist",
                    rng.uniform(1.55, 1.95),
                    (2.0, 6.5),
                    along=0.7,
                )
            elif group == "vehicle":
                self._vehicle()
            elif group == "animal":
                self._add(
                    "animal", rng.choice([0.35, 0.5, 0.7, 1.5]) * rng.uniform(0.8, 1.2), (0.4, 3.0), along=0.4
                )
            else:
                self._add("blob", rng.uniform(0.4, 2.2), (0.2, 3.5), along=0.3)

    def _walkers(self) -> None:
        """Somebody alone, side by side with others, or crossing somebody's way."""
        rng = self.rng
        child = rng.random() < 0.12
        tall = rng.uniform(1.0, 1.45) if child else rng.normal(1.72, 0.09)
        running = rng.random() < 0.08
        speeds = (2.4, 4.2) if running else (0.7, 1.8)
        draw = rng.random()
        if draw < 0.14:
            self._standing("walker", tall)
            return
        first = self._add("walker", tall, speeds, along=0.6)
        if draw < 0.42:
            gap = rng.uniform(0.45, 0.8)
            for step in range(1, int(rng.integers(2, 4))):
                self._beside(first, gap * step * (1 if rng.random() < 0.5 else -1), rng.uniform(-0.4, 0.4))
        elif draw < 0.6:
            self._crossing(first, speeds)

    def _vehicle(self) -> None:
        rng = self.rng
        kind = str(rng.choice(["car", "van", "bus", "truck"], p=[0.68, 0.16, 0.07, 0.09]))
        low, high = {"car": (1.35, 1.75), "van": (1.9, 2.5), "bus": (2.8, 3.2), "truck": (2.4, 3.6)}[kind]
        tall = rng.uniform(low, high)
        if rng.random() < 0.12:
            self._standing(kind, tall)
        else:
            self._add(kind, tall, (1.5, 11.0), along=0.92)

    def _anchor(self, metres: float) -> tuple[float, float]:
        """A place on the ground in view; sizes in the picture spread evenly in their logarithm."""
        rng = self.rng
        low = self.near * (1.0 if metres < 2 else 1.25)
        z = math.exp(rng.uniform(math.log(min(low, 0.9 * self.far)), math.log(self.far)))
        x = rng.uniform(-0.53, 0.53) * self.width * z / self.view.focal
        return x, z

    def _standing(self, kind: str, metres: float) -> None:
        rng = self.rng
        x, z = self._anchor(metres)
        yaw = rng.uniform(-math.pi, math.pi) if kind == "walker" else self.road + math.pi * rng.integers(0, 2)
        self._keep(kind, metres, [0.0], [x], [z], yaw=float(yaw))

    def _add(self, kind: str, metres: float, speeds: tuple[float, float], *, along: float) -> Actor:
        """Somebody who passes a place in view at a time of the scene; `along` is the chance to follow the road."""
        rng = self.rng
        x, z = self._anchor(metres)
        heading = self.road + math.pi * int(rng.integers(0, 2)) + rng.normal(0, 0.06)
        if rng.random() > along:
            heading = rng.uniform(-math.pi, math.pi)
        speed = rng.uniform(*speeds)
        # nothing crosses the picture faster than in a second and a bit
        fastest = 0.8 * self.width * z / self.view.focal
        return self._walk(kind, metres, (x, z), heading, min(speed, fastest), rng.uniform(0, self.duration))

    def _walk(
        self, kind: str, metres: float, place: tuple[float, float], heading: float, speed: float, when: float
    ) -> Actor:
        """Waypoints through `place` at `when`, with turns and pauses before and after it."""
        rng = self.rng
        nimble = kind in ("walker", "animal", "blob")
        times, xs, zs = [when], [place[0]], [place[1]]
        for direction in (1, -1):
            t, x, z, course = when, *place, heading
            end = self.duration + 1.0 if direction > 0 else -1.0
            while (end - t) * direction > 1e-6:
                step = min(abs(end - t), rng.uniform(1.0, 4.5))
                pace = speed * rng.uniform(0.85, 1.15)
                draw = rng.random()
                if draw < (0.2 if nimble else 0.12):
                    pace, step = 0.0, min(abs(end - t), rng.uniform(0.8, 3.5))
                elif draw < (0.42 if nimble else 0.18):
                    course += rng.normal(0, 0.9 if nimble else 0.35)
                z_step = pace * step * direction * math.sin(course)
                if not 0.55 * self.near < z + z_step < 1.6 * self.far:
                    course, z_step = -course, -z_step
                if not 0.55 * self.near < z + z_step < 1.6 * self.far:
                    course, z_step = (0.0 if math.cos(course) >= 0 else math.pi), 0.0
                x, z, t = x + pace * step * direction * math.cos(course), z + z_step, t + step * direction
                for values, value in ((times, t), (xs, x), (zs, z)):
                    values.insert(len(values) if direction > 0 else 0, value)
        return self._keep(kind, metres, times, xs, zs, yaw=heading)

    def _beside(self, other: Actor, lateral: float, ahead: float) -> None:
        """Somebody who walks next to another: a separate instance on a parallel way."""
        rng = self.rng
        dx, dz = other.xs[-1] - other.xs[0], other.zs[-1] - other.zs[0]
        length = math.hypot(dx, dz)
        ux, uz = (dx / length, dz / length) if length > 0.1 else (1.0, 0.0)
        self._keep(
            "walker",
            rng.normal(1.7, 0.1) if rng.random() < 0.85 else rng.uniform(1.0, 1.4),
            list(other.times),
            [x - uz * lateral + ux * ahead for x in other.xs],
            [z + ux * lateral + uz * ahead for z in other.zs],
            yaw=other.yaw + rng.normal(0, 0.3),
        )

    def _crossing(self, other: Actor, speeds: tuple[float, float]) -> None:
        """Somebody who comes the other way and passes close to where the other is at that time."""
        rng = self.rng
        when = rng.uniform(0.25, 0.75) * self.duration
        x = float(np.interp(when, other.times, other.xs))
        z = float(np.interp(when, other.times, other.zs)) + rng.normal(0, 0.7)
        if 0.5 * self.near < z < 1.6 * self.far:
            heading = (
                math.atan2(other.zs[-1] - other.zs[0], other.xs[-1] - other.xs[0])
                + math.pi
                + rng.normal(0, 0.4)
            )
            self._walk("walker", rng.normal(1.7, 0.1), (x, z), heading, rng.uniform(*speeds), when)

    def _keep(
        self, kind: str, metres: float, times: list[float], xs: list[float], zs: list[float], *, yaw: float
    ) -> Actor:
        actor = Actor(
            kind=kind,
            seed=_seed(self.rng),
            height=_round(metres),
            times=tuple(_round(t) for t in times),
            xs=tuple(_round(x) for x in xs),
            zs=tuple(_round(z) for z in zs),
            yaw=_round(yaw),
        )
        self.actors.append(actor)
        return actor


def _draw_clutter(rng: Rng, crowd: _Crowd) -> tuple[Clutter, ...]:
    things = []
    for _ in range(int(rng.choice([0, 1, 2, 4, 7], p=[0.25, 0.2, 0.25, 0.2, 0.1]))):
        kind = str(
            rng.choice(
                ["pole", "tree", "fence", "sign", "bin", "bush", "bollard"],
                p=[0.27, 0.17, 0.1, 0.12, 0.12, 0.12, 0.1],
            )
        )
        low, high = {
            "pole": (3, 9),
            "tree": (3, 9),
            "fence": (0.8, 1.6),
            "sign": (1.8, 3.2),
            "bin": (0.7, 1.3),
            "bush": (0.5, 1.8),
            "bollard": (0.6, 1.1),
        }[kind]
        x, z = crowd._anchor(1.7)
        things.append(
            Clutter(
                kind=kind,
                seed=_seed(rng),
                x=_round(x),
                z=_round(z * rng.uniform(0.8, 1.3)),
                height=_round(rng.uniform(low, high)),
            )
        )
    return tuple(things)


def _draw_camera(rng: Rng, height: int) -> Camera:
    phases = tuple(_round(value) for value in rng.uniform(0, 2 * math.pi, 6))
    draw, unit = rng.random(), height / _ROWS
    if draw < 0.52:
        return Camera(phases=phases)
    if draw < 0.62:  # a mast in the wind
        return Camera(
            jitter=_round(rng.uniform(0.15, 0.9) * unit),
            jitter_rate=_round(rng.uniform(0.5, 2.0)),
            phases=phases,
        )
    if draw < 0.76:
        return Camera(
            pan=(_round(rng.uniform(15, 110) * unit), _round(rng.uniform(-12, 12) * unit)),
            pan_rate=_round(rng.uniform(0.15, 0.8)),
            pan_phase=phases[4],
            phases=phases,
            jitter=_round(rng.uniform(0, 0.6) * unit),
            jitter_rate=1.0,
        )
    if draw < 0.84:
        return Camera(
            zoom=_round(rng.uniform(1.0, 1.15)),
            zoom_amplitude=_round(rng.uniform(0.03, 0.2)),
            zoom_rate=_round(rng.uniform(0.15, 0.7)),
            phases=phases,
            pan=(_round(rng.uniform(0, 20) * unit), 0.0),
            pan_rate=_round(rng.uniform(0.1, 0.5)),
            pan_phase=phases[4],
        )
    return Camera(
        jitter=_round(rng.uniform(0.8, 4.5) * unit),
        jitter_rate=_round(rng.uniform(0.3, 1.0)),
        roll=_round(rng.uniform(0, 0.015)),
        phases=phases,
        zoom=_round(rng.uniform(1.0, 1.08)),
        pan=(_round(rng.uniform(0, 50) * unit), 0.0),
        pan_rate=_round(rng.uniform(0.1, 0.5)),
        pan_phase=phases[4],
    )


def _draw_light(rng: Rng, night: float, duration: float) -> Light:
    sunny = rng.random() < 0.45 and not night
    return Light(
        sun=(_round(rng.uniform(-1.6, 1.6)), _round(rng.uniform(-1.2, 1.2))),
        shadow=_round(rng.uniform(0.12, 0.6)) if sunny else 0.0,
        contact=_round(rng.uniform(0.1, 0.5)),
        softness=_round(rng.uniform(0.02, 0.15)),
        night=night,
        flicker=_round(rng.uniform(0.0, 0.04)) if rng.random() < 0.3 else 0.0,
        flicker_rate=_round(rng.uniform(0.1, 3.0)),
        step_seconds=_round(rng.uniform(0, duration)) if rng.random() < 0.07 else -1.0,
        step_gain=_round(rng.uniform(0.7, 1.35)),
        cloud=_round(rng.uniform(0.05, 0.35)) if rng.random() < 0.12 else 0.0,
        cloud_seed=_seed(rng),
    )


def _draw_look(rng: Rng, night: float, height: int) -> Look:
    draw = rng.random()
    saturation = 0.0 if draw < 0.07 else rng.uniform(0.25, 0.8) if draw < 0.55 else rng.uniform(0.8, 1.25)
    warm, green = rng.normal(0, 0.07), rng.normal(0, 0.03)
    noise = float(
        rng.choice([rng.uniform(0, 2), rng.uniform(1, 5), rng.uniform(4, 12)], p=[0.55, 0.33, 0.12])
    )
    return Look(
        gain=_round(rng.uniform(0.75, 1.2)),
        contrast=_round(rng.uniform(0.65, 1.2)),
        gamma=_round(math.exp(rng.normal(0, 0.22))),
        black=_round(rng.uniform(-0.03, 0.06)),
        balance=(_round(1 + warm), _round(1 - abs(warm) / 3 + green), _round(1 - warm)),
        saturation=_round(saturation),
        blur=_round(
            rng.choice([rng.uniform(0.2, 0.7), rng.uniform(0.6, 1.3)], p=[0.7, 0.3]) * height / _ROWS
        ),
        sharpen=_round(rng.uniform(0.2, 0.9)) if rng.random() < 0.25 else 0.0,
        noise=_round(noise * (1.6 if night else 1.0)),
        grain=int(rng.integers(0, 3)),
        shutter=_round(rng.uniform(0.05, 0.9)),
        vignette=_round(rng.uniform(0.1, 0.5)) if rng.random() < 0.2 else 0.0,
        jpeg_quality=int(rng.integers(28, 96)) if rng.random() < 0.65 else 0,
        overlay=str(rng.choice(["CAM 1", "2026-05-17", "Ch03"])) if rng.random() < 0.12 else "",
        overlay_corner=int(rng.integers(0, 4)),
    )


class StreetClips:
    """Clip source of street scenes: clip `index` is cut out of a scene of its own.

    `cues` names the planes of model.cues that each clip carries; 15 % of the clips carry zeros instead. `crop`
    (h, w) cuts the same window out of all frames, mostly one with somebody in it; sizes stay those of
    height × width. `photos` is a folder of photographs that some backgrounds show; None renders without.
    Raises ValueError where the crop is larger than the picture.
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
    ) -> None:
        if crop is not None and not (0 < crop[0] <= height and 0 < crop[1] <= width):
            raise ValueError(f"crop {crop} must fit into the picture {(height, width)}")
        self.seed, self.height, self.width = seed, height, width
        self.cues, self.crop, self.photos = cues, crop, photos
        self._names = list_photos(photos) if photos is not None else ()

    def scene(self, index: int, *, num_frames: int = 48) -> Scene:
        """The scene that clip `index` is cut out of."""
        entropy = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        return draw_scene(
            int(entropy >> np.uint64(1)),
            height=self.height,
            width=self.width,
            num_frames=num_frames,
            photos=self._names,
        )

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        scene = self.scene(index, num_frames=max(48, num_frames))
        rng = np.random.default_rng((self.seed, index, 1))
        renderer = SceneRenderer(scene, photos=self.photos)
        last = scene.num_frames - num_frames
        warm = min(last, math.ceil(1.1 * scene.fps))
        start = int(rng.integers(0, last + 1)) if rng.random() < 0.12 else int(rng.integers(warm, last + 1))
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
            rows, columns = _draw_crop(rng, ids, self.crop)
            images, ids = images[:, rows, columns], ids[:, rows, columns]
            planes = None if planes is None else planes[:, :, rows, columns]
        if rng.random() < 0.5:
            images, ids = images[:, :, ::-1], ids[:, :, ::-1]
            planes = None if planes is None else _mirrored(planes, self.cues)
        masks, labels = _instances(ids, scene)
        return TrainingClip(
            images=np.ascontiguousarray(images),
            masks=masks,
            labels=labels,
            cues=None if planes is None else np.ascontiguousarray(planes),
        )


def _mirrored(planes: NDArray[np.float32], cues: tuple[str, ...]) -> NDArray[np.float32]:
    """The planes (T, R, H, W) of the mirrored frames: flow to the right becomes flow to the left."""
    signs: list[float] = []
    for cue in cues:
        signs += [-1.0, 1.0] if cue == "flow" else [1.0] * CUE_PLANES[cue]
    return planes[..., ::-1] * np.array(signs, np.float32)[:, None, None]


def _draw_crop(rng: Rng, ids: NDArray[np.uint16], crop: tuple[int, int]) -> tuple[slice, slice]:
    """A window around a random visible pixel of a random instance; anywhere where there is none or by chance."""
    height, width = ids.shape[1:]
    top, left = int(rng.integers(0, height - crop[0] + 1)), int(rng.integers(0, width - crop[1] + 1))
    present = np.unique(ids)
    present = present[present > 0]
    if len(present) and rng.random() < 0.93:
        places = np.argwhere(ids == rng.choice(present))
        _, row, column = places[int(rng.integers(0, len(places)))]
        top = int(np.clip(row - rng.uniform(0.2, 0.8) * crop[0], 0, height - crop[0]))
        left = int(np.clip(column - rng.uniform(0.2, 0.8) * crop[1], 0, width - crop[1]))
    return slice(top, top + crop[0]), slice(left, left + crop[1])


def _instances(ids: NDArray[np.uint16], scene: Scene) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(N, T, H, W) masks and (N,) labels of those with enough visible pixels in some frame."""
    kept = [
        identity
        for identity in np.unique(ids)
        if identity > 0 and int((ids == identity).sum(axis=(1, 2)).max()) >= _MIN_VISIBLE
    ]
    masks = np.stack([ids == identity for identity in kept]) if kept else np.zeros((0, *ids.shape), bool)
    labels = np.array([scene.actors[int(identity) - 1].label for identity in kept], np.int64)
    return masks, labels
