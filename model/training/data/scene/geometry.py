"""Where things are: along their waypoints, on the ground, in the reference picture, in the moving picture.

n points; positions on the ground and in space are (X, up, Z) metres, in pictures (x, y) pixels with the first
pixel covering 0..1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.data.scene.scenes import Actor, Camera, Scene, View

__all__ = [
    "Pose",
    "Projector",
    "body_points",
    "camera_matrix",
    "centred",
    "is_still",
    "pose",
    "project",
    "to_image",
]

Points = NDArray[np.float64]
Projector = Callable[[Points], Points]
"""(n, 3) metres (X, up, Z) → (n, 2) pixels."""

_NEAR_METRES = 0.25
_SMOOTHING_SECONDS = (-0.35, -0.25, -0.15, -0.05, 0.05, 0.15, 0.25, 0.35)
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


def body_points(own: Points, pose: Pose) -> Points:
    """(n, 3) forward, left, up in metres → (n, 3) X, up, Z of the scene."""
    cosine, sine = math.cos(pose.heading), math.sin(pose.heading)
    points = np.empty((len(own), 3))
    points[:, 0] = pose.x + own[:, 0] * cosine - own[:, 1] * sine
    points[:, 1] = own[:, 2]
    points[:, 2] = pose.z + own[:, 0] * sine + own[:, 1] * cosine
    return points


def project(points: Points, *, view: View, width: int) -> Points:
    """(n, 3) metres → (n, 2) pixels of the reference picture; points behind the camera are put before it."""
    scale = view.focal / np.maximum(points[:, 2], _NEAR_METRES)
    pixels = np.empty((len(points), 2))
    pixels[:, 0] = width / 2 + points[:, 0] * scale
    pixels[:, 1] = view.horizon + (view.camera_height - points[:, 1]) * scale
    return pixels


def to_image(points: Points, matrix: Points) -> Points:
    """(n, 2) pixels of the reference picture → (n, 2) of the camera's at one time."""
    return points @ matrix[:, :2].T + matrix[:, 2]


class _Leg(NamedTuple):
    """What holds between two waypoints."""

    x_rate: float
    z_rate: float
    cosine: float
    sine: float
    speed: float
    gone: float
    """Metres before this leg."""


@lru_cache(maxsize=4096)
def _legs(actor: Actor) -> tuple[_Leg, ...]:
    found, last, gone = [], actor.yaw, 0.0
    for index in range(len(actor.times) - 1):
        dt = max(1e-9, actor.times[index + 1] - actor.times[index])
        dx, dz = actor.xs[index + 1] - actor.xs[index], actor.zs[index + 1] - actor.zs[index]
        length = math.hypot(dx, dz)
        last = math.atan2(dz, dx) if length > 1e-6 else last
        found.append(_Leg(dx / dt, dz / dt, math.cos(last), math.sin(last), length / dt, gone))
        gone += length
    return tuple(found)


def pose(actor: Actor, seconds: float) -> Pose:
    """Where the actor is; corners and starts are rounded over two thirds of a second."""
    times = actor.times
    if len(times) < 2:
        return Pose(actor.xs[0], actor.zs[0], actor.yaw, 0.0, 0.0)
    legs = _legs(actor)
    x = z = cosine = sine = speed = distance = 0.0
    for offset in _SMOOTHING_SECONDS:
        when = min(max(seconds + offset, times[0]), times[-1])
        index = min(max(bisect_right(times, when) - 1, 0), len(legs) - 1)
        leg, since = legs[index], when - times[index]
        x += actor.xs[index] + leg.x_rate * since
        z += actor.zs[index] + leg.z_rate * since
        cosine, sine, speed = cosine + leg.cosine, sine + leg.sine, speed + leg.speed
        distance += leg.gone + leg.speed * since
    count = len(_SMOOTHING_SECONDS)
    return Pose(x / count, z / count, math.atan2(sine, cosine), speed / count, distance / count)


def camera_matrix(scene: Scene, seconds: float) -> Points:
    """(2, 3): pixels of the reference picture → pixels of the picture at that time."""
    camera = scene.camera
    swing = math.sin(camera.pan_rate * seconds + camera.pan_phase)
    shake = [
        camera.jitter
        * sum(
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


def centred(matrix: Points, source: tuple[int, int], target: tuple[int, int]) -> Points:
    """The same map between crops whose corners are given, from pixel centres to pixel centres."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (np.array(source) + 0.5) - 0.5 - np.array(target)
    return moved
