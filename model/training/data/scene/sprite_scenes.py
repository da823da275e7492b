"""The sprites set, described: a seed gives a scene of flat shapes, every difficulty drawn on purpose.

Shape alone tells six of the classes: colour, texture, size and turn say nothing. Only time tells the other
four: they are two pairs that share look and speed, and one of each pair goes steadily on while the other goes
to and fro. Twins share everything and cross. Decoys are copies that never move and are ignored.
Source: ours.

Lengths are pixels, x to the right and y down, the first pixel covering 0..1; angles are clockwise radians.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from model.class_lists import categories
from model.training.data.scene.scenes import Look
from model.training.data.scene.values import draw_seed, rounded

__all__ = [
    "CLASSES",
    "DECOY",
    "MOTION_PAIRS",
    "Corruption",
    "SpriteActor",
    "SpriteScene",
    "draw_sprite_scene",
    "sprite_position",
    "sprite_turn",
]

Rng = np.random.Generator

RENDERER = 1
"""Part of every description: goes up when the same description renders to other pixels."""

CLASSES = tuple(category.name for category in categories("sprites"))
"""By label. A class of a motion pair shows the shape after its last underscore, the others their name's."""
MOTION_PAIRS = (("gliding_disc", "swinging_disc"), ("spinning_propeller", "rocking_propeller"))
"""Same look, told apart by motion: steadily on, and to and fro at the same mean speed."""
DECOY = -1
"""Label of a still copy that is ignored."""
BACKDROPS = ("plain", "noise", "leaves")
CORRUPTIONS = ("noise", "black", "blocks")

_ROWS = 192
"""Sizes are those in a picture of so many rows, and grow with it."""
_SMALLEST, _LARGEST = 16.0, 160.0
_USUAL = 72.0
"""Most sprites that do not zoom are below it."""
_HIDDEN_FRAMES = (3, 8)
_FPS = 10.0


@dataclass(frozen=True)
class SpriteActor:
    """A shape and its way.

    position(s) = (x, y) + velocity · (s − when) + swing · sin(2π · swing_rate · s + swing_phase)
    turn(s)     = angle + spin · s + rock · sin(2π · rock_rate · s + rock_phase)
    size(frame) = size · (end_size / size)^(frame / (num_frames − 1))
    """

    label: int
    """Index into CLASSES, or DECOY."""
    shape: str
    seed: int
    """Of colours and texture."""
    size: float
    """Diameter of the circle around it in the first frame."""
    end_size: float
    """The same in the last frame."""
    x: float
    y: float
    when: float = 0.0
    """Seconds."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Pixels a second, (x, y)."""
    swing: tuple[float, float] = (0.0, 0.0)
    swing_rate: float = 0.0
    """Hertz."""
    swing_phase: float = 0.0
    angle: float = 0.0
    spin: float = 0.0
    """Radians a second."""
    rock: float = 0.0
    rock_rate: float = 0.0
    """Hertz."""
    rock_phase: float = 0.0
    hidden: tuple[int, ...] = ()
    """Frames in which it is gone."""


@dataclass(frozen=True)
class Corruption:
    """A frame that is lost: what it showed is still there before, during and after."""

    frame: int
    kind: str
    seed: int


