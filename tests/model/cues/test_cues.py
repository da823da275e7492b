"""Cues: what they show, when they know nothing, and that a clip's planes are the stream's, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from model.config import CUE_PLANES
from model.cues.state import (
    CUES,
    BackgroundDifference,
    CueState,
    CutDetector,
    FlowCue,
    ShotDetector,
    clip_cues,
    clip_indices,
    median_image,
    sample_indices,
    scale_motion,
)

HEIGHT, WIDTH = 64, 96
Image = NDArray[np.uint8]


def texture(height: int = HEIGHT, width: int = WIDTH, *, grain: int = 4, seed: int = 0) -> Image:
    """A smooth random picture, so that motion can be followed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // grain, width // grain, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


WIDE = texture(HEIGHT + 64, WIDTH + 400, grain=16, seed=3)
TOY = texture(24, 24, seed=4)


def scene(index: int, *, pan: int = 0) -> Image:
    """A toy that moves two pixels to the right a frame, over a scene that the camera pans along."""
    image = WIDE[32 : 32 + HEIGHT, pan * index : pan * index + WIDTH].copy()
    left = (4 + 2 * index) % (WIDTH - 24)
    image[20:44, left : left + 24] = TOY
    return image


def in_slow_order(samples: Sequence[Image], frame: Image) -> NDArray[np.float64]:
    """The background plane as its docstring says it, with numpy's median."""
    if len(samples) < 3:
        return np.zeros(frame.shape[:2])
    used = samples[-9:]
    used = used[1 - len(used) % 2 :]
    difference = np.abs(frame.astype(float) - np.median(np.stack(used), axis=0)).max(axis=2)
    return np.minimum(difference / 64, 2)


@pytest.mark.parametrize("num", [1, 3, 5, 7, 9, 11])
def test_median_of_images_is_exact(num: int) -> None:
    images = list(np.random.default_rng(num).integers(0, 256, (num, 13, 7, 3), dtype=np.uint8))
    before = [image.copy() for image in images]
    assert np.array_equal(median_image(images), np.median(np.stack(images), axis=0))
    assert all(map(np.array_equal, images, before))
    with pytest.raises(ValueError, match="odd number"):
        median_image([*images, images[0]])


def test_background_is_the_median_of_samples_every_half_second() -> None:
    cue, samples = BackgroundDifference(), []
    for index in range(75):
        frame = scene(index)
        plane = cue.update(frame, index / 10)
        assert plane.shape == (1, HEIGHT, WIDTH)
        assert plane.dtype == np.float32
        assert np.array_equal(plane[0], in_slow_order(samples, frame))
        assert plane.any() == cue.warm if index != 10 else not plane.any()
        if index % 5 == 0:
            samples.append(frame)
    # A few seconds on, the toy alone is left.
    inside = plane[0, 20:44, (4 + 2 * 74) % 72 :][:, :24]
    assert inside.mean() > 0.5
    assert plane.sum() == pytest.approx(inside.sum())


def test_what_stands_still_becomes_background_and_what_leaves_shows_where_it_stood() -> None:
    cue = BackgroundDifference()
    empty, parked = WIDE[:HEIGHT, :WIDTH], WIDE[:HEIGHT, :WIDTH].copy()
    parked[10:34, 10:34] = TOY
    planes = [cue.update(empty if i < 40 or i >= 80 else parked, i / 10) for i in range(90)]
    assert not planes[39].any()
    assert planes[41].max() > 0.5
    assert not planes[79].any()
    assert planes[81].max() > 0.5


def test_samples_follow_stream_time_not_the_count_of_frames() -> None:
    sparse, dense = BackgroundDifference(), BackgroundDifference()
    dense_planes = {i: dense.update(scene(i), 7.0 + i / 10) for i in range(60)}
    # The same scene at half the rate, and times in whole milliseconds as some containers have them.
    for i in range(0, 60, 5):
        assert np.array_equal(sparse.update(scene(i), round(1.3333 + i / 10, 3)), dense_planes[i])
    # A clock that goes back without a gap starts the slots again and loses no sample.
    assert dense.update(scene(60), 0.0).any()
    assert dense.update(scene(61), 0.1).any()


