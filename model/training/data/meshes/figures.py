"""Figures: people and cars as small pictures, every view and phase of a walk, rendered once for all scenes.

A figure is a file of sprites (`*.npz`): tilts × headings × phases, premultiplied RGBA as WebP. The right half
of the headings is kept; the left is its mirror half a step later. Source: ours; bodies after `bodies`.
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.training.data.draw.canvas import Sprite, crop_around, enlargement
from model.training.data.draw.palette import grey, hsv
from model.training.data.meshes import bodies
from model.training.data.meshes.cars import car_surfaces
from model.training.data.meshes.outfits import Wardrobe, draw_outfit
from model.training.data.meshes.surfaces import Light, Surface, view
from ops.files import written_whole

__all__ = [
    "Figure",
    "figure_sprite",
    "list_figures",
    "load_figure",
    "make_figure",
    "make_figures",
    "save_figure",
]

Bytes = NDArray[np.uint8]

_PHASES = 10
_FORMAT = 1
_QUALITY = 88


class Figure(NamedTuple):
    """A figure in memory: its sprites still packed."""

    metres: float
    """Height from the ground."""
    pixels_per_metre: float
    tilts: NDArray[np.float64]
    """Tangents of how far the camera looks down, one a set of views."""
    headings: int
    """Views from towards the camera over to the right to away from it; the left ones mirror them."""
    phases: int
    """Of a walk, in each view; one more picture stands. 0: only that."""
    data: Bytes
    starts: NDArray[np.int64]
    """(sprites + 1,) where each one's file starts in the data."""
    feet: NDArray[np.float32]
    """(sprites, 2) where the point on the ground below the body lies in the sprite, x and y in pixels."""


def make_figure(kind: str, seed: int, folder: Path | str | None = None) -> Figure:
    """Render the `walker` or `car` of a seed; `folder` as in `bodies.body_folder`.

    Raises ValueError for another kind, DatasetError where the meshes are missing.
    """
    if kind == "car":
        return _car(seed)
    if kind != "walker":
        raise ValueError(f"kind {kind!r} is not one of walker, car")
    return _person(seed, bodies.body_folder(folder))


def make_figures(
    output: Path | str,
    *,
    people: int,
    cars: int,
    seed: int = 0,
    folder: Path | str | None = None,
    workers: int = 1,
) -> int:
    """Make those figures from `seed` on that a folder lacks; return how many were made.

    A person takes about five seconds of a core and half a megabyte, a car one and 0.2. `folder` as in
    `bodies.body_folder`. Raises ValueError for a count below 0, DatasetError where the meshes are missing.
    """
    if min(people, cars) < 0 or workers < 1:
        raise ValueError(f"people {people} and cars {cars} must be at least 0, workers {workers} at least 1")
    where = bodies.body_folder(folder) if people else None
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    wanted = [("car", number) for number in range(seed, seed + cars)]
    wanted += [("walker", number) for number in range(seed, seed + people)]
    paths = [output / f"{kind}_{number:05d}.npz" for kind, number in wanted]
    jobs = [
        (kind, number, where, path)
        for (kind, number), path in zip(wanted, paths, strict=True)
        if not path.is_file()
    ]
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _make_one(*job)
    else:
        context = get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            for done in [pool.submit(_make_one, *job) for job in jobs]:
                done.result()
    return len(jobs)