@dataclass(frozen=True)
class SpriteScene:
    """A video of `num_frames` frames of height × width pixels."""

    seed: int
    height: int
    width: int
    num_frames: int
    fps: float
    backdrop: str
    backdrop_seed: int
    look: Look
    actors: tuple[SpriteActor, ...]
    """The lowest first."""
    corruptions: tuple[Corruption, ...] = ()
    renderer: int = field(default=RENDERER)

    def __post_init__(self) -> None:
        if self.renderer != RENDERER:
            raise ValueError(
                f"scene was described for renderer {self.renderer}, this is {RENDERER}: draw the set again"
            )
        if self.backdrop not in BACKDROPS:
            raise ValueError(f"backdrop must be one of {BACKDROPS}, got {self.backdrop!r}")
        for corruption in self.corruptions:
            if corruption.kind not in CORRUPTIONS:
                raise ValueError(f"corruption kind must be one of {CORRUPTIONS}, got {corruption!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return asdict(self)

    def sha256(self) -> str:
        """Hash of the canonical JSON text: the name of this video."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def sprite_position(actor: SpriteActor, seconds: float) -> tuple[float, float]:
    """Middle of the sprite, (x, y)."""
    wave = math.sin(2 * math.pi * actor.swing_rate * seconds + actor.swing_phase)
    since = seconds - actor.when
    return (
        actor.x + actor.velocity[0] * since + actor.swing[0] * wave,
        actor.y + actor.velocity[1] * since + actor.swing[1] * wave,
    )


def sprite_turn(actor: SpriteActor, seconds: float) -> float:
    """Clockwise radians."""
    wave = math.sin(2 * math.pi * actor.rock_rate * seconds + actor.rock_phase)
    return actor.angle + actor.spin * seconds + actor.rock * wave


def draw_sprite_scene(
    seed: int, *, height: int = 192, width: int = 320, num_frames: int = 40, fps: float = _FPS
) -> SpriteScene:
    """The scene of a seed.

    Raises ValueError for fewer frames than a disappearance needs around it.
    """
    if num_frames < 2 * _HIDDEN_FRAMES[1]:
        raise ValueError(f"num_frames={num_frames} must be at least {2 * _HIDDEN_FRAMES[1]}")
    rng = np.random.default_rng(seed)
    cast = _Cast(rng, height=height, width=width, num_frames=num_frames, fps=fps)
    return SpriteScene(
        seed=seed,
        height=height,
        width=width,
        num_frames=num_frames,
        fps=fps,
        backdrop=str(rng.choice(BACKDROPS, p=[0.3, 0.4, 0.3])),
        backdrop_seed=draw_seed(rng),
        look=Look(
            blur=rounded(rng.uniform(0.2, 0.6) * height / _ROWS),
            noise=rounded(rng.uniform(0.5, 6.0)) if rng.random() < 0.5 else 0.0,
            gain=rounded(rng.uniform(0.8, 1.15)),
        ),
        actors=cast.draw(),
        corruptions=_draw_corruptions(rng, num_frames),
    )


def _draw_corruptions(rng: Rng, num_frames: int) -> tuple[Corruption, ...]:
    """In every third scene one or two single frames, never the first and never two in a row."""
    if rng.random() >= 1 / 3:
        return ()
    frames = sorted(rng.choice(np.arange(1, num_frames, 2), int(rng.integers(1, 3)), replace=False).tolist())
    return tuple(Corruption(frame, str(rng.choice(CORRUPTIONS)), draw_seed(rng)) for frame in frames)


class _Cast:
    """The sprites of one scene while they are drawn."""

    def __init__(self, rng: Rng, *, height: int, width: int, num_frames: int, fps: float) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.num_frames, self.seconds = num_frames, num_frames / fps
        self.unit = height / _ROWS

    def draw(self) -> tuple[SpriteActor, ...]:
        """The sprites in random order of depth."""
        rng = self.rng
        actors = [self._actor(int(rng.integers(len(CLASSES)))) for _ in range(int(rng.integers(2, 6)))]
        if rng.random() < 0.3:
            actors.append(self._zoomed(actors.pop()))
        if rng.random() < 0.35:
            actors += self._twins()
        actors = [self._with_disappearance(actor) for actor in actors]
        if rng.random() < 0.5:
            for _ in range(int(rng.integers(1, 4))):
                actors.append(self._decoy(actors))
        return tuple(actors[place] for place in rng.permutation(len(actors)))

    def _actor(self, label: int) -> SpriteActor:
        rng = self.rng
        size = self._size(_USUAL)
        name = CLASSES[label]
        actor = SpriteActor(
            label=label,
            shape=name.rsplit("_", 1)[-1],
            seed=draw_seed(rng),
            size=size,
            end_size=size,
            x=rounded(rng.uniform(0.05, 0.95) * self.width),
            y=rounded(rng.uniform(0.05, 0.95) * self.height),
            when=rounded(rng.uniform(0, self.seconds)),
            angle=rounded(rng.uniform(0, 2 * math.pi)),
        )
        # What the class does not say is drawn for all alike, so that it says nothing about the class.
        to_and_fro = rng.random(2) < 0.5
        moves = (name == "swinging_disc") if name.endswith("_disc") else bool(to_and_fro[0])
        turns = (name == "rocking_propeller") if name.endswith("_propeller") else bool(to_and_fro[1])
        return self._turning(self._moving(actor, to_and_fro=moves), to_and_fro=turns)

    def _moving(self, actor: SpriteActor, *, to_and_fro: bool) -> SpriteActor:
        rng = self.rng
        speed = actor.size * rng.uniform(0.9, 2.0)
        course = rng.uniform(0, 2 * math.pi)
        along = (math.cos(course), math.sin(course))
        if not to_and_fro:
            return replace(actor, velocity=(rounded(speed * along[0]), rounded(speed * along[1])))
        rate = rounded(rng.uniform(1.2, 2.0))
        reach = speed / (4 * rate)  # a sine of that amplitude has the same mean speed
        return replace(
            actor,
            swing=(rounded(reach * along[0]), rounded(reach * along[1])),
            swing_rate=rate,
            swing_phase=rounded(rng.uniform(0, 2 * math.pi)),
        )

    def _turning(self, actor: SpriteActor, *, to_and_fro: bool) -> SpriteActor:
        rng = self.rng
        spin = rng.uniform(2.0, 4.0)
        if not to_and_fro:
            return replace(actor, spin=rounded(spin * rng.choice([-1.0, 1.0])))
        rate = rounded(rng.uniform(1.2, 2.0))
        return replace(
            actor,
            rock=rounded(spin / (4 * rate)),
            rock_rate=rate,
            rock_phase=rounded(rng.uniform(0, 2 * math.pi)),
        )

    def _zoomed(self, actor: SpriteActor) -> SpriteActor:
        """From smallest to largest or back, in view for the whole video; its motion stays of its kind."""
        sizes = (rounded(_SMALLEST * self.unit), rounded(_LARGEST * self.unit))
        if self.rng.random() < 0.5:
            sizes = (sizes[1], sizes[0])
        return replace(
            actor,
            size=sizes[0],
            end_size=sizes[1],
            x=rounded(self.rng.uniform(0.35, 0.65) * self.width),
            y=rounded(self.rng.uniform(0.35, 0.65) * self.height),
            when=rounded(self.seconds / 2),
            velocity=(rounded(0.4 * actor.velocity[0]), rounded(0.4 * actor.velocity[1])),
        )

    def _twins(self) -> list[SpriteActor]:
        """Two sprites that no frame tells apart; they meet around mid-video and go straight on."""
        rng = self.rng
        one = self._moving(self._actor(CLASSES.index("gliding_disc")), to_and_fro=False)
        if rng.random() < 0.7:
            label = int(rng.integers(CLASSES.index("gliding_disc")))
            one = replace(one, label=label, shape=CLASSES[label])
        one = replace(
            one,
            x=rounded(rng.uniform(0.3, 0.7) * self.width),
            y=rounded(rng.uniform(0.3, 0.7) * self.height),
            when=rounded(rng.uniform(0.35, 0.65) * self.seconds),
        )
        angle = rng.uniform(math.pi / 3, math.pi) * rng.choice([-1.0, 1.0])
        cosine, sine = math.cos(angle), math.sin(angle)
        x, y = one.velocity
        aside = rng.uniform(-0.3, 0.3) * one.size
        other = replace(
            one,
            x=rounded(one.x + aside),
            y=rounded(one.y - aside),
            velocity=(rounded(x * cosine - y * sine), rounded(x * sine + y * cosine)),
        )
        return [one, other]

    def _with_disappearance(self, actor: SpriteActor) -> SpriteActor:
        """One in four is gone for a few frames, neither the first nor the last ones."""
        rng = self.rng
        if rng.random() >= 0.25:
            return actor
        count = int(rng.integers(_HIDDEN_FRAMES[0], _HIDDEN_FRAMES[1] + 1))
        first = int(rng.integers(3, self.num_frames - count - 2))
        return replace(actor, hidden=tuple(range(first, first + count)))

    def _decoy(self, actors: Sequence[SpriteActor]) -> SpriteActor:
        """A copy of one of them, of a usual size, somewhere else."""
        rng = self.rng
        model = actors[int(rng.integers(len(actors)))]
        size = model.size if model.size == model.end_size else self._size(_USUAL)
        return SpriteActor(
            label=DECOY,
            shape=model.shape,
            seed=model.seed,
            size=size,
            end_size=size,
            x=rounded(rng.uniform(0.05, 0.95) * self.width),
            y=rounded(rng.uniform(0.05, 0.95) * self.height),
            angle=rounded(rng.uniform(0, 2 * math.pi)),
        )

    def _size(self, largest: float) -> float:
        """Even in the logarithm."""
        return rounded(math.exp(self.rng.uniform(math.log(_SMALLEST), math.log(largest))) * self.unit)
