"""Clips from YouTube-VIS files: the right frames, masks and cues, and errors that say what to do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.ytvis import rle

from model.config import ModelConfig
from model.cues.state import CueState
from model.errors import DatasetError
from model.training.data.clip import TrainingClip
from model.training.data.ytvis import PADDING, YouTubeVisClips, paper_frames, strides
from model.training.targets import Target
from ops.preprocess import fit_image

HEIGHT, WIDTH, LENGTH = 60, 100, 24
CONFIG = ModelConfig(height=64, width=96, cues=("background",))
PLAIN = ModelConfig(height=64, width=96, cues=())


def square(frame: int) -> tuple[slice, slice]:
    """Where the object of the data set's video is: 20 pixels wide, two pixels further each frame."""
    return slice(10, 40), slice(5 + 2 * frame, 25 + 2 * frame)


def picture(frame: int) -> NDArray[np.uint8]:
    """A dark frame whose grey level tells its number, with a bright object."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + frame, np.uint8)
    image[square(frame)] = (250, 120, 60)
    return image


def mask(frame: int) -> NDArray[np.bool_]:
    found = np.zeros((HEIGHT, WIDTH), np.bool_)
    found[square(frame)] = True
    return found


def tree(*, num_videos: int = 1, fps: float | None = 10, **annotation: Any) -> dict[str, Any]:
    rows = [
        {
            "id": number,
            "video_id": number,
            "category_id": 7,
            "iscrowd": 0,
            "segmentations": [rle(mask(frame)) for frame in range(LENGTH)],
            **annotation,
        }
        for number in range(1, num_videos + 1)
    ]
    names = [f"video/{frame:03d}.png" for frame in range(LENGTH)]
    return {
        "info": {} if fps is None else {"fps": fps},
        "videos": [
            {"id": number, "height": HEIGHT, "width": WIDTH, "length": LENGTH, "file_names": names}
            for number in range(1, num_videos + 1)
        ],
        "categories": [{"id": 7, "name": "Person"}],
        "annotations": rows,
    }


def write(folder: Path, content: dict[str, Any], *, images: str = "") -> Path:
    (folder / images / "video").mkdir(parents=True, exist_ok=True)
    for frame in range(LENGTH):
        cv2.imwrite(str(folder / images / "video" / f"{frame:03d}.png"), picture(frame)[..., ::-1])
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> YouTubeVisClips:
    return YouTubeVisClips(write(tmp_path, tree()), config=PLAIN, augment=False)


def numbers(clip: TrainingClip) -> list[int]:
    """Frame numbers of a clip that is not augmented, from the grey of a corner."""
    return [int(image[-8, -3].mean()) - 20 for image in clip.images]


def test_frames_are_fitted_as_live_and_masks_with_them(plain: YouTubeVisClips) -> None:
    clip = plain(3, num_frames=3)
    frames = numbers(clip)
    assert clip.images.shape == (3, 64, 96, 3)
    assert clip.labels.tolist() == [0]
    for place, frame in enumerate(frames):
        live, fit = fit_image(picture(frame), height=64, width=96)
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        normalised = (clip.images[place] / 255 - mean) / std
        content = (slice(0, fit.content_height), slice(0, fit.content_width))
        assert np.allclose(normalised[content], live.permute(1, 2, 0).numpy()[content], atol=1e-5)
        assert fit.content_height < 64
        assert np.abs(normalised[fit.content_height :]).max() < 0.01  # live: 0
        bright = clip.images[place, ..., 0] >= (250 + 20 + frame) / 2
        bright[fit.content_height :] = False
        assert bright.sum() > 500
        assert (bright != clip.masks[0, place]).sum() <= 4  # grey levels are rounded
        assert not clip.masks[0, place, fit.content_height :].any()


def test_clips_depend_on_seed_and_index_alone(tmp_path: Path) -> None:
    path = write(tmp_path, tree(num_videos=3))
    source = YouTubeVisClips(path, config=CONFIG, seed=5)
    again = pickle.loads(pickle.dumps(YouTubeVisClips(path, config=CONFIG, seed=5)))
    other = YouTubeVisClips(path, config=CONFIG, seed=6)
    assert len(source) == 3
    differing = 0
    for index in (4, 0, 9):
        one, two = source(index, num_frames=2), again(index, num_frames=2)
        for name in ("images", "masks", "labels", "cues"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        differing += not np.array_equal(one.images, other(index, num_frames=2).images)
    assert differing == 3


def test_consecutive_clips_have_five_to_twelve_frames_a_second(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree(fps=30)), config=PLAIN, augment=False)
    steps = set()
    for index in range(24):
        frames = numbers(source(index, num_frames=3))
        assert len(set(np.diff(frames))) == 1
        steps.add(int(np.diff(frames)[0]))
    assert steps == {3, 4, 5, 6}


@pytest.mark.parametrize(
    ("length", "num_frames", "fps", "expected"),
    [
        (40, 5, 10, [1, 2]),
        (40, 5, 6, [1]),
        (40, 5, 3, [1]),
        (40, 5, 30, [3, 4, 5, 6]),
        (18, 5, 30, [3, 4]),
        (8, 5, 30, [1]),
        (5, 5, 30, [1]),
        (1, 1, 30, [1]),
        (40, 1, 30, [3, 4, 5, 6]),
    ],
)
def test_strides(length: int, num_frames: int, fps: float, expected: list[int]) -> None:
    assert strides(length, num_frames, fps=fps) == expected


def test_the_papers_frames_are_two_neighbours_and_others_in_time_order() -> None:
    random = np.random.default_rng(0)
    spans = []
    for _ in range(200):
        frames = paper_frames(60, 5, random)
        assert frames == sorted(set(frames))
        assert frames[0] >= 0
        assert frames[-1] < 60
        spans.append(frames[-1] - frames[0])
        near = [sum(abs(frame - key) <= 3 for frame in frames) for key in frames]
        assert max(near) >= 3
    assert np.mean(spans) > 20
    assert paper_frames(5, 5, random) == [0, 1, 2, 3, 4]
    assert paper_frames(1, 1, random) == [0]
    assert len(paper_frames(9, 2, random)) == 2


def test_the_papers_sampling_reads_those_frames(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree()), config=PLAIN, augment=False, sampling="paper")
    clips = [numbers(source(index, num_frames=4)) for index in range(10)]
    assert all(frames == sorted(set(frames)) for frames in clips)
    assert any(np.diff(frames).max() > 3 for frames in clips)


def live_planes(content: list[NDArray[np.uint8]], fps: float) -> list[NDArray[np.float32]]:
    state = CueState(CONFIG.cues)
    state.reset(origin_seconds=0.0)
    return [state.update(image, place / fps) for place, image in enumerate(content)]


@pytest.mark.parametrize("sampling", ["consecutive", "paper"])
def test_cues_are_those_of_the_stream(tmp_path: Path, sampling: Any) -> None:
    source = YouTubeVisClips(write(tmp_path, tree(fps=6)), config=CONFIG, augment=False, sampling=sampling)
    content = [
        cv2.resize(picture(frame), (96, 58), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        for frame in range(LENGTH)
    ]
    planes = live_planes(content, 6.0)
    warm = 0
    for index in range(6):
        clip = source(index, num_frames=3)
        assert clip.cues is not None
        for place, frame in enumerate(numbers(clip)):
            assert np.array_equal(clip.cues[place, :, :58], planes[frame])
            assert not clip.cues[place, :, 58:].any()
            warm += bool(planes[frame].any())
    assert warm >= 3


def test_every_other_frame_has_the_cues_of_that_slower_stream(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree(fps=20)), config=CONFIG, augment=False)
    for index in range(8):
        clip = source(index, num_frames=3)
        frames = numbers(clip)
        stride = frames[1] - frames[0]
        phase = frames[0] % stride
        content = [
            cv2.resize(picture(frame), (96, 58), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
            for frame in range(phase, LENGTH, stride)
        ]
        planes = live_planes(content, 20 / stride)
        assert clip.cues is not None
        assert 2 <= stride <= 4
        for place, frame in enumerate(frames):
            assert np.array_equal(clip.cues[place, :, :58], planes[frame // stride])


def test_views_move_images_and_masks_together(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree()), config=PLAIN)
    areas, lefts = [], []
    for index in range(30):
        clip = source(index, num_frames=2)
        if not len(clip.labels):
            continue
        for place in range(2):
            image, found = clip.images[place].astype(int), clip.masks[0, place]
            if 40 < found.sum() < found.size / 2:
                bright = np.abs(image - np.median(image[found], axis=0)).max(axis=-1) < 40
                bright[(clip.images[place] == PADDING).all(axis=-1)] = False
                union = (bright | found).sum()
                assert (bright & found).sum() / union > 0.85, index
        areas.append(clip.masks[0].sum())
        lefts.append(np.diff([np.nonzero(clip.masks[0, place].any(axis=0))[0][0] for place in range(2)])[0])
    assert len(areas) >= 25
    assert max(areas) > 2 * min(areas)
    assert min(lefts) < 0 < max(lefts)  # mirrored ones move to the left


def test_a_crop_shows_a_part_with_the_instance(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree()), config=CONFIG, crop=(32, 40))
    clips = [source(index, num_frames=2) for index in range(12)]
    assert all(clip.images.shape == (2, 32, 40, 3) for clip in clips)
    assert all(clip.cues is not None and clip.cues.shape == (2, 1, 32, 40) for clip in clips)
    assert sum(len(clip.labels) for clip in clips) >= 10


def test_a_crowd_is_ignored_and_no_instance(tmp_path: Path) -> None:
    source = YouTubeVisClips(write(tmp_path, tree(iscrowd=1)), config=PLAIN, augment=False)
    clip = source(0, num_frames=2)
    assert len(clip.labels) == 0
    assert clip.masks.shape == (0, 2, 64, 96)
    assert clip.ignore is not None
    assert clip.ignore.mean() == pytest.approx(30 * 20 / (60 * 100) * 58 / 64, rel=0.05)
    target = Target.from_clip(clip.masks, clip.labels, ignore=clip.ignore)
    assert target.ignore is not None
    assert target.ignore.any()


def test_polygons_and_absent_frames(tmp_path: Path) -> None:
    content = tree()
    rows, columns = square(0)
    corners = [columns.start, rows.start, columns.stop, rows.start]
    corners += [columns.stop, rows.stop, columns.start, rows.stop]
    content["annotations"][0]["segmentations"] = [[corners]] * 12 + [None] * 12
    source = YouTubeVisClips(write(tmp_path, content), config=PLAIN, augment=False)
    seen = 0
    for index in range(16):
        clip = source(index, num_frames=2)
        for place, frame in enumerate(numbers(clip)):
            shown = len(clip.labels) > 0 and bool(clip.masks[0, place].any())
            assert shown == (frame < 12)
            seen += shown
    assert seen > 16  # windows that show something are preferred


def test_classes_are_mapped_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, tree())
    lists = ModelConfig(height=64, width=96, cues=(), class_list="youtube_vis_2021")
    person = next(
        output
        for output, category in enumerate(lists.output_categories)
        if category is not None and category.name == "person"
    )
    assert person > 0
    source = YouTubeVisClips(path, config=lists)
    assert next(clip.labels for i in range(9) if len((clip := source(i, num_frames=1)).labels)).tolist() == [
        person
    ]
    content = tree()
    content["categories"][0]["name"] = "toaster"
    with pytest.raises(DatasetError, match=r"category 7 \('toaster'\).*'youtube_vis_2021'.*'object'"):
        YouTubeVisClips(write(tmp_path, content), config=lists)


@pytest.mark.parametrize("folder", ["images", "JPEGImages"])
def test_images_are_found_beside_the_file(tmp_path: Path, folder: str) -> None:
    source = YouTubeVisClips(write(tmp_path, tree(), images=folder), config=PLAIN)
    assert source(0, num_frames=1).images.shape == (1, 64, 96, 3)


def test_the_rate_is_the_files_or_youtube_viss(tmp_path: Path) -> None:
    path = write(tmp_path, tree(fps=None))
    frames = numbers(YouTubeVisClips(path, config=PLAIN, augment=False)(0, num_frames=3))
    assert set(np.diff(frames)) == {1}
    given = YouTubeVisClips(path, config=PLAIN, augment=False, fps=60)
    assert min(np.diff(numbers(given(0, num_frames=3)))) >= 5


def broken(change: str) -> dict[str, Any]:
    content = tree()
    annotation, video = content["annotations"][0], content["videos"][0]
    if change == "no videos":
        content["videos"], content["annotations"] = [], []
    elif change == "no annotations":
        content["annotations"] = []
    elif change == "no segmentations":
        del annotation["segmentations"]
    elif change == "null segmentations":
        annotation["segmentations"] = [None] * LENGTH
    elif change == "short segmentations":
        annotation["segmentations"] = annotation["segmentations"][:-1]
    elif change == "wrong size":
        annotation["segmentations"][3] = rle(np.ones((4, 4), np.bool_))
    elif change == "wrong length":
        video["length"] = LENGTH + 1
    elif change == "no file names":
        del video["file_names"]
    elif change == "missing image":
        video["file_names"][5] = "video/lost.png"
    elif change == "bad rate":
        content["info"]["fps"] = "fast"
    return content


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("no videos", "videos is empty"),
        ("no annotations", "annotations is empty"),
        ("no segmentations", r"\(id 1\): has no segmentations"),
        ("null segmentations", r"\(id 1\): has no mask in any frame; remove the annotation"),
        ("short segmentations", r"\(id 1\).*23 entries, video 1 has 24 frames"),
        ("wrong size", r"\(id 1\): segmentations\[3\]: size must be"),
        ("wrong length", r"\(id 1\): length is 25, but file_names has 24 entries"),
        ("no file names", "video 1 has no file_names"),
        ("missing image", r"video 1, frame 5: there is no image .*lost\.png; name the folder"),
        ("bad rate", r"info\.fps must be a number"),
    ],
)
def test_bad_data_sets_are_errors_that_name_the_entry(tmp_path: Path, change: str, match: str) -> None:
    path = write(tmp_path, broken(change))
    with pytest.raises(DatasetError, match=match) as info:
        YouTubeVisClips(path, config=PLAIN)
    assert str(path) in str(info.value)


def test_more_frames_than_a_video_has_is_an_error(plain: YouTubeVisClips) -> None:
    plain.check(LENGTH)
    assert numbers(plain(0, num_frames=LENGTH)) == list(range(LENGTH))
    for ask in (lambda: plain.check(LENGTH + 1), lambda: plain(0, num_frames=LENGTH + 1)):
        with pytest.raises(DatasetError, match=r"video 1 has 24 frames, a clip has 25; lower num_frames"):
            ask()


def test_images_that_are_damaged_or_of_another_size_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, tree())
    source = YouTubeVisClips(path, config=PLAIN)
    for frame in range(LENGTH):
        (tmp_path / "video" / f"{frame:03d}.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        source(0, num_frames=2)
    for frame in range(LENGTH):
        cv2.imwrite(str(tmp_path / "video" / f"{frame:03d}.png"), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"is 12×10, the video 100×60"):
        source(0, num_frames=2)


def test_settings_that_do_not_exist_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, tree())
    wrong: Any = "random"
    with pytest.raises(ValueError, match="'random' is not one of"):
        YouTubeVisClips(path, config=PLAIN, sampling=wrong)
    with pytest.raises(ValueError, match="fps=0 must be above 0"):
        YouTubeVisClips(path, config=PLAIN, fps=0)
    with pytest.raises(ValueError, match="larger than the model's size"):
        YouTubeVisClips(path, config=PLAIN, crop=(72, 64))
