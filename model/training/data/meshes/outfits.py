"""People in clothes: what a seed wears, cut out of a body's mesh and its helpers, posed and coloured.

Source: ours; bodies after `bodies`. F faces, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.canvas import Colour
from model.training.data.draw.palette import any_colour, grey, hsv
from model.training.data.meshes import bodies
from model.training.data.meshes.bodies import BodyParts
from model.training.data.meshes.surfaces import Surface, vertex_normals

__all__ = ["Outfit", "Wardrobe", "draw_outfit"]

Floats = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What somebody wears; lengths as parts."""

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    second: Colour
    sleeves: float
    """0 none, 1 to the wrists."""
    legs: float
    """0 to the hips, 1 to the ankles."""
    skirt: float
    """0 none, otherwise how far down from the waist to the ground."""
    skirt_of_top: bool
    hem: float
    """How far the top hangs over the hips, in parts of the body."""
    loose_top: float
    loose_bottom: float
    long_hair: float
    bald: bool
    hat: bool
    backpack: bool
    handbag: bool
    stripes: int
    pattern: str


def draw_outfit(rng: Rng) -> Outfit:
    """What somebody wears."""
    tone = float(rng.uniform(0.25, 0.95))
    skin = hsv(rng.normal(0.06, 0.012), rng.uniform(0.32, 0.55), tone)
    hair = (
        hsv(rng.normal(0.08, 0.02), rng.uniform(0.2, 0.6), rng.uniform(0.04, 0.45))
        if rng.random() < 0.8
        else grey(rng, 70, 210)
    )
    skirt = float(rng.uniform(0.3, 0.95)) if rng.random() < 0.18 else 0.0
    coat = bool(rng.random() < 0.22)
    return Outfit(
        skin=skin,
        hair=hair,
        top=_cloth_colour(rng),
        bottom=_cloth_colour(rng),
        shoes=grey(rng, 10, 60) if rng.random() < 0.6 else _cloth_colour(rng),
        second=_cloth_colour(rng),
        sleeves=1.0 if rng.random() < 0.62 else float(rng.uniform(0.15, 0.5)),
        legs=1.0 if rng.random() < 0.75 else float(rng.uniform(0.3, 0.7)),
        skirt=float(rng.uniform(0.25, 0.6)) if coat else skirt,
        skirt_of_top=coat or bool(rng.random() < 0.5),
        hem=float(rng.uniform(-0.01, 0.07)),
        loose_top=float(rng.uniform(0.004, 0.035)),
        loose_bottom=float(rng.uniform(0.003, 0.03)),
        long_hair=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else 0.0,
        bald=bool(rng.random() < 0.08),
        hat=bool(rng.random() < 0.16),
        backpack=bool(rng.random() < 0.22),
        handbag=bool(rng.random() < 0.2),
        stripes=int(rng.integers(3, 12)) if rng.random() < 0.15 else 0,
        pattern=str(rng.choice(["plain", "plain", "plain", "check", "print", "panel"])),
    )


def _cloth_colour(rng: Rng) -> Colour:
    """Mostly greys, blues and browns, as people wear."""
    draw = rng.random()
    if draw < 0.45:
        return grey(rng, 12, 90) if rng.random() < 0.65 else grey(rng, 150, 240)
    if draw < 0.7:
        return hsv(rng.normal(0.6, 0.05), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.65))
    if draw < 0.85:
        return hsv(rng.normal(0.09, 0.03), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.75))
    return any_colour(rng)


class _Layer(NamedTuple):
    """Some faces of a group with their colours, blown up by so much along the normals."""

    group: str
    faces: NDArray[np.int64]
    colours: Floats
    loose: Floats
    """(V,) metres, or one for all."""
    closed: bool


