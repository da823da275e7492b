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

from model.training.data.backgrounds import cloud_noise

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
TEXELS = 48
"""Texture pixels a metre of the houses' fronts."""
HOUSE_LENGTH, HOUSE_HEIGHT = 100.0, 15.0
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
    fronts = [_row_of_houses(rng, storeys) for storeys in ((3, 3), (3, 3), (3, 4))]
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


def _row_of_houses(rng: Rng, storeys: tuple[int, int]) -> Bytes:
    """(h, w, 4) of fronts, wall by wall, transparent above the roofs."""
    row = np.zeros((int(HOUSE_HEIGHT * TEXELS), int(HOUSE_LENGTH * TEXELS), 4), np.uint8)
    at = 0
    previous = -1
    while at < row.shape[1]:
        wide = int(rng.uniform(7.5, 12.5) * TEXELS)
        chosen = int(rng.choice([each for each in range(len(_WALLS)) if each != previous]))
        previous = chosen
        front = _house(rng, wide, int(rng.integers(storeys[0], storeys[1] + 1)), _WALLS[chosen])
        tall = min(front.shape[0], row.shape[0])
        part = front[-tall:, : row.shape[1] - at]
        row[-tall:, at : at + part.shape[1], :3] = part
        row[-tall:, at : at + part.shape[1], 3] = 255
        at += wide
    return row


_WALLS = (
    ((214.0, 201.0, 178.0), False),
    ((168.0, 98.0, 78.0), True),
    ((226.0, 222.0, 212.0), False),
    ((196.0, 168.0, 128.0), False),
    ((142.0, 86.0, 70.0), True),
    ((178.0, 188.0, 192.0), False),
    ((208.0, 180.0, 164.0), False),
)
_SHOPS = ((38, 62, 84), (120, 36, 40), (44, 78, 58), (60, 56, 54), (196, 158, 60), (88, 66, 96))


