"""The street set: the clips that training gets, and whether their cues are those of a stream."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from model.class_lists import output_categories
from model.cues.state import CueState
from model.training.data.preview import contact_sheet
from model.training.data.render import SceneRenderer
from model.training.data.scene.scenes import Scene
from model.training.data.street import StreetClips, draw_scene, kind_labels


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in range(300)]


@pytest.mark.parametrize("cues", [(), ("background",), ("background", "flow")])
def test_clip_has_the_documented_parts(cues: tuple[str, ...]) -> None:
    clip = StreetClips(1, cues=cues)(4, num_frames=2)
    assert clip.images.shape == (2, 192, 320, 3)
    assert clip.images.dtype == np.uint8
    assert clip.masks.dtype == bool
    assert clip.masks.shape == (len(clip.labels), 2, 192, 320)
    assert not clip.labels.any()
    if cues:
        assert clip.cues is not None
        assert clip.cues.shape == (2, {1: 1, 2: 3}[len(cues)], 192, 320)
        assert clip.cues.dtype == np.float32
    else:
        assert clip.cues is None


def test_clip_is_the_same_from_another_source_object() -> None:
    for index in (0, 5):
        first = StreetClips(3)(index, num_frames=2)
        second = StreetClips(3)(index, num_frames=2)
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.masks, second.masks)
        np.testing.assert_array_equal(first.cues, second.cues)  # type: ignore[arg-type]
    assert (StreetClips(4)(5, num_frames=2).images != second.images).any()


def test_masks_are_disjoint_and_large_enough() -> None:
    source = StreetClips(2, cues=())
    seen = 0
    for index in range(12):
        clip = source(index, num_frames=3)
        assert clip.masks.sum(0).max(initial=0) <= 1
        assert (clip.masks.sum((2, 3)).max(1) >= 12).all()
        seen += len(clip.labels)
    assert seen > 20


def test_crops_hold_somebody_and_keep_the_scale() -> None:
    source = StreetClips(2, cues=("background",), crop=(96, 128))
    held = 0
    for index in range(10):
        clip = source(index, num_frames=2)
        assert clip.images.shape == (2, 96, 128, 3)
        assert clip.cues is not None
        assert clip.cues.shape == (2, 1, 96, 128)
        held += len(clip.labels) > 0
    assert held >= 8


def test_crop_is_a_window_of_the_whole_clip() -> None:
    """The same draw without a crop, mirrored or not, holds the crop's pixels."""
    cut = StreetClips(2, cues=(), crop=(64, 80))(3, num_frames=1).images[0]
    scene = StreetClips(2).scene(3)
    renderer = SceneRenderer(scene)
    best = np.inf
    for index in range(scene.num_frames):
        image = renderer(index)[0]
        for candidate in (image, image[:, ::-1]):
            match = cv2.matchTemplate(
                np.ascontiguousarray(candidate), np.ascontiguousarray(cut), cv2.TM_SQDIFF
            )
            best = min(best, float(match.min()))
    assert best < 10


@pytest.mark.parametrize("seed", [0, 6])
def test_cues_are_those_of_a_stream_of_the_whole_scene(seed: int) -> None:
    """Every frame of the scene goes through CueState; the clip rendered only the frames it needed."""
    source = StreetClips(seed, height=96, width=160)
    checked = 0
    for index in range(4):
        clip = source(index, num_frames=2)
        scene = source.scene(index)
        renderer, state = SceneRenderer(scene), CueState(("background",))
        planes, images = [], []
        for frame in range(scene.num_frames):
            images.append(renderer(frame)[0])
            planes.append(state.update(images[-1], frame / scene.fps))
        assert clip.cues is not None
        if state.num_cuts or not clip.cues.any():  # dropped, or a light that jumped
            continue
        found = [
            (start, mirrored)
            for start in range(scene.num_frames - 1)
            for mirrored in (1, -1)
            if np.array_equal(images[start][:, ::mirrored], clip.images[0])
        ]
        assert found
        start, mirrored = found[0]
        np.testing.assert_array_equal(clip.cues, np.stack(planes[start : start + 2])[..., ::mirrored])
        checked += 1
    assert checked >= 2


def test_cues_are_dropped_or_cold_in_some_clips_and_there_in_most() -> None:
    source = StreetClips(9, height=48, width=80)
    silent = sum(not source(index, num_frames=1).cues.any() for index in range(20))  # type: ignore[union-attr]
    assert 1 <= silent <= 9


def test_scenes_are_mostly_filmed_by_still_cameras(scenes: list[Scene]) -> None:
    still = np.mean([scene.camera.pan == (0.0, 0.0) and scene.camera.jitter == 0 for scene in scenes])
    assert 0.4 < still < 0.7
    assert {scene.fps for scene in scenes} >= {5.0, 10.0, 12.0}


