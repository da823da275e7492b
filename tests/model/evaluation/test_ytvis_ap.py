"""The YouTube-VIS metrics: equal to the canonical evaluation's, and by hand where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.ytvis import annotation, dataset, evaluate_files, result

from model.__main__ import main
from model.evaluation.masks import intersections, mask_areas
from model.evaluation.report import format_metrics

REFERENCE = Path(__file__).parents[2] / "reference" / "ytvis_eval"
BOX = (10, 10, 20, 30)


@pytest.mark.parametrize("case", ["ytvis_a", "ytvis_b_crowd"])
def test_metrics_equal_the_canonical_ones(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((REFERENCE / f"{case}_expected.json").read_text())
    files = ["--gt", str(REFERENCE / f"{case}_gt.json"), "--results", str(REFERENCE / f"{case}_results.json")]
    assert main(["evaluate", *files, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected, rel=0, abs=1e-9)


def test_perfect_results_reach_everything() -> None:
    truth = dataset([annotation(1, [BOX, None, BOX])], length=3)
    metrics = evaluate_files(truth, [result([BOX, None, BOX])])
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AR1"] == pytest.approx(1)
    assert metrics["AP_small"] == pytest.approx(1)
    assert metrics["AP_large"] == -1  # there is none


def test_empty_results_give_zero_and_no_crash() -> None:
    metrics = evaluate_files(dataset([annotation(1, [BOX])], length=1), [])
    assert (metrics["AP"], metrics["AR100"], metrics["AP_large"]) == (0, 0, -1)


def test_overlap_is_taken_over_all_frames_together() -> None:
    # 200 of 200 pixels in one frame and none of 200 in the other: IoU 0.5 over both, found at 0.5 only.
    truth = dataset([annotation(1, [BOX, BOX])], length=2)
    metrics = evaluate_files(truth, [result([BOX, None])])
    assert metrics["AP50"] == pytest.approx(1)
    assert metrics["AP"] == pytest.approx(0.1)
    assert evaluate_files(truth, [result([BOX, (40, 0, 60, 1)])])["AP50"] == 0


def test_an_id_that_changes_in_the_middle_costs_the_track() -> None:
    truth = dataset([annotation(1, [BOX] * 4)], length=4)
    halves = [result([BOX, BOX, None, None]), result([None, None, BOX, BOX], score=0.8)]
    metrics = evaluate_files(truth, halves)
    assert metrics["AP50"] == pytest.approx(1)  # each half covers half of it
    assert metrics["AP75"] == 0


def test_a_wrong_result_before_the_right_one_halves_the_precision() -> None:
    truth = dataset([annotation(1, [BOX])], length=1)
    wrong = result([(40, 0, 60, 9)], score=0.95)
    assert evaluate_files(truth, [wrong, result([BOX])])["AP"] == pytest.approx(0.5)
    assert evaluate_files(truth, [result([BOX]), {**wrong, "score": 0.1}])["AP"] == pytest.approx(1)


def test_crowds_are_neither_wanted_nor_wrong() -> None:
    crowd = annotation(2, [(30, 0, 60, 40)], iscrowd=1)
    truth = dataset([annotation(1, [BOX]), crowd], length=1)
    on_crowd = [result([(30, 0, 60, 40)], score=0.99), result([(30, 0, 60, 39)], score=0.98)]
    assert evaluate_files(truth, [*on_crowd, result([BOX])])["AP"] == pytest.approx(1)
    plain = dataset([annotation(1, [BOX])], length=1)
    assert evaluate_files(plain, [*on_crowd, result([BOX])])["AP"] == pytest.approx(1 / 3)


def test_only_the_best_detections_count() -> None:
    truth = dataset([annotation(1, [BOX]), annotation(2, [(30, 5, 50, 9)])], length=1)
    metrics = evaluate_files(truth, [result([BOX]), result([(30, 5, 50, 9)], score=0.5)])
    assert (metrics["AR1"], metrics["AR10"]) == (0.5, 1)
    worst = [result([(55, 0, 60, 2)], score=0.9)] * 100
    assert evaluate_files(truth, [*worst, result([BOX], score=0.1)])["AR100"] == 0


def test_categories_are_compared_each_on_its_own() -> None:
    truth = dataset([annotation(1, [BOX]), annotation(2, [BOX], category_id=2)], length=1, num_categories=3)
    # The right mask under the wrong name; category 3 has nothing to find and does not count.
    metrics = evaluate_files(truth, [result([BOX]), result([BOX], category_id=3)])
    assert metrics["AP"] == pytest.approx(0.5)


def test_areas_and_overlaps_equal_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    from support.ytvis import rle

    height, width = 13, 17
    pixels = rng.random((4, 3, height, width)) < np.array([0.5, 0.05, 1.0, 0.0])[:, None, None, None]
    counts = [[rle(mask)["counts"].encode() for mask in track] for track in pixels]
    for track, text in zip(pixels, counts, strict=True):
        areas = mask_areas([None, *text], height=height, width=width)
        assert areas.tolist() == [0, *track.sum((1, 2)).tolist()]
    shared = intersections(counts[:2], counts, height=height, width=width)
    expected = (pixels[:2, None] & pixels[None]).sum((3, 4)).transpose(2, 0, 1)
    assert (shared == expected).all()


def test_text_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(dataset([annotation(1, [BOX])], length=1)))
    (tmp_path / "results.json").write_text(json.dumps([result([BOX])]))
    files = ["--gt", str(tmp_path / "gt.json"), "--results", str(tmp_path / "results.json")]
    assert main(["evaluate", *files, "--frames"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["AP", "100.00"]
    assert any(line.split() == ["AP_large", "-"] for line in shown)
    assert any(line.split()[:2] == ["IDF1", "100.00"] for line in shown)


def test_rates_and_amounts_are_no_percentages() -> None:
    metrics = {"AP": 0.5, "mode": "window", "num_frames": 40, "frames_per_second": 8.25}
    lines = [line.split() for line in format_metrics(metrics).splitlines()]
    assert lines == [["AP", "50.00"], ["mode", "window"], ["num_frames", "40"], ["frames_per_second", "8.25"]]
