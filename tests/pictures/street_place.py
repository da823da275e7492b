"""The street of the clip that ships, without anybody: a pinhole, two rows of houses, ground, sky and trees.

Street coordinates in metres: s along the street away from the camera, t across it to the right, up from the
ground; the camera hangs above s = t = 0. All is drawn from random numbers of one seed. Source: ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pictures.street_fronts import HOUSE_HEIGHT, TEXELS, row_of_houses

from model.training.data.draw.textures import cloud_noise

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Rng = np.random.Generator

LEFT_HOUSES, LEFT_KERB, RIGHT_KERB, RIGHT_HOUSES = -7.2, -4.2, 3.4, 6.4
CROSSING = (9.3, 11.7)
END = 95.0
"""Where houses close the street."""
HOUSE_SHADOW = 1.5
"""How far the left row's shadow reaches over its pavement."""
SHADE = 0.5
"""How much of the light a shadow takes away."""
HAZE = np.array([205.0, 214.0, 224.0], np.float32)


class Place(NamedTuple):
    """The camera over the street; pixels of a picture `width` × `height`."""

    height: int
    width: int
    focal: float
    horizon: float
    camera_height: float
    yaw: float
    """The street's direction, radians from straight ahead to the right."""

    def scaled(self, factor: int) -> Place:
        """The same view in `factor` times as many pixels."""
        return self._replace(
            height=self.height * factor,
            width=self.width * factor,
            focal=self.focal * factor,
            horizon=self.horizon * factor,
        )

    def ahead(self, s: float, t: float) -> tuple[float, float]:
        """(X, Z): metres to the right of the camera and away from it."""
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        return s * sine + t * cosine, s * cosine - t * sine

    def pixel(self, x: float, up: float, z: float) -> tuple[float, float]:
        """Where a point shows, (x, y) pixels."""
        return (
            self.width / 2 + self.focal * x / z,
            self.horizon + self.focal * (self.camera_height - up) / z,
        )


def draw_street(place: Place, seed: int, *, finer: int) -> Bytes:
    """(H, W, 3) RGB of the street with nobody in it, averaged from `finer` × `finer` rays a pixel."""
    rng = np.random.default_rng(seed)
    fronts = [row_of_houses(rng, storeys) for storeys in ((3, 3), (3, 3), (3, 4))]
    tile = cloud_noise(rng, 512, 512, coarsest=0.2, fall=0.95)
    fine = place.scaled(finer)
    sky = _sky(rng, fine)
    ys, xs = np.mgrid[0 : fine.height, 0 : fine.width].astype(np.float32) + np.float32(0.5)
    cosine, sine = math.cos(place.yaw), math.sin(place.yaw)
    across, down = (xs - fine.width / 2) / fine.focal, (ys - fine.horizon) / fine.focal
    # a ray at distance 1: how far it goes along, across and down
    along, aside = across * sine + cosine, across * cosine - sine
    far = np.full(xs.shape, np.inf, np.float32)
    picture = sky
    walls = (
        (LEFT_HOUSES, aside, along, fronts[0], 1.0),
        (RIGHT_HOUSES, aside, along, fronts[1], 0.66),
        (END, along, aside, fronts[2], 0.85),
    )
    for at, towards, beside, front, light in walls:
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(towards * at > 0, at / towards, np.inf).astype(np.float32)
            u = (reach * beside + (30.0 if at == END else 0.0)) * TEXELS
            v = (HOUSE_HEIGHT - (place.camera_height - reach * down)) * TEXELS
        colours = _sampled(front, u, v)
        seen = (reach < far) & (colours[..., 3] > 127) & np.isfinite(reach)
        if at != END:
            seen &= reach * along < END
        shown = _hazed(colours[..., :3].astype(np.float32) * light, reach * along)
        picture = np.where(seen[..., None], shown, picture)
        far = np.where(seen, reach, far)
    with np.errstate(divide="ignore"):
        reach = np.where(down > 1e-4, place.camera_height / down, np.inf).astype(np.float32)
    seen = reach < far
    rows = slice(int(np.flatnonzero(seen.any(1))[0]), fine.height)
    s, t = (np.where(seen, reach * ray, 0.0)[rows] for ray in (along, aside))
    ground = _hazed(_ground(rng, s, t, tile), s)
    picture[rows] = np.where(seen[rows][..., None], ground, picture[rows])
    small = cv2.resize(picture, (place.width, place.height), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 255).astype(np.uint8)