def _make_one(kind: str, seed: int, folder: Path | None, path: Path) -> None:
    save_figure(make_figure(kind, seed, folder), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Written whole or not at all."""
    with written_whole(path) as unfinished:
        np.savez(unfinished, format=np.int64(_FORMAT), **figure._asdict())


@lru_cache(maxsize=64)
def load_figure(path: Path) -> Figure:
    """A figure from its file.

    Raises DatasetError where the file is missing or no figure of this version.
    """
    try:
        with np.load(path) as file:
            if int(file["format"]) != _FORMAT:
                raise ValueError(f"format {int(file['format'])}, this version reads {_FORMAT}")
            return Figure(
                float(file["metres"]),
                float(file["pixels_per_metre"]),
                file["tilts"],
                int(file["headings"]),
                int(file["phases"]),
                file["data"],
                file["starts"],
                file["feet"],
            )
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise DatasetError(
            f"{path} is no figure: {error}. Make figures with python -m model figures"
        ) from None


def list_figures(folder: Path | str, kind: str = "*") -> tuple[str, ...]:
    """Names of the figures of a kind (`walker`, `car`) in a folder, sorted; empty where it has others only.

    Raises FileNotFoundError where there is no such folder and DatasetError where it holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of figures at {folder}: make one with python -m model figures")
    names = tuple(sorted(path.name for path in folder.glob(f"{kind}_*.npz")))
    if not names and not list(folder.glob("*_*.npz")):
        raise DatasetError(f"{folder} holds no figures (*.npz): make some with python -m model figures")
    return names


def figure_sprite(
    figure: Figure,
    *,
    heading: float,
    tilt: float,
    phase: float | None,
    foot: tuple[float, float],
    pixels_per_metre: float,
    height: int,
    width: int,
) -> Sprite | None:
    """The nearest view of the figure, its foot at (x, y) of a height × width frame; None outside of it.

    `heading` in radians from the picture's right to away from the camera, `tilt` the tangent of how far the
    camera looks down, `phase` of the walk in radians, None for standing.
    """
    heading = (heading + math.pi) % (2 * math.pi) - math.pi
    mirrored = abs(heading) > math.pi / 2
    if mirrored:
        heading = math.copysign(math.pi, heading) - heading
    turn = round((heading / math.pi + 0.5) * (figure.headings - 1))
    if phase is None or not figure.phases:
        step = figure.phases
    else:
        step = round((phase + (math.pi if mirrored else 0.0)) / (2 * math.pi) * figure.phases) % figure.phases
    level = int(np.argmin([abs(tilt - kept) for kept in figure.tilts]))
    index = (level * figure.headings + turn) * (figure.phases + 1) + step
    image = _unpacked(figure, index)
    x, y = figure.feet[index].tolist()
    if mirrored:
        image, x = image[:, ::-1], image.shape[1] - x
    scale = pixels_per_metre / figure.pixels_per_metre
    factor = enlargement(image.shape[0] * scale)
    left, top = foot[0] - x * scale, foot[1] - y * scale
    right, bottom = left + image.shape[1] * scale, top + image.shape[0] * scale
    crop = crop_around((left, top, right, bottom), height=height, width=width)
    if crop is None:
        return None
    x0, y0, x1, y1 = crop
    fine = scale * factor
    if fine < 1:
        rows, columns = max(1, round(image.shape[0] * fine)), max(1, round(image.shape[1] * fine))
        image = np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
        fine = 1.0
    matrix = np.array(
        [
            [fine, 0.0, (left - x0) * factor + 0.5 * fine - 0.5],
            [0.0, fine, (top - y0) * factor + 0.5 * fine - 0.5],
        ]
    )
    size = ((x1 - x0) * factor, (y1 - y0) * factor)
    laid = cv2.warpAffine(np.ascontiguousarray(image), matrix, size)
    rgba = cv2.resize(laid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return Sprite(x0, y0, np.asarray(rgba, np.uint8))


def _unpacked(figure: Figure, index: int) -> Bytes:
    """(h, w, 4) premultiplied RGBA."""
    image = np.asarray(
        cv2.imdecode(figure.data[figure.starts[index] : figure.starts[index + 1]], cv2.IMREAD_UNCHANGED)
    )
    return np.concatenate((np.minimum(image[..., :3], image[..., 3:]), image[..., 3:]), axis=2)


def _person(seed: int, folder: Path) -> Figure:
    parts = bodies.load_parts(folder)
    rng = np.random.default_rng((seed, 17))
    rest = bodies.draw_body(rng, parts, child=bool(rng.random() < 0.12))
    wardrobe = Wardrobe(parts, rest, draw_outfit(rng), rng)
    light = _light(rng)
    swing, lean = float(rng.uniform(0.3, 1.1)), float(rng.normal(0.02, 0.05))
    turns = [2 * math.pi * phase / _PHASES for phase in range(_PHASES)]
    poses = [bodies.gait(turn, swing=swing, lean=lean) for turn in turns]
    poses.append(bodies.gait(float(rng.uniform(0, 6)), pace=0.1, swing=swing, lean=lean))
    metres = float(rest[parts.faces[bodies.BODY].ravel(), 1].max())
    shapes = [wardrobe.worn(pose) for pose in poses]
    return _seen(shapes, metres, light, tilts=(0.1, 0.5), headings=9, pixels_per_metre=110.0)


def _car(seed: int) -> Figure:
    rng = np.random.default_rng((seed, 18))
    metres, surfaces = car_surfaces(rng)
    light = _light(rng)
    return _seen([surfaces], metres, light, tilts=(0.05, 0.25, 0.7), headings=13, pixels_per_metre=70.0)


def _light(rng: np.random.Generator) -> Light:
    sun = np.array([rng.uniform(-0.8, 0.8), rng.uniform(0.4, 1.0), rng.uniform(-0.9, 0.3)])
    sky = hsv(0.58, rng.uniform(0.0, 0.3), rng.uniform(0.45, 1.0))
    return Light(sun / np.linalg.norm(sun), float(rng.uniform(0.45, 0.85)), sky, grey(rng, 25, 90))


def _seen(
    shapes: list[list[Surface]],
    metres: float,
    light: Light,
    *,
    tilts: tuple[float, ...],
    headings: int,
    pixels_per_metre: float,
) -> Figure:
    """All views of the shapes, the standing one last."""
    packed: list[Bytes] = []
    feet: list[tuple[float, float]] = []
    for tilt in tilts:
        for heading in np.linspace(-math.pi / 2, math.pi / 2, headings):
            for surfaces in shapes:
                rgba, foot = view(
                    surfaces,
                    heading=float(heading),
                    tilt=tilt,
                    light=light,
                    pixels_per_metre=pixels_per_metre,
                )
                done, file = cv2.imencode(".webp", rgba, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
                if not done:
                    raise DatasetError("this build of OpenCV cannot write WebP, which figures are kept in")
                packed.append(np.asarray(file, np.uint8).ravel())
                feet.append(foot)
    starts = np.concatenate(([0], np.cumsum([len(file) for file in packed]))).astype(np.int64)
    return Figure(
        metres,
        pixels_per_metre,
        np.array(tilts),
        headings,
        len(shapes) - 1,
        np.concatenate(packed),
        starts,
        np.array(feet, np.float32),
    )
