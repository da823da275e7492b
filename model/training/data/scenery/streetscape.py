"""A street without anybody: sky, houses with windows, road and pavement in perspective, greenery.

Source: ours. Canvas of h × w pixels whose pixel (0, 0) is the reference picture's (-margin_x, -margin_y).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.draw.canvas import Colour, tint
from model.training.data.draw.palette import any_colour, grey, hsv
from model.training.data.draw.textures import cloud_noise, dead_leaves
from model.training.data.scene.scenes import Backdrop, View

__all__ = ["facade", "street"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator


def street(
    backdrop: Backdrop,
    *,
    view: View,
    width: int,
    canvas_height: int,
    canvas_width: int,
    margin: tuple[int, int],
) -> Bytes:
    """Draw the canvas; `width` is the reference picture's."""
    rng = np.random.default_rng(backdrop.seed)
    horizon = view.horizon + margin[1]
    canvas = _sky(rng, canvas_height, canvas_width, horizon)
    far = view.camera_height * view.focal
    if horizon > -0.5 * canvas_height:
        _ground(canvas, backdrop, rng, view=view, width=width, horizon=horizon, margin=margin)
        if horizon > 2:
            _houses(canvas, backdrop, rng, view=view, width=width, margin=margin)
            if rng.random() < 0.45:
                _side_walls(canvas, backdrop, rng, view=view, width=width, margin=margin)
            if rng.random() < 0.6:
                _greenery(
                    canvas, rng, row=horizon + far / (backdrop.depth * 2.5) * 0.3, reach=canvas_height * 0.25
                )
    else:
        _ground(canvas, backdrop, rng, view=view, width=width, horizon=horizon, margin=margin)
    if rng.random() < 0.6:
        _detail(canvas, rng, ground=horizon + far / (backdrop.depth * 2.5))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.6, 0.25, 0.15]))):
        _house_shadow(canvas, rng, top=max(0.0, horizon))
    return canvas


def _detail(canvas: Bytes, rng: Rng, *, ground: float) -> None:
    """Edges of all sizes, as signs, cables, goods and mirrored streets give them; few below row `ground`."""
    height, width = canvas.shape[:2]
    leaves = cv2.cvtColor(dead_leaves(rng, (height + 1) // 2, (width + 1) // 2), cv2.COLOR_RGB2GRAY)
    large = np.asarray(cv2.resize(leaves, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    strength = np.full((height, 1), rng.uniform(0.1, 0.6), np.float32)
    strength[max(0, min(height, int(ground))) :] *= np.float32(rng.uniform(0.05, 0.4))
    factor = 1 + strength * (large / max(1.0, float(large.mean())) - 1).clip(-1, 1)
    canvas[:] = np.clip(canvas * factor[..., None], 0, 255).astype(np.uint8)


def _house_shadow(canvas: Bytes, rng: Rng, *, top: float) -> None:
    """A straight-edged shadow that something outside the picture throws on the ground."""
    height, width = canvas.shape[:2]
    middle = np.array([rng.uniform(0, width), rng.uniform(top, height)])
    angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 6))))
    reach = rng.uniform(0.2, 0.9, len(angles)) * width
    corners = middle + np.stack((np.cos(angles) * reach, np.sin(angles) * reach * 0.5), axis=1)
    shade = np.zeros((height, width), np.float32)
    cv2.fillPoly(shade, [np.rint(corners).astype(np.int32)], (float(rng.uniform(0.15, 0.5)),))
    shade[: int(top)] = 0
    soft = cv2.GaussianBlur(shade, (0, 0), float(rng.uniform(0.6, 3.0)))
    canvas[:] = (canvas * (1 - np.asarray(soft, np.float32))[..., None]).astype(np.uint8)


