"""Rows of house fronts for the clip that ships: walls, windows, shops and doors, drawn flat. Source: ours.

(h, w) texture pixels, TEXELS a metre; RGB 0..255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.textures import cloud_noise

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Rng = np.random.Generator

TEXELS = 48
"""Texture pixels a metre of the houses' fronts."""
HOUSE_LENGTH, HOUSE_HEIGHT = 100.0, 15.0


def row_of_houses(rng: Rng, storeys: tuple[int, int]) -> Bytes:
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
