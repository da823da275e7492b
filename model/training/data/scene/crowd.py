"""Who is in a street scene, where they come from and where they go. Chances and speeds are ours."""

from __future__ import annotations

import math

import numpy as np

from model.training.data.scene.scenes import Actor, View
from model.training.data.scene.values import draw_seed, rounded

__all__ = ["Crowd", "ground_range"]

Rng = np.random.Generator

_PERSON_METRES = 1.7
_LEAST_PIXELS, _MOST_PIXELS = 12.0, 160.0
"""Heights of people at a picture 192 rows high; they grow with the picture."""
REFERENCE_ROWS = 192
_HAND_METRES = 1.95
"""Below this height a camera is in somebody's hand, and people's feet may be below the picture."""
_LONG_FOCAL = 3.0
"""Focal lengths above this many picture heights, in a hand, bring people larger than the picture."""


def ground_range(view: View, height: int) -> tuple[float, float]:
    """Distances to the far and near end of where people are drawn."""
    unit = view.camera_height / _PERSON_METRES * height / REFERENCE_ROWS
    least = max(_LEAST_PIXELS * unit, 0.08 * height - view.horizon)
    below = 1.08 if view.camera_height >= _HAND_METRES else 2.4 if view.focal > _LONG_FOCAL * height else 1.5
    most = _MOST_PIXELS * (2.2 if below > 2 else 1.0)
    most = max(least * 1.2, min(most * unit, below * height - view.horizon))
    reach = view.camera_height * view.focal
    return reach / least, reach / most


