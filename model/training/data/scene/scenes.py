"""Scene descriptions: everything a rendered video is made of, as frozen dataclasses that JSON can carry.

A description and a frame index determine the frame; nothing else does. Lengths on the ground are metres:
X to the right, Z away from the camera, up from the ground; pictures are pixels of the reference frame (the
still camera's), x to the right and y down. Source: ours; the pinhole over a ground plane is the usual one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

__all__ = ["Actor", "Backdrop", "Camera", "Clutter", "Light", "Look", "Scene", "View"]

RENDERER = 2
"""Part of every description: goes up when the same description renders to other pixels."""

ACTOR_KINDS = ("walker", "cyclist", "scooter", "car", "van", "bus", "truck", "animal", "blob")
BACKDROP_KINDS = ("street", "leaves", "noise", "photo")
CLUTTER_KINDS = ("pole", "tree", "fence", "sign", "bin", "bush", "bollard")


@dataclass(frozen=True)
class View:
    """The pinhole: y = horizon + (camera_height − up) · focal / Z, x = W/2 + X · focal / Z."""

    horizon: float
    """Row of the horizon; may lie above the picture."""
    camera_height: float
    """Metres."""
    focal: float
    """Pixels."""


@dataclass(frozen=True)
class Camera:
    """Movement of the picture over time, sums of sines so that any frame can be asked for alone."""

    pan: tuple[float, float] = (0.0, 0.0)
    """Amplitude of the pan in pixels, (x, y)."""
    pan_rate: float = 0.0
    """Radians per second."""
    pan_phase: float = 0.0
    zoom: float = 1.0
    zoom_amplitude: float = 0.0
    zoom_rate: float = 0.0
    jitter: float = 0.0
    """Amplitude of the shake in pixels."""
    jitter_rate: float = 0.0
    """Hertz of its slowest part."""
    roll: float = 0.0
    """Amplitude of the shake's roll in radians."""
    phases: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Backdrop:
    kind: str
    seed: int
    road_angle: float = 0.0
    """Heading of the road on the ground, radians from X towards Z."""
    road_offset: float = 0.0
    """Metres from the middle of the ground in view to the middle of the road."""
    road_width: float = 7.0
    depth: float = 12.0
    """Metres to the middle of the ground in view."""
    blur: float = 0.0
    """Gaussian sigma in pixels of a background out of focus."""
    photo: str = ""
    """File name in the folder of photographs, where kind is photo."""


@dataclass(frozen=True)
class Clutter:
    """A static thing that belongs to the scenery and may stand in front of actors."""

    kind: str
    seed: int
    x: float
    z: float
    height: float
    sway: float = 0.0
    """How far the wind bends its top, in parts of its height."""
    sway_rate: float = 0.0
    """Hertz."""
    sway_phase: float = 0.0


@dataclass(frozen=True)
class Actor:
    """An instance: what it looks like (kind, seed, height) and where it is (waypoints on the ground)."""

    kind: str
    seed: int
    height: float
    """Metres."""
    times: tuple[float, ...]
    xs: tuple[float, ...]
    zs: tuple[float, ...]
    yaw: float = 0.0
    """Heading while it has not moved yet, radians from X towards Z."""
    label: int = 0


@dataclass(frozen=True)
class Light:
    """Daylight, lamps and what changes about them."""

    sun: tuple[float, float] = (0.5, 0.5)
    """Ground length of the shadow of an upright metre, (X, Z)."""
    shadow: float = 0.0
    """How much a cast shadow darkens, 0 (overcast) to 0.7."""
    contact: float = 0.35
    """How much the ground is darkened right under a thing."""
    softness: float = 0.08
    """Blur of cast shadows in parts of the thing's height."""
    night: float = 0.0
    """0 by day; towards 1 only lamps light the picture."""
    flicker: float = 0.0
    flicker_rate: float = 0.0
    step_seconds: float = -1.0
    """When the light jumps to `step_gain` within a second; negative for never."""
    step_gain: float = 1.0
    cloud: float = 0.0
    """How much a passing cloud darkens."""
    cloud_seed: int = 0


@dataclass(frozen=True)
class Look:
    """Lens, sensor and file."""

    gain: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    black: float = 0.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    blur: float = 0.5
    """Gaussian sigma in pixels."""
    sharpen: float = 0.0
    noise: float = 2.0
    """Standard deviation in grey levels."""
    grain: int = 0
    """0 white noise, 1 and 2 coarser."""
    shutter: float = 0.5
    """Part of the frame interval that is exposed, at most 1/20 s."""
    vignette: float = 0.0
    jpeg_quality: int = 0
    """0 for none."""
    overlay: str = ""
    """Text in a corner; a running clock is put after it."""
    overlay_corner: int = 0


@dataclass(frozen=True)
class Scene:
    """A video of `num_frames` frames of height × width pixels."""

    seed: int
    height: int
    width: int
    num_frames: int
    fps: float
    view: View
    camera: Camera
    backdrop: Backdrop
    light: Light
    look: Look
    actors: tuple[Actor, ...]
    clutter: tuple[Clutter, ...] = ()
    renderer: int = field(default=RENDERER)

    def __post_init__(self) -> None:
        if self.renderer != RENDERER:
            raise ValueError(
                f"scene was described for renderer {self.renderer}, this is {RENDERER}: draw the set again"
            )
        for names, things, what in (
            (ACTOR_KINDS, self.actors, "actor"),
            (CLUTTER_KINDS, self.clutter, "clutter"),
            (BACKDROP_KINDS, (self.backdrop,), "backdrop"),
        ):
            for thing in things:
                if thing.kind not in names:
                    raise ValueError(f"{what} kind must be one of {names}, got {thing!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scene:
        """The inverse of `to_json`, also after a trip through text.

        Raises ValueError for an unknown or missing key, with its name, TypeError for what is no mapping.
        """
        scene: Scene = _from_json(cls, values, "scene")
        return scene

    def sha256(self) -> str:
        """Hash of the canonical JSON text: the name of this video."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


_LISTS: dict[str, Any] = {"actors": Actor, "clutter": Clutter}


def _from_json(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise TypeError(f"{where}: must be a mapping, got {values!r}")
    hints = get_type_hints(cls)
    names = {part.name for part in fields(cls)}
    if set(values) != names:
        raise ValueError(
            f"{where}: unknown keys {sorted(set(values) - names)}, missing keys {sorted(names - set(values))}"
        )
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name in _LISTS:
            made[name] = tuple(_from_json(_LISTS[name], part, f"{where}.{name}") for part in value)
        elif hasattr(hints[name], "__dataclass_fields__"):
            made[name] = _from_json(hints[name], value, f"{where}.{name}")
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)
