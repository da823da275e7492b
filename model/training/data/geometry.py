"""Where things are: along their waypoints, on the ground, in the reference picture, in the moving picture.

n points; positions on the ground and in space are (X, up, Z) metres, in pictures (x, y) pixels with the first
pixel covering 0..1.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.scenes import Actor, Camera, Scene, View

__all__ = ["Pose", "camera_matrix", "pose", "project", "to_image"]

Points = NDArray[np.float64]

_NEAR_METRES = 0.25
_SMOOTHING_SECONDS = np.linspace(-0.35, 0.35, 9)
_JITTER_PARTS = ((1.0, 1.0), (2.3, 0.5), (4.1, 0.3))
"""Frequency and amplitude of the shake's sines, relative to the slowest."""


class Pose(NamedTuple):
    """An actor at one time."""

    x: float
    z: float
    heading: float
    """Radians from X towards Z."""
    speed: float
    """Metres per second."""
    distance: float
    """Metres gone since the first waypoint: what a gait's phase hangs on."""


def project(points: Points, *, view: View, width: int) -> Points:
    """(n, 3) metres → (n, 2) pixels of the reference picture; what is behind the camera is held before it."""
    scale = view.focal / np.maximum(points[:, 2], _NEAR_METRES)
    return np.stack(
        (width / 2 + points[:, 0] * scale, view.horizon + (view.camera_height - points[:, 1]) * scale), axis=1
    )


def to_image(points: Points, matrix: Points) -> Points:
    """(n, 2) pixels of the reference picture → (n, 2) of the camera's at one time."""
    return points @ matrix[:, :2].T + matrix[:, 2]


@lru_cache(maxsize=4096)
def _track(actor: Actor) -> tuple[Points, Points, Points, Points]:
    """Cumulated metres at the waypoints; cos, sin of the heading and speed of each segment."""
    times, xs, zs = (np.asarray(values, np.float64) for values in (actor.times, actor.xs, actor.zs))
    dx, dz, dt = np.diff(xs), np.diff(zs), np.diff(times)
    lengths = np.hypot(dx, dz)
    headings = np.empty(len(dx))
    last = actor.yaw
    for index, length in enumerate(lengths):
        last = math.atan2(dz[index], dx[index]) if length > 1e-6 else last
        headings[index] = last
    gone = np.concatenate(([0.0], np.cumsum(lengths)))
    return gone, np.cos(headings), np.sin(headings), lengths / np.maximum(dt, 1e-9)


def pose(actor: Actor, seconds: float) -> Pose:
    """Where the actor is; corners and starts are rounded over two thirds of a second."""
    times = np.asarray(actor.times)
    if len(times) < 2:
        return Pose(actor.xs[0], actor.zs[0], actor.yaw, 0.0, 0.0)
    gone, cosines, sines, speeds = _track(actor)
    when = np.clip(seconds + _SMOOTHING_SECONDS, times[0], times[-1])
    segment = np.clip(np.searchsorted(times, when, side="right") - 1, 0, len(times) - 2)
    return Pose(
        x=float(np.interp(when, times, actor.xs).mean()),
        z=float(np.interp(when, times, actor.zs).mean()),
        heading=math.atan2(float(sines[segment].mean()), float(cosines[segment].mean())),
        speed=float(speeds[segment].mean()),
        distance=float(np.interp(when, times, gone).mean()),
    )


def camera_matrix(scene: Scene, seconds: float) -> Points:
    """(2, 3): pixels of the reference picture → pixels of the picture at that time."""
    camera = scene.camera
    swing = math.sin(camera.pan_rate * seconds + camera.pan_phase)
    shake = [
        camera.jitter * sum(
            part * math.sin(2 * math.pi * camera.jitter_rate * rate * seconds + camera.phases[axis] * rate)
            for rate, part in _JITTER_PARTS
        )
        for axis in range(2)
    ]
    roll = camera.roll * math.sin(2 * math.pi * camera.jitter_rate * 0.7 * seconds + camera.phases[2])
    zoom = camera.zoom * math.exp(
        camera.zoom_amplitude * math.sin(camera.zoom_rate * seconds + camera.phases[3])
    )
    cosine, sine = zoom * math.cos(roll), zoom * math.sin(roll)
    centre = np.array([scene.width / 2, scene.height / 2])
    linear = np.array([[cosine, -sine], [sine, cosine]])
    looked_at = centre + np.array(camera.pan) * swing
    offset = centre + np.array(shake) - linear @ looked_at
    return np.concatenate((linear, offset[:, None]), axis=1)


def is_still(camera: Camera) -> bool:
    """True where `camera_matrix` is the same at every time."""
    return not any((*camera.pan, camera.zoom_amplitude, camera.jitter, camera.roll))