def test_every_kind_of_thing_occurs(scenes: list[Scene]) -> None:
    kinds = {actor.kind for scene in scenes for actor in scene.actors}
    assert kinds == {"walker", "cyclist", "scooter", "car", "van", "bus", "truck", "animal", "blob"}
    assert {thing.kind for scene in scenes for thing in scene.clutter} == {
        "pole", "tree", "fence", "sign", "bin", "bush", "bollard"
    }  # fmt: skip
    assert {scene.backdrop.kind for scene in scenes} == {"street", "leaves", "noise"}
    assert any(not scene.actors for scene in scenes)


def test_people_span_the_heights_of_street_cameras() -> None:
    heights = []
    for seed in range(30):
        scene = draw_scene(seed)
        _, ids = SceneRenderer(scene)(20)
        for number, actor in enumerate(scene.actors):
            rows = np.flatnonzero((ids == number + 1).any(1))
            if actor.kind == "walker" and len(rows):
                heights.append(len(rows))
    assert min(heights) < 20
    assert max(heights) > 80
    assert 20 < np.median(heights) < 70


def test_somebody_stands_and_somebody_walks(scenes: list[Scene]) -> None:
    walkers = [actor for scene in scenes for actor in scene.actors if actor.kind == "walker"]
    still = [actor for actor in walkers if len(actor.times) == 1]
    pausing = [
        actor for actor in walkers
        if any(a == b for a, b in zip(actor.xs, actor.xs[1:], strict=False)) and len(actor.times) > 1
    ]  # fmt: skip
    assert 0.03 < len(still) / len(walkers) < 0.35
    assert len(pausing) > 0.2 * len(walkers)


def test_photographs_are_shown_where_a_folder_is_given(tmp_path: Path) -> None:
    wall = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / "wall.png"), wall)
    source = StreetClips(0, cues=(), photos=tmp_path, height=48, width=80)
    shown = [index for index in range(40) if source.scene(index).backdrop.kind == "photo"]
    assert shown
    assert source.scene(shown[0]).backdrop.photo == "wall.png"
    assert source(shown[0], num_frames=1).images.std() > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: StreetClips(crop=(300, 20)), "crop"),
        (lambda path: StreetClips(photos=path), "no photographs"),
        (lambda path: StreetClips(close=1.5), "close"),
        (lambda path: StreetClips()(0, num_frames=0), "num_frames"),
    ],
)
def test_impossible_sources_are_refused(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_missing_folder_of_photographs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        StreetClips(photos=tmp_path / "nowhere")


def test_long_clips_lengthen_their_scene() -> None:
    assert len(StreetClips(0, cues=(), height=48, width=80)(1, num_frames=60).images) == 60


def test_contact_sheet_shows_every_clip(tmp_path: Path) -> None:
    source = StreetClips(0, height=48, width=80)
    path = contact_sheet(source, tmp_path / "sheet.png", num_clips=3, num_frames=2, cues=True)
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert sheet.shape == (2 * (48 + 4), 2 * (3 * 80 + 4), 3)
    with pytest.raises(OSError, match="sheet"):
        contact_sheet(source, tmp_path / "none" / "sheet.png", num_clips=1)


def test_close_scenes_are_the_same_scenes_through_a_longer_lens() -> None:
    close, far = StreetClips(3, close=0.5), StreetClips(3)
    pairs = [(close.scene(index), far.scene(index)) for index in range(60)]
    zooms = [ours.camera.zoom / theirs.camera.zoom for ours, theirs in pairs]
    assert 15 < sum(zoom > 1.4 for zoom in zooms) < 45
    assert all(zoom == 1.0 or 1.4 < zoom < 3.6 for zoom in zooms)
    assert all(ours.actors == theirs.actors for ours, theirs in pairs)


def test_a_set_without_walkers_has_riders_and_vehicles_but_nobody_on_foot() -> None:
    scenes = [StreetClips(0, walkers=False).scene(index) for index in range(60)]
    kinds = {actor.kind for scene in scenes for actor in scene.actors}
    assert "walker" not in kinds
    assert {"car", "cyclist", "animal"} <= kinds


def test_kinds_become_names_where_the_list_has_them() -> None:
    labels = kind_labels("coco_and_object")
    outputs = output_categories("coco_and_object", 81)
    names = {kind: category.name for kind, label in labels.items() if (category := outputs[label])}
    assert names == {
        "walker": "person",
        "cyclist": "person",
        "scooter": "person",
        "car": "car",
        "van": "car",
        "bus": "bus",
        "truck": "truck",
        "animal": "object",
        "blob": "object",
    }
    assert set(kind_labels("object").values()) == {0}
    with pytest.raises(ValueError, match="no name for rendered"):
        kind_labels("sprites")
    named = StreetClips(5, class_list="coco_and_object")
    plain = StreetClips(5)
    for index in range(6):
        one, other = named(index, num_frames=1), plain(index, num_frames=1)
        assert np.array_equal(one.masks, other.masks)
        assert set(other.labels.tolist()) <= {0}
    seen = {label for index in range(6) for label in named(index, num_frames=1).labels.tolist()}
    assert labels["walker"] in seen
    assert seen <= set(labels.values())
