"""The peer that is a detector, a box tracker and ellipses; and the tracker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.box_tracker import BoxTracker, box_ious, box_shares
from benchmarks.peer_detector import (
    LEAST_SCORE,
    NAMES,
    Detected,
    DetectorOptions,
    DetectorPeer,
    NanoDetDetect,
    ellipse,
    suppress,
)

from model.layers.csp import NUM_CLASSES, CspTrunk, Detector

OPTIONS = DetectorOptions(min_score=0.4, nms_iou=0.5, match_iou=0.2, lost_frames=2)


def said(*rows: tuple[tuple[float, float, float, float], float, str]) -> Detected:
    boxes = np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4)
    return Detected(boxes, np.array([score for _, score, _ in rows]), [name for _, _, name in rows])


def take(peer: DetectorPeer, detected: Detected, *, cut: bool = False) -> list[tuple[int, str | None]]:
    return [(each.track_id, each.name) for each in peer.take(detected, cut, height=100, width=200)]


def test_overlapping_answers_leave_the_best_one_whatever_its_name() -> None:
    detected = said(
        ((10, 10, 40, 90), 0.6, "person"),
        ((11, 12, 41, 92), 0.8, "bicycle"),
        ((100, 10, 140, 50), 0.5, "car"),
        ((60, 10, 80, 50), 0.3, "person"),
    )
    assert suppress(detected, min_score=0.4, nms_iou=0.5) == [1, 2]
    assert suppress(detected, min_score=0.4, nms_iou=0.95) == [1, 0, 2]
    assert suppress(detected, min_score=0.9, nms_iou=0.5) == []


def test_an_ellipse_fills_its_box_and_stops_at_the_picture() -> None:
    mask = ellipse(np.array([20.0, 10, 60, 90]), height=100, width=200)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 89, 20, 59)
    assert mask.sum() == pytest.approx(np.pi / 4 * 40 * 80, rel=0.01)
    assert mask[50, 40]
    assert not mask[12, 22]
    cut = ellipse(np.array([-20.0, -40, 20, 40]), height=100, width=200)
    assert cut[:40, :20].sum() == cut.sum() == pytest.approx(np.pi / 4 * 40 * 80 / 4, rel=0.05)


def test_who_walks_keeps_an_id_through_a_gap_and_loses_it_after_a_longer_one() -> None:
    peer = DetectorPeer(lambda rgb: said(), OPTIONS)

    def walker(place: int) -> Detected:
        return said(((10.0 + 6 * place, 20, 30.0 + 6 * place, 80), 0.7, "person"))

    ids = [take(peer, walker(place))[0][0] for place in range(4)]
    assert ids == [1] * 4
    assert take(peer, said()) == take(peer, said()) == []
    assert take(peer, walker(6)) == [(1, "person")], "his velocity carried the box on"
    for _ in range(3):
        assert take(peer, said()) == []
    assert take(peer, walker(10)) == [(2, "person")]
    assert take(peer, walker(11), cut=True) == [(3, "person")], "no id outlives a cut"


def test_weak_and_invisible_answers_are_nobody() -> None:
    peer = DetectorPeer(lambda rgb: said(), OPTIONS)
    assert take(peer, said(((10, 10, 30, 60), 0.39, "person"), ((50, 50, 50, 50), 0.9, "car"))) == []


def test_update_asks_about_each_picture_and_starts_over_at_cuts() -> None:
    peer = DetectorPeer(lambda rgb: said(((10, 10, 30, 60), 0.7, "person")), OPTIONS)
    noise = np.random.default_rng(0)
    dark, light = (noise.integers(low, low + 60, (100, 200, 3), dtype=np.uint8) for low in (0, 190))
    ids = [
        peer.update(picture, place / 10)[0].track_id for place, picture in enumerate([dark] * 4 + [light] * 4)
    ]
    assert ids == [1] * 4 + [2] * 4


def constant_detector(class_logits: dict[int, float]) -> tuple[CspTrunk, Detector]:
    """All cells of stride 32 say the same, of strides 8 and 16 nothing; every side is 5 strides away."""
    trunk, detector = CspTrunk(), Detector()
    with torch.no_grad():
        for parameter in (*trunk.parameters(), *detector.parameters()):
            parameter.zero_()
        for head in detector.heads:
            assert head.predict.bias is not None
            head.predict.bias[:NUM_CLASSES] = -20.0
        for column, logit in class_logits.items():
            detector.heads[2].predict.bias[column] = logit
    return trunk.eval(), detector.eval()


def test_answers_lie_in_the_pixels_of_the_picture() -> None:
    # COCO's columns: 0 person, 2 car. The picture is fitted into 64×128 at half its size, with 14 rows of padding.
    detect = NanoDetDetect(*constant_detector({0: 1.0, 2: 0.5}), height=64, width=128)
    detected = detect(np.zeros((100, 256, 3), np.uint8))
    assert detected.names == ["person"] * 8
    assert detected.scores == pytest.approx([1 / (1 + np.exp(-1))] * 8)
    assert detected.boxes_xyxy[0].tolist() == pytest.approx([0, 0, 256, 100]), "clipped to the picture"
    far = NanoDetDetect(*constant_detector({0: 1.0}), height=64, width=512)
    boxes = far(np.zeros((64, 512, 3), np.uint8)).boxes_xyxy
    assert boxes[8].tolist() == pytest.approx([112, 0, 432, 64]), (
        "cell 8's centre is at 272, its sides 160 away"
    )


def test_only_what_moves_on_its_own_is_looked_at() -> None:
    traffic_light = 9
    assert "traffic_light" not in NAMES
    detect = NanoDetDetect(*constant_detector({traffic_light: 5.0, 0: -2.0}), height=32, width=32)
    (name,) = detect(np.zeros((32, 32, 3), np.uint8)).names
    assert name == "person"
    assert 1 / (1 + np.exp(4)) < LEAST_SCORE
    quiet = NanoDetDetect(*constant_detector({traffic_light: 5.0, 0: -4.0}), height=32, width=32)
    assert quiet(np.zeros((32, 32, 3), np.uint8)).names == []


def test_an_input_that_the_detector_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32, got 100×320"):
        NanoDetDetect(CspTrunk(), Detector(), height=100, width=320)


def test_box_overlaps() -> None:
    one = np.array([[0.0, 0, 10, 10]])
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 20, 20]])
    assert box_ious(one, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0.25])
    assert box_shares(one, others)[0].tolist() == pytest.approx([1, 0.5, 0, 1])
    assert box_ious(one, np.zeros((0, 4))).shape == (1, 0)


def test_the_tracker_gives_each_box_one_id_and_never_one_twice() -> None:
    tracker = BoxTracker(match_iou=0.1, lost_frames=0)
    left, right = np.array([0.0, 0, 10, 10]), np.array([100.0, 0, 110, 10])
    assert tracker.update([left, right]) == [1, 2]
    assert tracker.update([right, left]) == [2, 1]
    assert tracker.update([]) == []
    assert tracker.update([left, right]) == [3, 4]
    tracker.forget()
    assert tracker.update([left]) == [5]
