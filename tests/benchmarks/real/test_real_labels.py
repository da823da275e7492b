"""The benchmark's labels: what the outlines say, of frames that the model is shown, and sound in themselves."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import av
import numpy as np
import pytest
from benchmarks.real.build import (
    LABELS,
    MIN_AREA,
    OUTLINES,
    build,
    dump,
    fill,
    hold_still,
    union,
    visible_masks,
)
from numpy.typing import NDArray
from support.streams import street_clip

from model.class_lists import categories
from ops.rle import CropRLE
from pipeline.config import CadenceConfig
from pipeline.sources.cadence import Cadence


@pytest.fixture(scope="module")
def outlines() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(OUTLINES.read_text(encoding="utf-8"))
    return tree


@pytest.fixture(scope="module")
def labels() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(LABELS.read_text(encoding="utf-8"))
    return tree


def decode(annotation: dict[str, Any], column: int) -> NDArray[np.bool_] | None:
    rle = annotation["segmentations"][column]
    if rle is None:
        return None
    return CropRLE.from_coco(rle).decode(annotation["height"], annotation["width"])


def of_video(labels: dict[str, Any], video: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in labels["annotations"] if each["video_id"] == video["id"]]


def test_labels_are_those_of_the_outlines(outlines: dict[str, Any]) -> None:
    assert LABELS.read_text(encoding="utf-8") == dump(build(outlines))


def test_an_edited_outline_changes_the_labels(outlines: dict[str, Any]) -> None:
    one = {**outlines, "shots": outlines["shots"][:1]}
    edited = json.loads(json.dumps(one))
    shot = edited["shots"][0]
    polygon = shot["instances"][0]["outlines"][str(shot["frames"][0])][0]
    polygon[0::2] = [x + 3 for x in polygon[0::2]]
    assert build(edited) != build(one)


def test_at_least_thirty_frames_of_still_and_of_moving_shots_are_labelled(labels: dict[str, Any]) -> None:
    plain = [video for video in labels["videos"] if video["transforms"] is None]
    frames = [frame for video in plain for frame in video["frame_indices"]]
    assert len(frames) == len(set(frames)) >= 30
    assert {video["camera"] for video in plain} == {"still", "moving"}
    assert {each["kind"] for each in labels["annotations"]} == {"person", "vehicle", "ignore"}


def test_every_instance_has_a_name_of_coco_and_its_id(labels: dict[str, Any]) -> None:
    ids = {category.name: category.id for category in categories("coco_and_object")}
    assert {(each["id"], each["name"]) for each in labels["categories"]} == {
        (ids[name], name) for name in ("person", "car", "bus")
    }
    for each in labels["annotations"]:
        if each["iscrowd"]:
            assert "name" not in each
            continue
        assert each["category_id"] == ids[each["name"]]
        assert (each["name"] == "person") == (each["kind"] == "person")
    shot_of = {video["id"]: video["name"] for video in labels["videos"]}
    riders = {shot_of[each["video_id"]]: each["rides"] for each in labels["annotations"] if "rides" in each}
    assert riders == {"traffic": "bicycle", "waiting": "bicycle"}


def test_the_halves_are_those_that_were_fixed(labels: dict[str, Any]) -> None:
    tuning = {video["name"]: video["num_tuning_frames"] for video in labels["videos"]}
    lengths = {video["name"]: video["length"] for video in labels["videos"]}
    assert tuning == {name: lengths[name] if name in ("roof", "waiting") else 0 for name in lengths}


def test_labelled_frames_are_consecutive_frames_of_the_default_cadence(labels: dict[str, Any]) -> None:
    cadence = Cadence(CadenceConfig().fps)
    with av.open(str(street_clip())) as container:
        stream = container.streams.video[0]
        kept = [index for index, frame in enumerate(container.decode(stream)) if cadence.take(frame.time)]
        assert (stream.height, stream.width) == (272, 640)
    for video in labels["videos"]:
        frames = video["frame_indices"]
        start = kept.index(frames[0])
        assert frames == kept[start : start + len(frames)]
        assert video["first_frame"] <= frames[0] <= frames[-1] <= video["last_frame"]
        assert video["file_names"] == [f"{frame:05d}" for frame in frames]


def test_every_row_has_one_entry_per_frame_and_agrees_with_its_mask(labels: dict[str, Any]) -> None:
    for video in labels["videos"]:
        for annotation in of_video(labels, video):
            for column in ("segmentations", "bboxes", "areas", "heights", "polygons"):
                assert len(annotation[column]) == video["length"]
            for index in range(video["length"]):
                mask = decode(annotation, index)
                if mask is None:
                    assert annotation["bboxes"][index] is annotation["areas"][index] is None
                    continue
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                x, y = int(columns[0]), int(rows[0])
                box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
                assert annotation["bboxes"][index] == box
                assert annotation["heights"][index] == box[3]
                assert annotation["areas"][index] == mask.sum() > 0


def test_no_pixel_belongs_to_two_and_no_id_is_given_twice(labels: dict[str, Any]) -> None:
    for video in labels["videos"]:
        annotations = of_video(labels, video)
        ids = [each["instance_id"] for each in annotations if not each["iscrowd"]]
        assert len(ids) == len(set(ids)) > 0
        for index in range(video["length"]):
            masks = [mask for each in annotations if (mask := decode(each, index)) is not None]
            for first, second in combinations(masks, 2):
                assert not (first & second).any()


def test_fill_takes_the_pixels_whose_centre_is_inside() -> None:
    rectangle = fill([1.0, 2.0, 4.4, 2.0, 4.4, 5.6, 1.0, 5.6], 8, 9)
    expected = np.zeros((8, 9), dtype=np.bool_)
    expected[2:6, 1:4] = True
    np.testing.assert_array_equal(rectangle, expected)


def test_fill_is_even_odd_and_clips_at_the_picture() -> None:
    triangle = fill([-50.0, 0.0, 50.0, 100.0, -50.0, 100.0], 100, 60)
    y, x = np.mgrid[:100, :60] + 0.5
    np.testing.assert_array_equal(triangle, x < y - 50)
    notched = fill([0, 0, 10, 0, 10, 10, 5, 2, 0, 10], 10, 10)
    assert notched[0].all()
    np.testing.assert_array_equal(np.flatnonzero(notched[7]), [0, 1, 8, 9])


def test_union_of_nothing_is_empty() -> None:
    assert not union([], 4, 5).any()


def test_a_held_shot_takes_the_outlines_back_by_the_cameras_motion() -> None:
    square = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
    post = [40.0, 0.0, 50.0, 0.0, 50.0, 30.0, 40.0, 30.0]
    shot = {
        "name": "shot",
        "camera": "moving",
        "half": "reported",
        "frames": [3, 5],
        "instances": [{"id": 1, "kind": "person", "outlines": {"3": [square], "5": [square]}}],
        "occluders": {"3": [post]},
        "ignore": {"5": [square]},
        "held_still": {
            "frames": {"3": [1, 0, 0, 0, 1, 0], "5": [2, 0, 4, 0, 2, -6]},
            "ignore": {"5": [post]},
        },
    }
    held = hold_still(shot)
    assert (held["camera"], held["half"]) == ("held still", "reported")
    assert held["instances"][0]["outlines"]["3"] == [square]
    assert held["instances"][0]["outlines"]["5"] == [[3.0, 8.0, 8.0, 8.0, 8.0, 13.0, 3.0, 13.0]]
    assert held["occluders"] == {"3": [post]}
    assert [len(held["ignore"][key]) for key in ("3", "5")] == [0, 2]
    assert held["transforms"] == [[1, 0, 0, 0, 1, 0], [2, 0, 4, 0, 2, -6]]
    assert shot["camera"] == "moving"


def test_what_stands_in_front_is_cut_out() -> None:
    def square(x0: float, x1: float) -> list[list[float]]:
        return [[x0, 0, x1, 0, x1, 20, x0, 20]]

    shot = {
        "instances": [
            {"id": 1, "outlines": {"7": square(0, 20)}},
            {"id": 2, "behind": [1], "outlines": {"7": square(10, 40)}},
            {"id": 3, "outlines": {"7": square(30, 31)}},
            {"id": 4, "outlines": {"9": square(0, 20)}},
        ],
        "occluders": {"7": square(35, 60)},
    }
    shown = visible_masks(shot, 7, 20, 60)
    assert set(shown) == {1, 2}, "3 shows fewer pixels than MIN_AREA, 4 is not outlined in this frame"
    assert MIN_AREA > 20
    np.testing.assert_array_equal(np.flatnonzero(shown[2].all(0)), np.arange(20, 35))
    assert not (shown[1] & shown[2]).any()