def draw_tree(rng: Rng, place: Place, *, s: float, t: float, height: float) -> tuple[Bytes, tuple[int, int]]:
    """(h, w, 4) premultiplied RGBA of a tree and the (x, y) of its corner in the picture."""
    x, z = place.ahead(s, t)
    metre = place.focal / z
    fine = 3
    scale = metre * fine
    wide, tall = int(height * 0.8 * scale), int(height * scale * 1.02)
    image = np.zeros((tall, wide, 4), np.uint8)
    root = np.array([wide / 2, tall - 0.02 * height * scale])
    bark = (92.0, 78.0, 64.0)
    fork = root - (0, 0.36 * height * scale)
    _branch(image, root, fork, 0.11 * scale, 0.075 * scale, bark)
    blobs = [
        np.array([wide / 2 + rng.normal(0, 0.15) * wide, tall * rng.uniform(0.16, 0.5)]) for _ in range(9)
    ]
    for blob in blobs:
        _branch(image, fork, blob, 0.06 * scale, 0.02 * scale, bark)
    hue = rng.uniform(0, 1)
    leaves = []
    for blob in blobs:
        for _ in range(420):
            offset = rng.normal(0, 1, 3)
            offset *= rng.uniform(0.4, 1) ** 0.4 / np.linalg.norm(offset)
            radius = height * 0.17 * scale
            lit = 0.5 + 0.32 * -offset[1] + 0.16 * -offset[0] + 0.22 * offset[2] + rng.normal(0, 0.1)
            leaves.append((offset[2] + lit * 0.2, blob + offset[:2] * radius, lit))
    for _, (column, row), lit in sorted(leaves, key=lambda leaf: leaf[0]):
        base = np.array([70 + 26 * hue, 104.0, 44.0])
        colour = np.clip(base * (0.35 + 1.05 * max(0.0, lit)), 0, 255)
        axes = (max(1, int(0.075 * scale * rng.uniform(0.7, 1.5))), max(1, int(0.05 * scale)))
        cv2.ellipse(
            image,
            (int(column), int(row)),
            axes,
            float(rng.uniform(0, 180)),
            0,
            360,
            (*colour.tolist(), 255.0),
            -1,
            cv2.LINE_AA,
        )
    small = cv2.resize(image, (wide // fine, tall // fine), interpolation=cv2.INTER_AREA)
    foot_x, foot_y = place.pixel(x, 0.0, z)
    corner = (round(foot_x - root[0] / fine), round(foot_y - root[1] / fine))
    return np.asarray(small, np.uint8), corner


def draw_lamp_post(place: Place, *, s: float, t: float, height: float) -> tuple[Bytes, tuple[int, int]]:
    """As `draw_tree`, a lamp post whose arm reaches to the left."""
    x, z = place.ahead(s, t)
    fine = 4
    scale = place.focal / z * fine
    wide, tall = int(2.2 * scale), int((height + 0.3) * scale)
    image = np.zeros((tall, wide, 4), np.uint8)
    root = np.array([wide - 0.3 * scale, tall - 0.02 * scale])
    top = root - (0, height * scale)
    grey = (98.0, 102.0, 106.0)
    _branch(image, root, root - (0, 0.9 * scale), 0.1 * scale, 0.1 * scale, grey)
    _branch(image, root, top, 0.065 * scale, 0.05 * scale, grey)
    _branch(image, top, top - (1.5 * scale, 0.12 * scale), 0.045 * scale, 0.04 * scale, grey)
    head = top - (1.5 * scale, 0.12 * scale)
    _branch(
        image, head, head - (0.35 * scale, -0.02 * scale), 0.09 * scale, 0.06 * scale, (150.0, 153.0, 156.0)
    )
    small = cv2.resize(image, (wide // fine, tall // fine), interpolation=cv2.INTER_AREA)
    foot_x, foot_y = place.pixel(x, 0.0, z)
    return np.asarray(small, np.uint8), (round(foot_x - root[0] / fine), round(foot_y - root[1] / fine))


def _branch(
    image: Bytes, start: Floats, end: Floats, radius: float, end_radius: float, colour: tuple[float, ...]
) -> None:
    """A tapering limb, its right side in shade."""
    axis = np.asarray(end - start, np.float64)
    side = np.array([-axis[1], axis[0]]) / max(1e-6, float(np.hypot(*axis)))
    side = side if side[0] > 0 else -side
    for left, right, tint in ((-1.0, 1.0, 1.15), (0.1, 1.0, 0.75)):
        corners = np.array(
            [
                start + side * left * radius,
                end + side * left * end_radius,
                end + side * right * end_radius,
                start + side * right * radius,
            ]
        )
        value = (*(min(255.0, part * tint) for part in colour), 255.0)
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], value, cv2.LINE_AA)


def _sampled(texture: Bytes, u: Floats, v: Floats) -> Bytes:
    """The texture at (u, v), transparent outside of it; coarser copies of it where it recedes."""
    u, v = (np.clip(np.nan_to_num(each, nan=-1e6), -1e6, 1e6) for each in (u, v))
    steps = np.maximum(np.abs(np.gradient(u, axis=1)), np.abs(np.gradient(v, axis=0)))
    level = np.clip(np.log2(np.maximum(steps, 1.0)), 0, 4).round()
    found = np.zeros((*u.shape, 4), np.uint8)
    for each in range(5):
        factor = 2**each
        size = (texture.shape[1] // factor, texture.shape[0] // factor)
        coarse = cv2.resize(texture, size, interpolation=cv2.INTER_AREA)
        own = level == each
        if own.any():
            # outside of what a map may hold is outside of the texture
            columns, lines = (np.clip(each / factor - 0.5, -9, 32000).astype(np.float32) for each in (u, v))
            laid = cv2.remap(coarse, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            found[own] = laid[own]
    return found


def _hazed(colours: Floats, distance: Floats) -> Floats:
    share = (1 - np.exp(-np.clip(distance, 0, 300) / 260)).astype(np.float32)[..., None]
    return np.asarray(colours + (HAZE - colours) * share, np.float32)


def _sky(rng: Rng, place: Place) -> Floats:
    rows = np.clip(np.arange(place.height, dtype=np.float32) / place.horizon, 0, 1)[:, None, None]
    high, low = np.array([112.0, 160.0, 214.0]), np.array([206.0, 218.0, 230.0])
    sky = high + (low - high) * rows**0.8
    clouds = cloud_noise(rng, place.height, place.width, coarsest=0.5, fall=0.5)
    cover = np.clip(clouds * 0.9 - 0.1, 0, 1)[..., None]
    return np.asarray(sky + (np.array([246.0, 247.0, 248.0]) - sky) * cover, np.float32)


def _ground(rng: Rng, s: Floats, t: Floats, tile: Floats) -> Floats:
    """Colours of the ground: asphalt with marks and a crossing, kerbs, slabs of pavement."""

    def noise(metres: float, shift: float = 0.0) -> Floats:
        # to and fro over the tile, so that it has no seams
        scale = tile.shape[0] / metres
        lines, columns = (
            np.abs(np.mod(along * scale + shift, 1022) - 511).astype(np.float32) for along in (s, t)
        )
        return np.asarray(cv2.remap(tile, columns, lines, cv2.INTER_LINEAR), np.float32)

    pixel = np.maximum(0.004, s * s * 0.00022)
    grain = noise(3.1) * np.clip(0.02 / pixel, 0, 1) * 7 + noise(13.7, 90) * 6
    colours = np.empty((*s.shape, 3), np.float32)
    colours[:] = np.array([103.0, 104.0, 107.0], np.float32)
    # wheels have polished two tracks a lane
    for lane in (-0.95, 1.75):
        for track in (-0.75, 0.75):
            colours += (8 * np.exp(-(((t - lane - track) / 0.3) ** 2)))[..., None]
    worn = np.clip(1 + 0.35 * noise(4.3, 30), 0.3, 1)

    def mark(inside: Floats, strength: float = 0.85) -> None:
        share = (np.clip(inside, 0, 1) * worn * strength)[..., None]
        colours[:] = colours + (np.array([226.0, 226.0, 220.0], np.float32) - colours) * share

    on_crossing = (s > CROSSING[0]) & (s < CROSSING[1])
    bars = (np.mod(t - LEFT_KERB - 0.35, 1.0) < 0.52) & (t > LEFT_KERB + 0.3) & (t < RIGHT_KERB - 0.3)
    mark((on_crossing & bars).astype(np.float32))
    away = (s < CROSSING[0] - 1.2) | (s > CROSSING[1] + 2.0)
    line = np.clip((0.06 - np.abs(t - 0.4)) / pixel + 0.5, 0, 1)
    mark(line * (np.mod(s, 4.5) < 2.4) * away)
    stop = (np.abs(s - CROSSING[1] - 1.2) < 0.16) & (t > LEFT_KERB + 2.2) & (t < 0.3)
    mark(stop.astype(np.float32))
    gutter = np.exp(-(((t - LEFT_KERB - 0.15) / 0.12) ** 2)) + np.exp(
        -(((t - RIGHT_KERB + 0.15) / 0.12) ** 2)
    )
    colours *= (1 - 0.22 * gutter)[..., None]
    patch = (np.abs(t - 2.2) < 0.7) & (np.abs(s - 17.5) < 2.2)
    colours[patch] *= 0.86
    hole = np.hypot(t + 1.6, s - 7.9)
    colours[hole < 0.34] = np.array([70.0, 69.0, 68.0])
    colours[np.abs(hole - 0.34) < 0.03] = np.array([52.0, 52.0, 52.0])
    pavement = (t < LEFT_KERB) | (t > RIGHT_KERB)
    slabs = np.array([160.0, 155.0, 147.0], np.float32)
    row = np.floor(s / 0.6)
    column = np.floor((t + 0.3 * np.mod(row, 2)) / 0.6)
    tone = np.mod(np.sin(row * 12.9898 + column * 78.233) * 43758.5453, 1.0) - 0.5
    edge = np.minimum(_near(s, 0.6), _near(t + 0.3 * np.mod(row, 2), 0.6))
    joint = np.clip((0.012 - edge) / pixel + 0.5, 0, 1) * np.clip(0.05 / pixel, 0, 1)
    paved = slabs * (1 + 0.07 * tone - 0.2 * joint)[..., None]
    colours = np.where(pavement[..., None], paved, colours)
    for kerb, sign in ((LEFT_KERB, 1.0), (RIGHT_KERB, -1.0)):
        stone = np.abs(t - kerb) < 0.09
        face = (t - kerb) * sign > 0.03
        lit = np.where(face, 118.0, 188.0) * (1 - 0.25 * (_near(s, 1.0) < 0.012))
        colours = np.where(stone[..., None], lit[..., None], colours)
    colours = colours + grain[..., None]
    reach = np.clip((LEFT_HOUSES + HOUSE_SHADOW - t) / 0.12, 0, 1)
    return np.asarray(colours * (1 - SHADE * reach[..., None]), np.float32)


def _near(values: Floats, period: float) -> Floats:
    rest = np.mod(values, period)
    return np.minimum(rest, period - rest)
