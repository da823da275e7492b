"""Where a street scene is and how it is filmed: view, camera, light, sensor, scenery. Chances are ours."""

from __future__ import annotations

import math

import numpy as np

from model.training.data.scene.crowd import REFERENCE_ROWS, Crowd
from model.training.data.scene.scenes import Camera, Clutter, Light, Look, View
from model.training.data.scene.values import draw_seed, rounded

__all__ = ["draw_camera", "draw_clutter", "draw_light", "draw_look", "draw_view"]

Rng = np.random.Generator


def draw_view(rng: Rng, height: int, width: int) -> View:
    """Where the camera hangs and looks: on a wall, a mast, a roof or in a hand."""
    draw = rng.random()
    if draw < 0.38:  # a camera on a wall
        horizon, up = rng.uniform(0.1, 0.45), rng.uniform(2.0, 4.0)
    elif draw < 0.70:  # on a mast, looking down
        horizon, up = rng.uniform(-0.7, 0.2), rng.uniform(3.5, 8.0)
    elif draw < 0.82:  # on a roof
        horizon, up = rng.uniform(-1.8, -0.2), rng.uniform(8.0, 18.0)
    else:  # in somebody's hand
        horizon, up = rng.uniform(0.3, 0.55), rng.uniform(1.3, 1.9)
    return View(
        horizon=rounded(horizon * height),
        camera_height=rounded(up),
        focal=rounded(rng.uniform(0.8, 2.2) * width),
    )


def draw_clutter(rng: Rng, crowd: Crowd) -> tuple[Clutter, ...]:
    """Poles, trees, fences and the like, and the wind that bends them."""
    things = []
    wind = rng.uniform(0.005, 0.05) if rng.random() < 0.45 else 0.0
    for _ in range(int(rng.choice([0, 1, 2, 4, 7], p=[0.25, 0.2, 0.25, 0.2, 0.1]))):
        kind = str(
            rng.choice(
                ["pole", "tree", "fence", "sign", "bin", "bush", "bollard"],
                p=[0.27, 0.17, 0.1, 0.12, 0.12, 0.12, 0.1],
            )
        )
        low, high = {
            "pole": (3, 9),
            "tree": (3, 9),
            "fence": (0.8, 1.6),
            "sign": (1.8, 3.2),
            "bin": (0.7, 1.3),
            "bush": (0.5, 1.8),
            "bollard": (0.6, 1.1),
        }[kind]
        x, z = crowd.anchor(1.7)
        things.append(
            Clutter(
                kind=kind,
                seed=draw_seed(rng),
                x=rounded(x),
                z=rounded(z * rng.uniform(0.8, 1.3)),
                height=rounded(rng.uniform(low, high)),
                sway=rounded(wind * rng.uniform(0.3, 1.0)) if kind in ("tree", "bush") else 0.0,
                sway_rate=rounded(rng.uniform(0.2, 1.2)),
                sway_phase=rounded(rng.uniform(0, 2 * math.pi)),
            )
        )
    return tuple(things)


def draw_camera(rng: Rng, height: int) -> Camera:
    """How the camera moves: still, shaking, panning, zooming or carried."""
    phases = tuple(rounded(value) for value in rng.uniform(0, 2 * math.pi, 6))
    draw, unit = rng.random(), height / REFERENCE_ROWS
    if draw < 0.52:
        return Camera(phases=phases)
    if draw < 0.62:  # a mast in the wind
        return Camera(
            jitter=rounded(rng.uniform(0.15, 0.9) * unit),
            jitter_rate=rounded(rng.uniform(0.5, 2.0)),
            phases=phases,
        )
    if draw < 0.76:
        return Camera(
            pan=(rounded(rng.uniform(15, 110) * unit), rounded(rng.uniform(-12, 12) * unit)),
            pan_rate=rounded(rng.uniform(0.15, 0.8)),
            pan_phase=phases[4],
            phases=phases,
            jitter=rounded(rng.uniform(0, 0.6) * unit),
            jitter_rate=1.0,
        )
    if draw < 0.84:
        return Camera(
            zoom=rounded(rng.uniform(1.0, 1.15)),
            zoom_amplitude=rounded(rng.uniform(0.03, 0.2)),
            zoom_rate=rounded(rng.uniform(0.15, 0.7)),
            phases=phases,
            pan=(rounded(rng.uniform(0, 20) * unit), 0.0),
            pan_rate=rounded(rng.uniform(0.1, 0.5)),
            pan_phase=phases[4],
        )
    return Camera(
        jitter=rounded(rng.uniform(0.8, 4.5) * unit),
        jitter_rate=rounded(rng.uniform(0.3, 1.0)),
        roll=rounded(rng.uniform(0, 0.015)),
        phases=phases,
        zoom=rounded(rng.uniform(1.0, 1.08)),
        pan=(rounded(rng.uniform(0, 50) * unit), 0.0),
        pan_rate=rounded(rng.uniform(0.1, 0.5)),
        pan_phase=phases[4],
    )


