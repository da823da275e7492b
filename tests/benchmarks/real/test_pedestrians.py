"""The labels of the pedestrians' clip, as far as they can be checked without the clip."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from benchmarks import bench_real
from benchmarks.real import page, pedestrians, people_boxes, runs

from ops.rle import CropRLE


@pytest.fixture(scope="module")
def labels() -> dict[str, Any]:
    return runs.load_labels(pedestrians.LABELS)


def test_people_stand_apart_and_are_tall_enough_to_be_asked_for(labels: dict[str, Any]) -> None:
    (video,) = labels["videos"]
    assert video["length"] == len(video["frame_indices"]) == 77
    people = [each for each in labels["annotations"] if not each["iscrowd"]]
    assert len({each["instance_id"] for each in people}) == len(people) > 50
    heights = [height for each in people for height in each["heights"] if height is not None]
    assert len(heights) > 200
    assert min(heights) >= bench_real.PEOPLE_MIN_HEIGHT
    for place in range(0, video["length"], 7):
        masks = [
            CropRLE.from_coco(each["segmentations"][place]).decode(video["height"], video["width"])
            for each in labels["annotations"]
            if each["segmentations"][place] is not None
        ]
        assert masks
        assert not any((one & two).any() for one, two in combinations(masks, 2))


def test_what_was_taken_out_by_eye_counts_for_nobody(labels: dict[str, Any]) -> None:
    (video,) = labels["videos"]
    for index, points in pedestrians.REJECTED.items():
        place = video["frame_indices"].index(index)
        for x, y in points:
            for each in labels["annotations"]:
                box = each["bboxes"][place]
                inside = box is not None and box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]
                assert not inside or each["iscrowd"]


def test_parked_vehicles_count_for_nobody_in_every_frame(labels: dict[str, Any]) -> None:
    (video,) = labels["videos"]
    for place in range(video["length"]):
        covered = np.zeros((video["height"], video["width"]), np.bool_)
        for each in labels["annotations"]:
            if each["segmentations"][place] is not None:
                covered |= CropRLE.from_coco(each["segmentations"][place]).decode(*covered.shape)
        for x0, y0, x1, y1 in people_boxes.parked_vehicles():
            assert covered[y0:y1, x0:x1].all(), "the vehicle, or somebody before it"


def test_the_first_half_of_the_time_is_for_tuning(labels: dict[str, Any]) -> None:
    (video,) = labels["videos"]
    first = video["frame_indices"][: video["num_tuning_frames"]]
    assert (first[-1], len(first)) == (390, 37)
    assert first[-1] < people_boxes.TUNING_BEFORE <= video["frame_indices"][len(first)]
    assert sum(each.for_tuning for each in people_boxes.load()) == 7


def test_people_have_the_name_of_coco(labels: dict[str, Any]) -> None:
    assert labels["categories"] == [{"id": 1, "name": "person"}]
    assert {each["name"] for each in labels["annotations"] if not each["iscrowd"]} == {"person"}


def test_silhouettes_are_what_differs_from_the_background() -> None:
    background = np.full((200, 300, 3), 120, np.uint8)
    frame = background.copy()
    cv2.ellipse(frame, (80, 100), (14, 40), 0, 0, 360, (30, 40, 50), -1)
    cv2.rectangle(frame, (150, 60), (260, 120), (220, 210, 200), -1)
    frame[10:14, 10:14] = 255
    found = pedestrians.silhouettes(frame, background)
    assert [each.alone for each in sorted(found, key=lambda each: each.box[0])] == [True, False]
    (person,) = [each for each in found if each.alone]
    wanted = frame[..., 0] == 30
    assert (person.mask & wanted).sum() / (person.mask | wanted).sum() > 0.9


def test_another_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vtest.avi"
    path.write_bytes(b"another one")
    with pytest.raises(ValueError, match=r"is not the vtest\.avi that was labelled"):
        pedestrians.check(path)


def test_the_page_tells_of_the_clip_where_it_was_run(labels: dict[str, Any]) -> None:
    found = runs.perfect(labels)
    result = bench_real.compare(labels, {"ours": found, "peer": {key: {} for key in found}})
    assert result["pedestrians"]["ours"]["recall"] == result["pedestrians"]["ours"]["IDF1"] == 1.0
    assert result["pedestrians"]["peer"]["recall"] == 0.0
    everybody = result["pedestrians reported"]["ours"]["boxes"]
    assert (everybody["num_people"], everybody["num_frames"]) == (49, 8)
    assert everybody["precision"] == 1.0, "whoever stands apart is among everybody"
    assert everybody["intervals"]["recall"][0] < everybody["recall"] < 0.8, "groups are not in these masks"
    assert result["pedestrians"]["ours"]["boxes"]["num_people"] == 96
    text = page.pedestrians(result, labels)
    assert "vtest.avi" in text
    assert "| **reported half** | 49 | ours |" in text
    assert "| tuning half | 47 | background subtraction | 0.0 (0–0) | – |" in text
    assert page.pedestrians({}, labels) == ""
    assert bench_real.tall_recall(result["pedestrians"]["ours"]["people"]["recall_by_height"]) == 1.0