class Wardrobe:
    """Chooses and colours the faces once; poses them often."""

    def __init__(self, parts: BodyParts, rest: Floats, outfit: Outfit, rng: Rng) -> None:
        self.parts, self.rest, self.outfit = parts, rest, outfit
        self._bone = np.array(parts.bones)[parts.weights.argmax(1)]
        self._tall = float(rest[parts.faces[bodies.BODY].ravel(), 1].max())
        self._waves = [
            (rng.normal(0, 1, 3) * rng.uniform(8, 45), rng.uniform(0, 6.28), rng.uniform(0.2, 1.0))
            for _ in range(10)
        ]
        self._layers = [*self._skin(), *self._clothes(), *self._extras()]

    def worn(self, turns: dict[str, Floats]) -> list[Surface]:
        """The surfaces to be seen of somebody with these turns of the bones."""
        points = bodies.posed(self.parts, self.rest, turns)
        found = []
        for layer in self._layers:
            own = points + vertex_normals(points, self.parts.faces[layer.group]) * layer.loose
            found.append(Surface(own, layer.faces, layer.colours, layer.closed))
        return found

    def _mean(self, faces: NDArray[np.int64]) -> Floats:
        return np.asarray(self.rest[faces].mean(1))

    def _of(self, faces: NDArray[np.int64], *names: str) -> NDArray[np.bool_]:
        bones = self._bone[faces[:, 0]]
        return np.isin(bones, [full for name in names for full in (name, f"{name}_l", f"{name}_r")])

    def _along(self, faces: NDArray[np.int64], start: str, end: str) -> Floats:
        """How far down from one bone to another the faces lie, 0 to 1, of either side."""
        where = self._mean(faces)
        found = np.empty(len(faces))
        for side, mask in (("l", where[:, 0] >= 0), ("r", where[:, 0] < 0)):
            first = self.rest[self.parts.joints[f"{start}_{side}"]].mean(0)
            axis = self.rest[self.parts.joints[f"{end}_{side}"]].mean(0) - first
            found[mask] = (where[mask] - first) @ axis / (axis @ axis)
        return found

    def _cloth(self, faces: NDArray[np.int64], colour: Colour, fold: float) -> Floats:
        where = self._mean(faces)
        waves = sum(strength * np.sin(where @ wave + shift) for wave, shift, strength in self._waves)
        return np.array(colour)[None] * (1 + fold * 0.25 * np.asarray(waves))[:, None]

    def _skin(self) -> list[_Layer]:
        faces, outfit = self.parts.faces[bodies.BODY], self.outfit
        head = self._of(faces, "head")
        arms = self._of(faces, "upperarm", "lowerarm", "clavicle")
        feet = self._of(faces, "foot", "ball")
        legs = self._of(faces, "thigh", "calf")
        trunk = self._of(faces, "pelvis", "spine_01", "spine_02", "spine_03")
        bare = ~(trunk | feet)
        bare &= ~(arms & (self._along(faces, "upperarm", "hand") < outfit.sleeves - 0.06))
        bare &= ~(legs & (self._along(faces, "thigh", "foot") < outfit.legs - 0.04))
        colours = self._cloth(faces, outfit.skin, 0.05)
        where = self._mean(faces)
        heads = where[head]
        low, top = heads[:, 1].min(), heads[:, 1].max()
        back, front = heads[:, 2].min(), heads[:, 2].max()
        upper, ahead = (where[:, 1] - low) / (top - low), (where[:, 2] - back) / (front - back)
        hairy = head & ((upper > 0.78 - 0.05 * ahead) | ((upper > 0.3) & (ahead < 0.45)))
        eyes = head & (upper > 0.47) & (upper < 0.6) & (ahead > 0.72)
        colours[eyes] *= 0.72
        if not outfit.bald:
            colours[hairy] = self._cloth(faces[hairy], outfit.hair, 0.3)
        if outfit.hat:
            worn = head & (upper > 0.72)
            colours[worn] = self._cloth(faces[worn], outfit.second, 0.1)
        loose = np.zeros((len(self.rest), 1))
        grown = np.unique(faces[hairy])
        if not outfit.bald:
            loose[grown] = 0.012
        if outfit.hat:
            loose[np.unique(faces[head & (upper > 0.72)])] = 0.022
        layers = [_Layer(bodies.BODY, faces[bare], colours[bare], loose, True)]
        shoe = self._cloth(faces[feet], outfit.shoes, 0.1)
        shoe[where[feet][:, 1] < 0.02] *= 0.5
        layers.append(_Layer(bodies.BODY, faces[feet], shoe, np.full((1, 1), 0.012), True))
        return layers

    def _clothes(self) -> list[_Layer]:
        faces, outfit, rest = self.parts.faces[bodies.TIGHTS], self.outfit, self.rest
        where = self._mean(faces)
        waist = rest[self.parts.joints["spine_01"]].mean(0)[1]
        arms = self._of(faces, "upperarm", "lowerarm", "hand")
        sleeve = arms & (self._along(faces, "upperarm", "hand") < outfit.sleeves)
        legs = self._of(faces, "thigh", "calf", "foot", "ball")
        down = self._along(faces, "thigh", "foot")
        neck = self._of(faces, "neck_01", "head")
        top = ~arms & ~neck & (where[:, 1] > waist - outfit.hem * self._tall)
        worn_top = top | sleeve
        bottom = ~top & ~arms & ~neck & (~legs | (down < outfit.legs))
        colours = self._pattern(faces, where)
        loose = np.full((len(rest), 1), outfit.loose_top)
        layers = [_Layer(bodies.TIGHTS, faces[worn_top], colours[worn_top], loose, False)]
        trousers = self._cloth(faces[bottom], outfit.bottom, 0.18)
        wide = np.full((len(rest), 1), outfit.loose_bottom)
        layers.append(_Layer(bodies.TIGHTS, faces[bottom], trousers, wide, False))
        if outfit.skirt:
            hanging = self.parts.faces[bodies.SKIRT]
            at = self._mean(hanging)[:, 1]
            span = at.max() - at.min()
            kept = hanging[at > at.max() - outfit.skirt * span]
            colour = outfit.top if outfit.skirt_of_top else outfit.second
            layers.append(
                _Layer(
                    bodies.SKIRT,
                    kept,
                    self._cloth(kept, colour, 0.22),
                    np.full((1, 1), outfit.loose_bottom + 0.025),
                    False,
                )
            )
        return layers

    def _pattern(self, faces: NDArray[np.int64], where: Floats) -> Floats:
        outfit = self.outfit
        colours = self._cloth(faces, outfit.top, 0.2)
        second = self._cloth(faces, outfit.second, 0.2)
        rows = where[:, 1] * 40 / max(1, outfit.stripes or 8)
        if outfit.stripes:
            chosen = (where[:, 1] * outfit.stripes * 4).astype(int) % 2 == 0
        elif outfit.pattern == "check":
            chosen = (np.floor(rows * 4) + np.floor(where[:, 0] * 20)).astype(int) % 2 == 0
        elif outfit.pattern == "print":
            chest = self.rest[self.parts.joints["spine_03"]].mean(0)
            chosen = (np.abs(where[:, 0]) < 0.1) & (np.abs(where[:, 1] - chest[1] - 0.05) < 0.1)
        elif outfit.pattern == "panel":
            chosen = np.abs(where[:, 0]) < 0.05
        else:
            chosen = np.zeros(len(faces), bool)
        colours[chosen] = second[chosen]
        return colours

    def _extras(self) -> list[_Layer]:
        outfit, layers = self.outfit, []
        flat = np.zeros((1, 1))
        if outfit.long_hair and not outfit.bald:
            faces = self.parts.faces[bodies.HAIR]
            at = self._mean(faces)
            span = at[:, 1].max() - at[:, 1].min()
            kept = faces[(at[:, 1] > at[:, 1].max() - max(0.3, outfit.long_hair) * span) & (at[:, 2] < 0.06)]
            if len(kept):
                layers.append(_Layer(bodies.HAIR, kept, self._cloth(kept, outfit.hair, 0.35), flat, False))
        for worn, name in ((outfit.backpack, bodies.BACKPACK), (outfit.handbag, bodies.HANDBAG)):
            if worn:
                faces = self.parts.faces[name]
                layers.append(_Layer(name, faces, self._cloth(faces, outfit.second, 0.15), flat, True))
        return layers