def _sky(rng: Rng, height: int, width: int, horizon: float) -> Bytes:
    top, low = (hsv(0.58, rng.uniform(0, 0.5), rng.uniform(0.5, 1.0)), grey(rng, 150, 250))
    rows = np.clip(np.arange(height, dtype=np.float32) / max(1.0, horizon), 0, 1)[:, None, None]
    sky = np.array(top, np.float32) * (1 - rows) + np.array(low, np.float32) * rows
    clouds = cloud_noise(rng, height, width, fall=0.55) * rng.uniform(0, 30)
    filled: Bytes = np.clip(sky + clouds[..., None], 0, 255).astype(np.uint8)
    return filled


def _ground_colour(rng: Rng) -> Colour:
    draw = rng.random()
    if draw < 0.7:
        return grey(rng, 55, 185)
    if draw < 0.85:
        return hsv(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.8))
    return hsv(rng.uniform(0.18, 0.33), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.55))


def _ground(
    canvas: Bytes,
    backdrop: Backdrop,
    rng: Rng,
    *,
    view: View,
    width: int,
    horizon: float,
    margin: tuple[int, int],
) -> None:
    """Fill all rows below the horizon: pavement, a road with its marks, tiles and stains."""
    height, columns = canvas.shape[:2]
    top = max(0, math.ceil(horizon + 1))
    if top >= height:
        return
    rows = np.arange(top, height, dtype=np.float32) + 0.5 - np.float32(horizon)
    z = np.float32(view.camera_height * view.focal) / rows[:, None]
    x = (
        (np.arange(columns, dtype=np.float32)[None] + 0.5 - margin[0] - width / 2)
        * z
        / np.float32(view.focal)
    )
    along = x * np.float32(math.cos(backdrop.road_angle)) + (z - backdrop.depth) * np.float32(
        math.sin(backdrop.road_angle)
    )
    across = (
        (z - backdrop.depth) * np.float32(math.cos(backdrop.road_angle))
        - x * np.float32(math.sin(backdrop.road_angle))
        - backdrop.road_offset
    ).astype(np.float32)
    # one pixel of the ground in metres, along the picture's columns: details finer than that fade
    pixel = z / np.float32(view.focal) * np.maximum(1.0, z / np.float32(view.camera_height * 3))
    pavement, asphalt = np.array(_ground_colour(rng), np.float32), np.array(grey(rng, 45, 140), np.float32)
    ground = np.empty((*x.shape, 3), np.float32)
    ground[:] = pavement
    if rng.random() < 0.55:
        size = float(rng.uniform(0.3, 1.6))
        line = np.minimum(
            _near_multiple(along, size), _near_multiple(across, size * float(rng.uniform(0.5, 1.0)))
        )
        joint = np.clip(1.2 - line / np.maximum(pixel, 0.02), 0, 1) * np.clip(size / (4 * pixel) - 0.3, 0, 1)
        ground *= 1 - np.float32(rng.uniform(0.05, 0.3)) * joint[..., None]
    half = backdrop.road_width / 2
    on_road = np.clip((half - np.abs(across)) / pixel + 0.5, 0, 1)[..., None]
    ground += (asphalt - ground) * on_road
    kerb = np.clip(1.0 - np.abs(np.abs(across) - half - 0.1) / np.maximum(0.12, pixel), 0, 1)[..., None]
    ground += (np.float32(rng.uniform(90, 220)) - ground) * kerb * np.float32(rng.uniform(0.2, 0.9))
    marks = np.zeros_like(across)
    if rng.random() < 0.7:
        dash = float(rng.uniform(2, 5)) if rng.random() < 0.7 else 1e6
        dashed = (np.mod(along, 2 * dash) < dash).astype(np.float32)
        marks = np.maximum(
            marks, np.clip(1.3 - np.abs(across) / np.maximum(0.09, pixel * 0.7), 0, 1) * dashed
        )
        edge = np.clip(1.2 - np.abs(np.abs(across) - half + 0.35) / np.maximum(0.07, pixel * 0.7), 0, 1)
        marks = np.maximum(marks, edge * np.float32(rng.random() < 0.5))
    if rng.random() < 0.3:
        place = float(rng.uniform(-6, 6))
        bars = (np.mod(across, 1.0) < 0.5) & (np.abs(along - place) < 1.6) & (np.abs(across) < half - 0.3)
        marks = np.maximum(marks, bars.astype(np.float32))
    white = np.array(grey(rng, 190, 245) if rng.random() < 0.85 else (225, 190, 60), np.float32)
    ground += (white - ground) * (marks * np.float32(rng.uniform(0.4, 0.95)))[..., None]
    tile = cloud_noise(rng, 256, 256, coarsest=0.25, fall=0.95)
    finer = cv2.remap(tile, along * 24, across * 24, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    stains = cv2.remap(tile, along * 3.1 + 40, across * 3.1, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fade = np.clip(0.04 / pixel, 0, 1)
    texture = finer * fade * np.float32(rng.uniform(2, 16)) + stains * np.float32(rng.uniform(2, 14))
    texture += cloud_noise(rng, *x.shape, fall=0.9) * np.float32(rng.uniform(1, 5))
    ground += texture[..., None]
    canvas[top:] = np.clip(ground, 0, 255).astype(np.uint8)


def _near_multiple(values: Floats, period: float) -> Floats:
    """Distance to the nearest multiple of the period."""
    rest = np.mod(values, np.float32(period))
    return np.minimum(rest, np.float32(period) - rest)


def facade(rng: Rng, height: int, width: int) -> Bytes:
    """A house's front, `height` pixels for two to six floors."""
    wall = (
        any_colour(rng)
        if rng.random() < 0.2
        else hsv(rng.uniform(0.02, 0.14), rng.uniform(0.0, 0.5), rng.uniform(0.25, 0.92))
    )
    front = np.zeros((height, width, 3), np.float32)
    front[:] = wall
    if rng.random() < 0.3:
        step = int(rng.integers(3, 7))
        front[::step] *= 0.85
    floors = int(rng.integers(2, 7))
    floor = height / floors
    bay = floor * float(rng.uniform(0.5, 1.2))
    glass, frame = grey(rng, 20, 120), tint(wall, float(rng.uniform(0.6, 1.5)))
    tall, wide = float(rng.uniform(0.4, 0.75)), float(rng.uniform(0.35, 0.85))
    shop = rng.random() < 0.5
    for level in range(floors):
        bottom = height - level * floor
        ground_floor = level == 0
        if ground_floor and shop:
            front[int(bottom - floor * 0.95) : int(bottom - floor * 0.72)] = any_colour(rng)
        for column in range(math.ceil(width / bay)):
            left = column * bay + bay * (1 - wide) / 2
            low = bottom - floor * (0.05 if ground_floor and shop else 0.15)
            box = [int(left), int(low - floor * tall), int(left + bay * wide), int(low)]
            if ground_floor and not shop and rng.random() < 0.3:
                box[3] = int(bottom)
            lit = tint(glass, float(rng.uniform(0.6, 1.7)))
            if rng.random() < 0.06:
                lit = (235.0, 205.0, 140.0)
            cv2.rectangle(front, (box[0] - 1, box[1] - 1), (box[2] + 1, box[3] + 1), frame, -1)
            cv2.rectangle(front, (box[0], box[1]), (box[2], box[3]), lit, -1)
            if box[2] - box[0] > 6 and rng.random() < 0.8:
                middle = (box[0] + box[2]) // 2
                cv2.line(front, (middle, box[1]), (middle, box[3]), frame, 1)
    front += cloud_noise(rng, height, width, fall=0.9)[..., None] * float(rng.uniform(3, 14))
    return np.clip(front, 0, 255).astype(np.uint8)


def _houses(
    canvas: Bytes, backdrop: Backdrop, rng: Rng, *, view: View, width: int, margin: tuple[int, int]
) -> None:
    """A row of fronts across the picture, behind the ground in view."""
    distance = backdrop.depth * float(rng.uniform(1.8, 5.0))
    scale = view.focal / distance
    base = int(view.horizon + view.camera_height * scale + margin[1])
    column = -int(rng.uniform(0, 40))
    while column < canvas.shape[1]:
        wide = max(8, int(rng.uniform(6, 22) * scale))
        tall = max(6, int(rng.uniform(3.5, 18) * scale))
        if rng.random() < 0.85:
            front = facade(rng, min(tall, 400), min(wide, 500))
            top, left = base - front.shape[0], column
            rows, columns = (
                slice(max(0, top), min(base, canvas.shape[0])),
                slice(max(0, left), min(left + front.shape[1], canvas.shape[1])),
            )
            if rows.stop > rows.start and columns.stop > columns.start:
                canvas[rows, columns] = front[
                    rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                ]
        column += wide + (int(rng.uniform(0, 6) * scale) if rng.random() < 0.25 else 0)


def _side_walls(
    canvas: Bytes, backdrop: Backdrop, rng: Rng, *, view: View, width: int, margin: tuple[int, int]
) -> None:
    """Fronts along the sides that run towards the vanishing point."""
    sides = [side for side in (-1.0, 1.0) if rng.random() < 0.75]
    for side in sides:
        x = side * backdrop.depth * float(rng.uniform(0.35, 0.9)) * width / view.focal
        near, far = (
            backdrop.depth * float(rng.uniform(0.3, 0.8)),
            backdrop.depth * float(rng.uniform(2.0, 8.0)),
        )
        tall = float(rng.uniform(4, 14))
        texture = np.concatenate([facade(rng, 120, int(rng.integers(60, 140))) for _ in range(3)], axis=1)
        corners = []
        for up, z in ((tall, far), (tall, near), (0.0, near), (0.0, far)):
            scale = view.focal / z
            corners.append(
                (
                    width / 2 + x * scale + margin[0],
                    view.horizon + (view.camera_height - up) * scale + margin[1],
                )
            )
        source = np.array(
            [[0, 0], [texture.shape[1], 0], [texture.shape[1], texture.shape[0]], [0, texture.shape[0]]],
            np.float32,
        )
        warp = cv2.getPerspectiveTransform(source, np.array(corners, np.float32))
        size = (canvas.shape[1], canvas.shape[0])
        laid = cv2.warpPerspective(texture, warp, size, flags=cv2.INTER_AREA)
        where = cv2.warpPerspective(np.full(texture.shape[:2], 255, np.uint8), warp, size)
        np.copyto(canvas, laid.astype(np.uint8, copy=False), where=(where > 127)[..., None])


def _greenery(canvas: Bytes, rng: Rng, *, row: float, reach: float) -> None:
    """Bushes and crowns of trees in the distance."""
    for _ in range(int(rng.integers(1, 5))):
        tall, wide = max(6, int(rng.uniform(0.2, 1.0) * reach)), max(8, int(rng.uniform(0.3, 1.6) * reach))
        patch = dead_leaves(rng, tall, wide, palette=(float(rng.uniform(0.18, 0.36)), 0.04))
        blob = cloud_noise(rng, tall, wide, coarsest=0.4)
        ys, xs = np.mgrid[0:tall, 0:wide]
        round_shape = 1 - ((ys / tall - 0.5) / 0.5) ** 2 - ((xs / wide - 0.5) / 0.5) ** 2
        keep = round_shape + 0.45 * blob > 0.15
        left, top = (
            int(rng.uniform(-wide / 2, canvas.shape[1] - wide / 2)),
            int(row - tall * rng.uniform(0.6, 1.0)),
        )
        rows = slice(max(0, top), max(0, min(top + tall, canvas.shape[0])))
        columns = slice(max(0, left), max(0, min(left + wide, canvas.shape[1])))
        if rows.stop > rows.start and columns.stop > columns.start:
            own = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
            np.copyto(canvas[rows, columns], patch[own], where=keep[own][..., None])