class Crowd:
    """Draws the actors of one scene and keeps them on the ground in view."""

    def __init__(
        self, rng: Rng, *, view: View, height: int, width: int, duration: float, road: float, depth: float
    ) -> None:
        self.rng, self.view, self.height, self.width = rng, view, height, width
        self.duration, self.road, self.depth = duration, road, depth
        self.far, self.near = ground_range(view, height)
        self.actors: list[Actor] = []

    def fill(self, *, walkers: bool = True) -> None:
        """Draw everybody, or everybody who is not on foot."""
        rng = self.rng
        if rng.random() < 0.015:
            return
        wanted = int(min(16, 1 + rng.poisson(float(rng.choice([2.0, 5.0, 9.0])))))
        theme = rng.dirichlet((3.5, 1.0, 1.7, 0.4, 0.45))
        if not walkers:
            theme[0] = 0.0
            theme /= theme.sum()
        while len(self.actors) < wanted:
            group = str(rng.choice(["walker", "rider", "vehicle", "animal", "blob"], p=theme))
            if group == "walker":
                self._walkers()
            elif group == "rider":
                self._add(
                    "scooter" if rng.random() < 0.2 else "cyclist",
                    rng.uniform(1.55, 1.95),
                    (2.0, 6.5),
                    along=0.7,
                )
            elif group == "vehicle":
                self._vehicle()
            elif group == "animal":
                self._add(
                    "animal", rng.choice([0.35, 0.5, 0.7, 1.5]) * rng.uniform(0.8, 1.2), (0.4, 3.0), along=0.4
                )
            else:
                self._add("blob", rng.uniform(0.3, 1.7), (0.2, 3.5), along=0.3)

    def _walkers(self) -> None:
        """Somebody alone, side by side with others, or crossing somebody's way."""
        rng = self.rng
        child = rng.random() < 0.12
        tall = rng.uniform(1.0, 1.45) if child else rng.normal(1.72, 0.09)
        running = rng.random() < 0.08
        speeds = (2.4, 4.2) if running else (0.7, 1.8)
        draw = rng.random()
        if draw < 0.14:
            self._standing("walker", tall)
            return
        first = self._add("walker", tall, speeds, along=0.6)
        if draw < 0.42:
            gap = rng.uniform(0.45, 0.8)
            for step in range(1, int(rng.integers(2, 4))):
                self._next_to(first, gap * step * (1 if rng.random() < 0.5 else -1), rng.uniform(-0.4, 0.4))
        elif draw < 0.6:
            self._crossing(first, speeds)

    def _vehicle(self) -> None:
        rng = self.rng
        kind = str(rng.choice(["car", "van", "bus", "truck"], p=[0.68, 0.16, 0.07, 0.09]))
        low, high = {"car": (1.35, 1.75), "van": (1.9, 2.5), "bus": (2.8, 3.2), "truck": (2.4, 3.6)}[kind]
        tall = rng.uniform(low, high)
        if rng.random() < 0.12:
            self._standing(kind, tall)
        else:
            self._add(kind, tall, (1.5, 11.0), along=0.92)

    def anchor(self, metres: float) -> tuple[float, float]:
        """A place on the ground in view; sizes in the picture spread evenly in their logarithm."""
        rng = self.rng
        low = self.near * (1.0 if metres < 2 else 1.25)
        z = math.exp(rng.uniform(math.log(min(low, 0.9 * self.far)), math.log(self.far)))
        x = rng.uniform(-0.53, 0.53) * self.width * z / self.view.focal
        return x, z

    def _standing(self, kind: str, metres: float) -> None:
        rng = self.rng
        x, z = self.anchor(metres)
        yaw = rng.uniform(-math.pi, math.pi) if kind == "walker" else self.road + math.pi * rng.integers(0, 2)
        self._keep(kind, metres, [0.0], [x], [z], yaw=float(yaw))

    def _add(self, kind: str, metres: float, speeds: tuple[float, float], *, along: float) -> Actor:
        """Somebody who passes a place in view; `along` is the chance to follow the road."""
        rng = self.rng
        x, z = self.anchor(metres)
        heading = self.road + math.pi * int(rng.integers(0, 2)) + rng.normal(0, 0.06)
        if rng.random() > along:
            heading = rng.uniform(-math.pi, math.pi)
        speed = rng.uniform(*speeds)
        # nothing crosses the picture faster than in a second and a bit
        fastest = 0.8 * self.width * z / self.view.focal
        return self._walk(kind, metres, (x, z), heading, min(speed, fastest), rng.uniform(0, self.duration))

    def _walk(
        self, kind: str, metres: float, place: tuple[float, float], heading: float, speed: float, when: float
    ) -> Actor:
        """Waypoints through `place` at `when`, with turns and pauses before and after it."""
        rng = self.rng
        nimble = kind in ("walker", "animal", "blob")
        times, xs, zs = [when], [place[0]], [place[1]]
        for direction in (1, -1):
            t, x, z, course = when, *place, heading
            end = self.duration + 1.0 if direction > 0 else -1.0
            while (end - t) * direction > 1e-6:
                step = min(abs(end - t), rng.uniform(1.0, 4.5))
                pace = speed * rng.uniform(0.85, 1.15)
                draw = rng.random()
                if draw < (0.2 if nimble else 0.12):
                    pace, step = 0.0, min(abs(end - t), rng.uniform(0.8, 3.5))
                elif draw < (0.42 if nimble else 0.18):
                    course += rng.normal(0, 0.9 if nimble else 0.35)
                z_step = pace * step * direction * math.sin(course)
                if not 0.55 * self.near < z + z_step < 1.6 * self.far:
                    course, z_step = -course, -z_step
                if not 0.55 * self.near < z + z_step < 1.6 * self.far:
                    course, z_step = (0.0 if math.cos(course) >= 0 else math.pi), 0.0
                x, z, t = x + pace * step * direction * math.cos(course), z + z_step, t + step * direction
                for values, value in ((times, t), (xs, x), (zs, z)):
                    values.insert(len(values) if direction > 0 else 0, value)
        return self._keep(kind, metres, times, xs, zs, yaw=heading)

    def _next_to(self, other: Actor, lateral: float, ahead: float) -> None:
        """Somebody who walks next to another: a separate instance on a parallel way."""
        rng = self.rng
        dx, dz = other.xs[-1] - other.xs[0], other.zs[-1] - other.zs[0]
        length = math.hypot(dx, dz)
        ux, uz = (dx / length, dz / length) if length > 0.1 else (1.0, 0.0)
        self._keep(
            "walker",
            rng.normal(1.7, 0.1) if rng.random() < 0.85 else rng.uniform(1.0, 1.4),
            list(other.times),
            [x - uz * lateral + ux * ahead for x in other.xs],
            [z + ux * lateral + uz * ahead for z in other.zs],
            yaw=other.yaw + rng.normal(0, 0.3),
        )

    def _crossing(self, other: Actor, speeds: tuple[float, float]) -> None:
        """Somebody who comes the other way and passes close to where the other is at that time."""
        rng = self.rng
        when = rng.uniform(0.25, 0.75) * self.duration
        x = float(np.interp(when, other.times, other.xs))
        z = float(np.interp(when, other.times, other.zs)) + rng.normal(0, 0.7)
        if 0.5 * self.near < z < 1.6 * self.far:
            heading = (
                math.atan2(other.zs[-1] - other.zs[0], other.xs[-1] - other.xs[0])
                + math.pi
                + rng.normal(0, 0.4)
            )
            self._walk("walker", rng.normal(1.7, 0.1), (x, z), heading, rng.uniform(*speeds), when)

    def _keep(
        self, kind: str, metres: float, times: list[float], xs: list[float], zs: list[float], *, yaw: float
    ) -> Actor:
        actor = Actor(
            kind=kind,
            seed=draw_seed(self.rng),
            height=rounded(metres),
            times=tuple(rounded(t) for t in times),
            xs=tuple(rounded(x) for x in xs),
            zs=tuple(rounded(z) for z in zs),
            yaw=rounded(yaw),
        )
        self.actors.append(actor)
        return actor
