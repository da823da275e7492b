"""Cuts: another scene is one; pans, noise, what passes by, a lamp and a black frame are none."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from support.cue_scenes import HEIGHT, WIDTH, scene, texture

from model.cues.cut import CutDetector, ShotDetector


def test_pans_noise_and_passing_toys_are_no_cuts_but_another_scene_is() -> None:
    detector, noise = CutDetector(), np.random.default_rng(0)
    for i in range(30):
        noisy = scene(i, pan=3) + noise.normal(0, 8, (HEIGHT, WIDTH, 3))
        assert not detector.update(noisy.clip(0, 255).astype(np.uint8))
    assert detector.update(texture(seed=9))
    assert not detector.update(texture(seed=9))
    assert detector.update(texture(32, 48, seed=9))


def shot(seed: int, *, height: int = 192, width: int = 320) -> NDArray[np.uint8]:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 10, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_another_shot_is_seen_and_a_lamp_or_a_black_frame_is_none() -> None:
    first, second = shot(1), shot(2)
    detector = ShotDetector()
    assert not detector.update(first)
    assert not detector.update(first)
    assert not detector.update(np.clip(first * 0.3, 0, 255).astype(np.uint8))  # the light goes out
    assert not detector.update(first)  # and on again
    assert not detector.update(np.zeros_like(first))  # a lost picture
    assert not detector.update(first)
    assert detector.update(second)
    assert not detector.update(second)
    assert not detector.update(np.zeros_like(first))
    assert detector.update(first)  # a cut through black
    detector.reset()
    assert not detector.update(second)


def test_shots_are_told_by_luma_and_at_any_size_alike() -> None:
    for height, width in ((192, 320), (1080, 1920), (64, 96), (8, 8)):
        first, second = (shot(seed, height=height, width=width) for seed in (3, 8))
        for one, other in ((first, second), (first[..., 1], second[..., 1])):
            detector = ShotDetector()
            assert [detector.update(picture) for picture in (one, one, other, other)][:2] == [False, False]
            if height > 8:
                assert detector.update(one)
    detector = ShotDetector()
    detector.update(shot(1))
    assert detector.update(shot(1, height=96, width=160)), "another size"