def draw_light(rng: Rng, night: float, duration: float) -> Light:
    """Sun, shadows, clouds, flicker and changes of the light over the scene."""
    sunny = rng.random() < 0.45 and not night
    return Light(
        sun=(rounded(rng.uniform(-1.6, 1.6)), rounded(rng.uniform(-1.2, 1.2))),
        shadow=rounded(rng.uniform(0.12, 0.6)) if sunny else 0.0,
        contact=rounded(rng.uniform(0.1, 0.5)),
        softness=rounded(rng.uniform(0.02, 0.15)),
        night=night,
        flicker=rounded(rng.uniform(0.0, 0.04)) if rng.random() < 0.3 else 0.0,
        flicker_rate=rounded(rng.uniform(0.1, 3.0)),
        step_seconds=rounded(rng.uniform(0, duration)) if rng.random() < 0.07 else -1.0,
        step_gain=rounded(rng.uniform(0.7, 1.35)),
        cloud=rounded(rng.uniform(0.05, 0.35)) if rng.random() < 0.12 else 0.0,
        cloud_seed=draw_seed(rng),
    )


def draw_look(rng: Rng, night: float, height: int) -> Look:
    """What lens, sensor, compression and overlay make of the picture."""
    draw = rng.random()
    saturation = 0.0 if draw < 0.07 else rng.uniform(0.25, 0.8) if draw < 0.55 else rng.uniform(0.8, 1.25)
    warm, green = rng.normal(0, 0.07), rng.normal(0, 0.03)
    noise = float(
        rng.choice([rng.uniform(0, 2), rng.uniform(1, 5), rng.uniform(4, 12)], p=[0.55, 0.33, 0.12])
    )
    return Look(
        gain=rounded(rng.uniform(0.75, 1.2)),
        contrast=rounded(rng.uniform(0.65, 1.2)),
        gamma=rounded(math.exp(rng.normal(0, 0.22))),
        black=rounded(rng.uniform(-0.03, 0.06)),
        balance=(rounded(1 + warm), rounded(1 - abs(warm) / 3 + green), rounded(1 - warm)),
        saturation=rounded(saturation),
        blur=rounded(
            rng.choice([rng.uniform(0.2, 0.7), rng.uniform(0.6, 1.3)], p=[0.7, 0.3]) * height / REFERENCE_ROWS
        ),
        sharpen=rounded(rng.uniform(0.2, 0.9)) if rng.random() < 0.25 else 0.0,
        noise=rounded(noise * (1.6 if night else 1.0)),
        grain=int(rng.integers(0, 3)),
        shutter=rounded(rng.uniform(0.05, 0.9)),
        vignette=rounded(rng.uniform(0.1, 0.5)) if rng.random() < 0.2 else 0.0,
        jpeg_quality=int(rng.integers(28, 96)) if rng.random() < 0.65 else 0,
        overlay=str(rng.choice(["CAM 1", "2026-05-17", "Ch03"])) if rng.random() < 0.12 else "",
        overlay_corner=int(rng.integers(0, 4)),
    )
