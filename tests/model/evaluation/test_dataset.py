"""Files that are damaged, contradict themselves or each other: the error names file, entry and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ytvis import HEIGHT, WIDTH, annotation, dataset, evaluate_files, filled, result

from model.__main__ import main
from model.errors import DatasetError
from model.evaluation.dataset import read_ground_truth, read_results

BOX = (10, 10, 20, 30)
MASK = filled(BOX)


def with_annotation(**others: Any) -> dict[str, Any]:
    return dataset([annotation(7, [BOX, BOX], **others)], length=2)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([], "must be an object"),
        ({"videos": []}, "videos is empty"),
        ({}, "videos is missing"),
        ({"videos": [3]}, r"videos\[0\] must be an object"),
        ({"videos": [{"id": 1}]}, "height must be an integer"),
        ({**with_annotation(), "annotations": None}, "annotations is missing"),
        (with_annotation(video_id=9), r"id 7.*video_id 9 is not among videos"),
        (with_annotation(category_id=9), r"id 7.*category_id 9 is not among categories"),
        (with_annotation(segmentations=None), r"id 7.*has no segmentations"),
        (with_annotation(segmentations=[None, None]), r"id 7.*no mask in any frame; remove"),
        (with_annotation(segmentations=[MASK]), r"id 7.*1 entries, video 1 has 2 frames"),
        (with_annotation(segmentations=[None, "x"]), r"id 7.*segmentations\[1\]: must be a COCO RLE"),
        (
            with_annotation(segmentations=[None, {**(MASK or {}), "size": [60, 40]}]),
            r"id 7.*segmentations\[1\]: size must be \[height, width\]",
        ),
        (
            with_annotation(segmentations=[None, {**(MASK or {}), "counts": "0"}]),
            r"id 7.*frame 1: mask counts sum to 0 pixels, their size has 2400",
        ),
        (with_annotation(segmentations=[None, {**(MASK or {}), "counts": "é"}]), r"id 7.*not COCO RLE"),
        (with_annotation(segmentations=[None, [[0, 0, 5, 5]]]), r"id 7.*at least 3 points"),
        (with_annotation(areas=[1]), r"id 7.*areas must hold"),
        (with_annotation(iscrowd=2), r"id 7.*iscrowd must be 0 or 1"),
        (dataset([annotation(7, [BOX]), annotation(7, [BOX])], length=1), "id 7 stands twice"),
        ({**with_annotation(), "categories": []}, "categories is empty"),
    ],
)
def test_a_bad_ground_truth_is_named(tmp_path: Path, tree: Any, words: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match=rf"(?s)truth\.json.*{words}"):
        read_ground_truth(path)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"videos": []}, "must be a list of results"),
        ([result([BOX, BOX], video_id=44)], "does not have: video_id 44;"),
        ([5], "result 0: must be an object"),
        ([result([BOX, BOX]), result([BOX])], r"result 1 \(video 1\).*1 entries, video 1 has 2 frames"),
        ([result([BOX, BOX], score="high")], "score must be a finite number, got 'high'"),
        ([result([BOX, BOX], score=float("nan"))], "score must be a finite number"),
        ([result([BOX, BOX], category_id="a")], "category_id must be an integer"),
        ([{**result([BOX, BOX]), "video_id": "1"}], "video_id must be an integer"),
        ([result([BOX, BOX], segmentations=[MASK, {**(MASK or {}), "counts": "PPPP"}])], "truncated"),
    ],
)
def test_bad_results_are_named(tmp_path: Path, results: Any, words: str) -> None:
    truth = read_ground_truth(with_annotation())
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(DatasetError, match=rf"(?s)results\.json.*{words}"):
        read_results(path, truth)


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(with_annotation())[:-40])
    assert main(["evaluate", "--gt", str(cut), "--results", str(cut)]) == 1
    assert "cut.json: is no valid JSON" in capsys.readouterr().err
    assert main(["evaluate", "--gt", str(tmp_path / "none.json"), "--results", str(cut)]) == 1
    assert "none.json: No such file" in capsys.readouterr().err
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    assert main(["evaluate", "--gt", str(binary), "--results", str(cut)]) == 1
    assert "binary.json: is no valid JSON" in capsys.readouterr().err


def test_results_of_unknown_categories_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    metrics = evaluate_files(
        with_annotation(), [result([BOX, BOX], category_id=5, score=1.0), result([BOX, BOX])]
    )
    assert metrics["AP"] == pytest.approx(1)
    assert "1 of 2 results have a category" in caplog.text


def test_polygons_and_uncompressed_counts_are_masks_too() -> None:
    x0, y0, x1, y1 = BOX
    polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    column = [x0 * HEIGHT + y0, y1 - y0]
    counts = column + [HEIGHT - (y1 - y0), y1 - y0] * (x1 - x0 - 1)
    counts.append(HEIGHT * WIDTH - sum(counts))
    plain = {"size": [HEIGHT, WIDTH], "counts": counts}
    truth = read_ground_truth(with_annotation(segmentations=[polygon, plain]))
    (track,) = truth.annotations
    assert track.areas.tolist() == [200, 200]
    assert track.counts[1] == (MASK or {})["counts"].encode()
    assert track.counts[0] == track.counts[1]


def test_the_mean_area_leaves_frames_without_a_mask_out() -> None:
    truth = read_ground_truth(dataset([annotation(1, [BOX, None, (0, 0, 10, 10)])], length=3))
    assert truth.annotations[0].mean_area == 150
    given = read_ground_truth(dataset([annotation(1, [BOX, None], areas=[20_000, None])], length=2))
    assert given.annotations[0].mean_area == 20_000
    assert np.array_equal(given.annotations[0].areas, [200, 0])