def _house(rng: Rng, wide: int, storeys: int, wall: tuple[tuple[float, float, float], bool]) -> Bytes:
    """One front: a shop or a door below, windows above, a cornice."""
    colour, brick = wall
    ground, storey = int(3.6 * TEXELS), int(3.0 * TEXELS)
    tall = ground + (storeys - 1) * storey + int(0.5 * TEXELS)
    front = np.empty((tall, wide, 3), np.float32)
    front[:] = colour
    if brick:
        rows = np.arange(tall) // 4
        tone = rng.normal(1, 0.07, (tall // 4 + 1, wide // 11 + 2)).astype(np.float32)
        columns = (np.arange(wide)[None] + 5 * (rows[:, None] % 2)) // 11
        front *= tone[rows[:, None], columns][..., None]
        front[np.arange(tall) % 4 == 3] *= 1.1
    front *= 1 + 0.045 * cloud_noise(rng, tall, wide, coarsest=0.4, fall=0.8)[..., None]
    # rain has washed dirt down
    front *= (1 - 0.1 * np.linspace(0, 1, tall, dtype=np.float32) ** 3)[:, None, None]
    bay = wide / max(2, round(wide / (2.6 * TEXELS)))
    light = np.array((236.0, 234.0, 228.0)) if rng.random() < 0.65 else np.array((74.0, 70.0, 66.0))
    shutters = rng.random() < 0.35 and not brick
    tint = np.array(_SHOPS[int(rng.integers(len(_SHOPS)))], np.float64)
    for level in range(1, storeys):
        sill = tall - ground - (level - 1) * storey - int(0.75 * TEXELS)
        for number in range(round(wide / bay)):
            middle = int((number + 0.5) * bay)
            half, high = int(0.55 * TEXELS), int(1.65 * TEXELS)
            _window(front, rng, middle - half, sill - high, middle + half, sill, light)
            if shutters:
                for side in (-1, 1):
                    left = middle + side * (half + 14) - 13
                    front[sill - high : sill, left : left + 26] = tint * 0.9 + 30
                    front[sill - high : sill : 5, left : left + 26] *= 0.8
    band = tall - ground
    front[band - 6 : band + 3] = np.array(colour) * 1.08
    front[band + 3 : band + 9] *= 0.72
    front[: int(0.22 * TEXELS)] = np.array(colour) * 0.8
    front[int(0.22 * TEXELS) : int(0.3 * TEXELS)] *= 1.12
    front[int(0.3 * TEXELS) : int(0.5 * TEXELS)] *= 0.7
    if rng.random() < 0.7:
        _shop(front, rng, wide, tall, tint)
    else:
        _doorway(front, rng, wide, tall, light, tint)
    front[-int(0.35 * TEXELS) :] *= 0.78
    front[:, :3] *= 0.75
    pipe = wide - 9
    front[:, pipe : pipe + 5] = np.array(colour) * 0.72
    front[:, pipe + 5 : pipe + 8] *= 0.8
    return np.clip(front, 0, 255).astype(np.uint8)


def _glass(rng: Rng, height: int, width: int) -> Floats:
    """What panes mirror: the sky above, houses below, and curtains or goods behind them."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    high, low = np.array([128.0, 152.0, 172.0]), np.array([44.0, 50.0, 56.0])
    pane = high + (low - high) * np.clip(rows * rng.uniform(1.0, 1.8), 0, 1)
    pane = (
        pane * rng.uniform(0.65, 1.0) * (1 + 0.16 * cloud_noise(rng, height, width, coarsest=0.5)[..., None])
    )
    return np.asarray(pane, np.float32)


def _window(front: Floats, rng: Rng, x0: int, y0: int, x1: int, y1: int, frame: Floats) -> None:
    front[y0 - 7 : y0, x0 - 6 : x1 + 6] *= 1.1
    front[y0:y1, x0:x1] = frame
    inner = front[y0 + 5 : y1 - 4, x0 + 4 : x1 - 4]
    pane = _glass(rng, *inner.shape[:2])
    if rng.random() < 0.5:
        hang = int(inner.shape[1] * rng.uniform(0.16, 0.34))
        folds = 178 + 24 * np.sin(np.arange(hang) * 0.9)[None, :, None]
        pane[:, :hang] = 0.55 * pane[:, :hang] + 0.45 * folds
        pane[:, -hang:] = 0.55 * pane[:, -hang:] + 0.45 * folds
    elif rng.random() < 0.25:
        drop = int(inner.shape[0] * rng.uniform(0.2, 0.6))
        pane[:drop] = 205
        pane[:drop:4] = 186
    inner[:] = pane
    middle = (x0 + x1) // 2
    front[y0:y1, middle - 2 : middle + 2] = frame
    third = y0 + (y1 - y0) // 3
    front[third - 2 : third + 1, x0:x1] = frame
    # the lintel shades the top and the left of the recess
    front[y0 : y0 + 9, x0:x1] *= 0.55
    front[y0:y1, x0 : x0 + 5] *= 0.7
    front[y1 : y1 + 5, x0 - 6 : x1 + 6] = 214
    front[y1 + 5 : y1 + 10, x0 - 4 : x1 + 4] *= 0.66


def _shop(front: Floats, rng: Rng, wide: int, tall: int, tint: Floats) -> None:
    top = tall - int(3.1 * TEXELS)
    left, right = int(0.5 * TEXELS), wide - int(0.6 * TEXELS)
    base = tall - int(0.45 * TEXELS)
    front[top:tall, left:right] = tint * 0.8
    door = left + int((right - left) * rng.uniform(0.15, 0.75))
    fascia = top + int(0.55 * TEXELS)
    front[top:fascia, left:right] = tint
    # letters nobody can read
    at = left + int(0.5 * TEXELS)
    stop = left + int((right - left) * rng.uniform(0.45, 0.8))
    while at < stop:
        step = int(rng.uniform(6, 13))
        front[top + 8 : fascia - 8, at : at + step] = tint * 0.25 + 178
        front[top + 12 : top + 15, at + 2 : at + step - 2] = tint
        at += step + 4
        if rng.random() < 0.2:
            at += 12
    panes = [(left + 8, door - 4), (door + int(1.0 * TEXELS) + 4, right - 8)]
    for first, last in panes:
        if last - first < 30:
            continue
        area = front[fascia + 7 : base, first:last]
        area[:] = _glass(rng, *area.shape[:2]) * 0.8
        for _ in range(int((last - first) / 16)):
            x, h = int(rng.uniform(4, last - first - 12)), int(rng.uniform(12, 42))
            goods = rng.uniform(40, 150) + rng.uniform(-28, 28, 3)
            part = area[area.shape[0] - h - 6 : area.shape[0] - 6, x : x + int(rng.uniform(6, 18))]
            part[:] = 0.55 * part + 0.45 * goods
        area[:, ::64] = tint * 0.8
        area[:8] *= 0.5
    high = fascia + 7
    area = front[high : tall - 6, door : door + int(1.0 * TEXELS)]
    area[:] = tint * 0.65
    area[8:-22, 6:-6] = _glass(rng, area.shape[0] - 30, area.shape[1] - 12) * 0.7
    area[:8] *= 0.6
    if rng.random() < 0.6:
        out = fascia + int(0.75 * TEXELS)
        stripes = (np.arange(right - left) // 16) % 2 == 0
        cloth = np.where(stripes[:, None], tint * 1.15 + 20, np.array([232.0, 228.0, 220.0]))
        slope = np.linspace(1.05, 0.85, out - fascia)[:, None, None]
        front[fascia:out, left:right] = cloth[None] * slope
        front[out : out + 26, left:right] *= 0.55


def _doorway(front: Floats, rng: Rng, wide: int, tall: int, frame: Floats, tint: Floats) -> None:
    """A stone base, two windows and a door."""
    front[tall - int(3.4 * TEXELS) : tall : int(0.5 * TEXELS)] *= 0.85
    door = int(wide * rng.uniform(0.4, 0.55))
    x0, x1, y0 = door, door + int(1.15 * TEXELS), tall - int(2.5 * TEXELS)
    front[y0 - 8 : tall, x0 - 8 : x1 + 8] = frame
    front[y0:tall, x0:x1] = tint * 0.85 + 10
    front[y0 + 6 : y0 + 30, x0 + 6 : x1 - 6] = _glass(rng, 24, x1 - x0 - 12)
    for panel in (y0 + 40, y0 + 80):
        front[panel : panel + 30, x0 + 8 : x1 - 8] *= 0.85
    front[y0 : y0 + 10, x0:x1] *= 0.5
    for middle in (int(wide * 0.2), int(wide * 0.8)):
        half = int(0.6 * TEXELS)
        bottom = tall - int(1.0 * TEXELS)
        _window(front, rng, middle - half, bottom - int(1.6 * TEXELS), middle + half, bottom, frame)
