"""The renderer: what a frame depends on, who covers whom, what a mask covers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.data.render import SceneRenderer, render
from model.training.data.scene.geometry import camera_matrix, project, to_image
from model.training.data.scene.scenes import Actor, Backdrop, Camera, Clutter, Light, Look, Scene, View
from model.training.data.street import draw_scene

ROOT = Path(__file__).resolve().parents[4]

PLAIN = Scene(
    seed=5,
    height=96,
    width=160,
    num_frames=40,
    fps=10.0,
    view=View(horizon=0.0, camera_height=3.0, focal=200.0),
    camera=Camera(),
    backdrop=Backdrop(kind="street", seed=1),
    light=Light(contact=0.0),
    look=Look(blur=0.0, noise=0.0),
    actors=(),
)
"""An empty street through a perfect camera."""


def standing(
    kind: str = "walker", *, x: float = 0.0, z: float = 7.0, height: float = 1.7, seed: int = 1
) -> Actor:
    return Actor(kind=kind, seed=seed, height=height, times=(0.0,), xs=(x,), zs=(z,))


def walking(*, z: float = 7.0, speed: float = 1.4) -> Actor:
    return Actor(
        kind="walker", seed=2, height=1.7, times=(-1.0, 5.0), xs=(-1.0 - speed, 5.0 * speed - 1.0), zs=(z, z)
    )


def frames(scene: Scene, indices: list[int]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint16]]]:
    renderer = SceneRenderer(scene)
    return [renderer(index) for index in indices]


@pytest.mark.parametrize("seed", [1, 8, 21])
def test_frame_does_not_depend_on_the_frames_rendered_before(seed: int) -> None:
    scene = draw_scene(seed)
    forward = frames(scene, [0, 1, 2, 17])
    alone = frames(scene, [17])
    np.testing.assert_array_equal(forward[-1][0], alone[0][0])
    np.testing.assert_array_equal(forward[-1][1], alone[0][1])
    assert (forward[0][0] != forward[1][0]).any()


def test_other_processes_and_thread_counts_render_the_same_frames() -> None:
    code = (
        "import sys, hashlib, cv2\n"
        "cv2.setNumThreads(int(sys.argv[1]))\n"
        "from model.training.data.render import render\n"
        "from model.training.data.street import draw_scene\n"
        "scenes = [draw_scene(seed) for seed in (2, 11, 30)]\n"
        "parts = [part.tobytes() for scene in scenes for index in (3, 25) for part in render(scene, index)]\n"
        "print(hashlib.sha256(b''.join(parts)).hexdigest())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, threads], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for threads in ("1", "3")
    }
    scenes = [draw_scene(seed) for seed in (2, 11, 30)]
    parts = [part.tobytes() for scene in scenes for index in (3, 25) for part in render(scene, index)]
    assert found == {hashlib.sha256(b"".join(parts)).hexdigest() + "\n"}


@pytest.mark.parametrize("seed", range(12))
def test_identities_are_those_of_the_scene(seed: int) -> None:
    scene = draw_scene(seed)
    image, ids = render(scene, 20)
    assert image.shape == (192, 320, 3)
    assert image.dtype == np.uint8
    assert ids.shape == (192, 320)
    assert ids.max() <= len(scene.actors)


def test_mask_covers_what_the_actor_changed() -> None:
    empty, _ = render(PLAIN, 3)
    image, ids = render(replace(PLAIN, actors=(standing(),)), 3)
    changed = np.abs(image.astype(int) - empty).max(2) > 0
    inside = ids == 1
    assert inside.sum() > 100
    assert not (inside & ~changed).sum() > 0.1 * inside.sum()
    grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (changed & ~grown).any()


def test_person_is_as_tall_as_the_perspective_says() -> None:
    for z in (6.5, 9.0, 14.0):
        _, ids = render(replace(PLAIN, actors=(standing(z=z),)), 0)
        rows = np.flatnonzero((ids == 1).any(1))
        assert len(rows) == pytest.approx(1.7 * PLAIN.view.focal / z, rel=0.12)
        foot = project(np.array([[0.0, 0.0, z]]), view=PLAIN.view, width=PLAIN.width)[0]
        assert rows[-1] == pytest.approx(foot[1], abs=2.5)


def test_nearer_actor_covers_the_farther_whatever_their_order() -> None:
    near, far = standing(z=5.0, seed=1), standing("van", z=9.0, height=2.2, seed=3)
    _, first = render(replace(PLAIN, actors=(near, far)), 0)
    _, second = render(replace(PLAIN, actors=(far, near)), 0)
    _, alone = render(replace(PLAIN, actors=(near,)), 0)
    np.testing.assert_array_equal(first == 1, alone == 1)
    np.testing.assert_array_equal(second == 2, alone == 1)
    assert (first == 2).sum() > 100


def test_clutter_hides_only_what_is_behind_it() -> None:
    tree = Clutter(kind="bin", seed=4, x=0.0, z=6.0, height=1.2)
    behind, before = standing(z=8.0), standing(z=5.0)
    for actor, hidden in ((behind, True), (before, False)):
        _, free = render(replace(PLAIN, actors=(actor,)), 0)
        _, covered = render(replace(PLAIN, actors=(actor,), clutter=(tree,)), 0)
        assert bool((covered == 1).sum() < 0.9 * (free == 1).sum()) is hidden
        assert not ((covered == 1) & (free == 0)).any()


def test_shadow_darkens_the_ground_and_is_nobodys() -> None:
    still = replace(PLAIN, actors=(standing(),))
    sunny = replace(still, light=Light(sun=(1.2, 0.5), shadow=0.5, contact=0.0))
    plain, ids = render(still, 0)
    shaded, shaded_ids = render(sunny, 0)
    np.testing.assert_array_equal(ids, shaded_ids)
    darker = shaded.astype(int).sum(2) < plain.astype(int).sum(2) - 30
    assert darker.sum() > 50
    assert not (darker & (ids > 0)).any()


def test_mask_moves_with_a_panning_camera() -> None:
    still = replace(PLAIN, actors=(standing(),))
    panning = replace(still, camera=Camera(pan=(30.0, 0.0), pan_rate=1.0))
    where = []
    for scene in (still, panning):
        _, ids = render(scene, 8)
        where.append(np.argwhere(ids == 1).mean(0))
    shift = to_image(np.array([[80.0, 60.0]]), camera_matrix(panning, 0.8))[0] - (80.0, 60.0)
    assert abs(shift[0]) > 5
    np.testing.assert_allclose(where[1] - where[0], shift[::-1], atol=0.7)


def test_background_moves_with_the_camera() -> None:
    """Half a period later the picture has gone from 8 pixels left to 8 pixels right of the middle."""
    camera = Camera(pan=(8.0, 0.0), pan_phase=np.pi / 2, pan_rate=np.pi)
    panning = replace(PLAIN, camera=camera, look=replace(PLAIN.look, shutter=0.0))
    first, later = render(panning, 0)[0].astype(int), render(panning, 10)[0].astype(int)
    assert np.abs(first[:, :-16] - later[:, 16:]).max() <= 1
    assert np.abs(first - later).mean() > 1


def test_gait_stands_still_with_the_walker() -> None:
    still = Actor(kind="walker", seed=2, height=1.7, times=(-1.0, 5.0), xs=(0.0, 0.0), zs=(6.0, 6.0))
    for actor, changes in ((still, False), (walking(z=6.0), True)):
        outlines = []
        for _, ids in frames(replace(PLAIN, actors=(actor,)), [10, 13]):
            columns = np.flatnonzero(ids.any(0))
            outlines.append(int(columns[-1] - columns[0]))
        assert (abs(outlines[0] - outlines[1]) > 2) is changes


def test_frames_outside_the_scene_are_refused() -> None:
    for index in (-1, 40):
        with pytest.raises(IndexError, match=str(index)):
            render(PLAIN, index)


def test_missing_photographs_are_named() -> None:
    scene = replace(PLAIN, backdrop=Backdrop(kind="photo", seed=1, photo="square.png"))
    with pytest.raises(ValueError, match=r"square\.png"):
        render(scene, 0)