@pytest.mark.parametrize("fps", [10.0, 7.0, 29.97, 1.5])
@pytest.mark.parametrize("cues", [("background",), ("flow",), ("background", "flow")])
def test_a_clips_planes_are_those_of_the_whole_stream(cues: tuple[str, ...], fps: float) -> None:
    state = CueState(cues)
    planes = [state.update(scene(i, pan=1), i / fps) for i in range(160)]
    assert state.num_cuts == 0
    for first, num_frames in ((0, 5), (9, 5), (20, 1), (33, 7), (155, 5)):
        asked: list[int] = []

        def frame(index: int, asked: list[int] = asked) -> Image:
            asked.append(index)
            return scene(index, pan=1)

        got = clip_cues(cues, frame, first=first, num_frames=num_frames, fps=fps)
        assert np.array_equal(got, np.stack(planes[first : first + num_frames]))
        assert asked == clip_indices(cues, first, num_frames, fps)
        assert len(asked) <= num_frames + 9 + ("flow" in cues)


def test_sample_indices() -> None:
    assert sample_indices(0, 10) == []
    assert sample_indices(5, 10) == [0]
    assert sample_indices(11, 10) == [0, 5, 10]
    assert sample_indices(100, 10) == list(range(55, 100, 5))
    assert clip_indices(("background", "flow"), 11, 2, 10) == [0, 5, 10, 11, 12]
    assert clip_indices(("background", "flow"), 13, 2, 10) == [0, 5, 10, 12, 13, 14]
    with pytest.raises(ValueError, match="fps=0"):
        sample_indices(3, 0)


def test_flow_shows_the_toy_and_not_the_cameras_pan() -> None:
    for pan in (0, 3):
        cue = FlowCue()
        assert not cue.update(scene(4, pan=pan), 0.4).any()
        right, down = cue.update(scene(5, pan=pan), 0.5)
        left = 4 + 2 * 5
        toy = right[26:38, left + 6 : left + 18]
        # Two pixels of the picture, while the ground moves by -pan: 4 pixels are 1.
        assert np.median(toy) == pytest.approx((2 + pan) / 4, abs=0.15)
        assert abs(np.median(down)) < 0.05
        assert np.median(np.abs(right[:, 60:])) < 0.1


@pytest.mark.parametrize("pan", [2, 3])
def test_flow_tells_the_cameras_motion_in_pixels_of_the_frame(pan: int) -> None:
    cue = FlowCue()
    assert cue.camera is None
    for index in range(6):
        cue.update(scene(index, pan=pan), index / 10)
        if index == 0:
            assert cue.camera is None, "nothing to compare it with"
            continue
        assert cue.camera is not None
        corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], np.float64)
        shifts = corners @ cue.camera[:, :2].T + cue.camera[:, 2] - corners
        assert np.abs(shifts - (-pan, 0)).max() < 1.0
    cue.update(scene(6, pan=pan), 5.0)
    assert cue.camera is None, "too far apart"
    cue.update(scene(7, pan=pan), 5.1)
    assert cue.camera is not None
    cue.reset()
    assert cue.camera is None


def test_a_still_camera_has_exactly_no_motion_whatever_moves_before_it() -> None:
    noise = np.random.default_rng(0)
    state = CueState(("background", "flow"))
    for index in range(12):
        grain = noise.integers(-3, 4, (HEIGHT, WIDTH, 3))
        state.update(np.clip(scene(index) + grain, 0, 255).astype(np.uint8), index / 10)
        assert (state.camera is None) == (index == 0)
        assert state.camera is None or np.array_equal(state.camera, np.eye(2, 3))
    assert CueState(("background",)).camera is None


def test_a_cut_has_no_motion() -> None:
    state = CueState(("flow",))
    state.update(scene(0), 0.0)
    state.update(255 - scene(1), 0.1)
    assert state.num_cuts == 1
    assert state.camera is None


def test_a_motion_scaled_is_the_same_motion_of_a_larger_picture() -> None:
    motion = np.array([[1.1, 0.2, 3.0], [-0.1, 0.9, -2.0]])
    place = np.array([10.0, 20.0])
    larger = scale_motion(motion, (2.0, 3.0))
    there = motion[:, :2] @ place + motion[:, 2]
    assert larger[:, :2] @ (place * (2, 3)) + larger[:, 2] == pytest.approx(there * (2, 3))


def test_flow_is_speed_not_distance() -> None:
    planes = []
    for interval in (0.1, 0.2):
        cue = FlowCue()
        cue.update(scene(4), 0.0)
        planes.append(cue.update(scene(5), interval))
    assert np.allclose(planes[0], 2 * planes[1], atol=1e-6)
    assert not cue.update(scene(6), 5.0).any()
    assert cue.warm
    assert not cue.update(scene(7), 5.0).any()  # no time between


def test_flow_leaves_thin_pictures_out_and_is_the_same_twice() -> None:
    thin = FlowCue()
    assert not any(thin.update(scene(i)[:20], i / 10).any() for i in range(3))
    one, other = (CueState(("flow",)) for _ in range(2))
    for i in range(4):
        assert np.array_equal(one.update(scene(i, pan=2), i / 10), other.update(scene(i, pan=2), i / 10))
    flat = FlowCue()
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    assert not flat.update(grey, 0.0).any()
    assert not flat.update(grey, 0.1).any()


def test_cuts_and_resets_start_over() -> None:
    other = texture(seed=9)
    state, fresh = CueState(("background", "flow")), CueState(("background", "flow"))
    before = [state.update(scene(i), i / 10) for i in range(20)]
    assert state.num_cuts == 0
    assert before[-1][0].any()
    assert before[-1][1].any()
    assert not state.never_warm
    after = [state.update(other, (20 + i) / 10) for i in range(15)]
    assert state.num_cuts == 1
    assert all(map(np.array_equal, after, (fresh.update(other, i / 10) for i in range(15))))
    state.reset()
    assert not any(state.update(scene(i), i / 10)[0].any() for i in range(11))
    assert state.num_cuts == 1  # no cut: the frames were not to be compared
    assert not state.never_warm


def test_pans_noise_and_passing_toys_are_no_cuts_but_another_scene_is() -> None:
    detector, noise = CutDetector(), np.random.default_rng(0)
    for i in range(30):
        noisy = scene(i, pan=3) + noise.normal(0, 8, (HEIGHT, WIDTH, 3))
        assert not detector.update(noisy.clip(0, 255).astype(np.uint8))
    assert detector.update(texture(seed=9))
    assert not detector.update(texture(seed=9))
    assert detector.update(texture(32, 48, seed=9))


def test_memory_is_bounded() -> None:
    cue = BackgroundDifference(samples=3, every_seconds=0.1)
    for i in range(50):
        cue.update(scene(i), i / 10)
    assert len(cue._samples) == 3
    frame = scene(0)
    cue.update(frame, 5.0)
    kept = cue._samples[-1]
    frame[:] = 0
    assert kept.any()  # the caller's array may be used again


def test_every_cue_of_the_config_is_there_and_gives_its_planes() -> None:
    assert list(CUES) == list(CUE_PLANES)
    for name, planes in CUE_PLANES.items():
        state = CueState((name,))
        assert state.num_planes == planes
        assert state.update(scene(0), 0.0).shape == (planes, HEIGHT, WIDTH)
    assert CueState(()).update(scene(0), 0.0).shape == (0, HEIGHT, WIDTH)
    assert CueState(("background", "flow")).update(scene(0), 0.0).shape == (3, HEIGHT, WIDTH)


def test_too_short_to_warm_up_is_zeros() -> None:
    state = CueState(("background",))
    assert not any(state.update(scene(i), i / 10).any() for i in range(11))
    assert state.never_warm
    assert state.update(scene(11), 1.1).any()
    assert not state.never_warm


class TestRefused:
    def test_another_size_without_a_reset(self) -> None:
        for cue in (CueState(("background",)), BackgroundDifference(), FlowCue()):
            cue.update(scene(0), 0.0)
            with pytest.raises(ValueError, match=r"a frame of 32×96 follows frames of 64×96: call reset\(\)"):
                cue.update(scene(1)[:32], 0.1)
            cue.reset()
            cue.update(scene(1)[:32], 0.1)

    def test_no_image(self) -> None:
        state = CueState(("background",))
        with pytest.raises(ValueError, match="uint8, got"):
            state.update(scene(0).astype(np.float32), 0.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\(64, 96\) uint8"):
            state.update(scene(0)[..., 0], 0.0)

    def test_unknown_cue(self) -> None:
        with pytest.raises(ValueError, match="cue 'colour' is not one of 'background', 'flow'"):
            CueState(("colour",))

    @pytest.mark.parametrize("values", [{"samples": 4}, {"samples": 1}, {"every_seconds": 0.0}])
    def test_impossible_backgrounds(self, values: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(values))):
            BackgroundDifference(**values)  # type: ignore[arg-type]


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
