"""The choice of the detector's boxes within a frame and over a window, on boxes laid out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.csp import Detections
from model.layers.proposals import frame_proposals, window_proposals

NUM_CLASSES = 3


def detections(rows: list[tuple[list[float], list[float]]]) -> Detections:
    """One frame of (box xyxy, logits)."""
    boxes = torch.tensor([[box for box, _ in rows]])
    logits = torch.tensor([[logit for _, logit in rows]])
    return Detections(logits, boxes)


def frame(*rows: tuple[list[float], float]) -> Tensor:
    """Proposals (1, R, 4 + K) of (box xyxy, logit of class 0)."""
    return torch.tensor([[[*box, logit, -9.0, -9.0] for box, logit in rows]])


LEFT, LEFT_MOVED, RIGHT = [0.1, 0.1, 0.3, 0.5], [0.12, 0.1, 0.32, 0.5], [0.6, 0.1, 0.8, 0.5]


def test_of_boxes_on_one_thing_the_best_comes_first_and_the_others_last() -> None:
    found = frame_proposals(
        detections(
            [
                ([0.1, 0.1, 0.3, 0.49], [0.5, -3, -3]),  # nearly LEFT, weaker
                (LEFT, [-3, 2, -3]),
                (RIGHT, [-3, -3, -1]),
                ([0.9, 0.9, 1.2, 1.1], [-2, -3, -3]),  # reaches out of the picture
            ]
        ),
        num_proposals=3,
    )
    assert found.shape == (1, 3, 4 + NUM_CLASSES)
    assert torch.allclose(found[0, 0], torch.tensor([*LEFT, -3, 2, -3]))
    assert torch.allclose(found[0, 1], torch.tensor([*RIGHT, -3, -3, -1]))
    assert torch.allclose(found[0, 2, :4], torch.tensor([0.9, 0.9, 1.0, 1.0]))


def test_what_lost_to_a_better_box_is_nothing_in_any_later_choice() -> None:
    nearly = [0.1, 0.1, 0.3, 0.49]
    one_frame = detections([(LEFT, [2, -3, -3]), (nearly, [1.9, -3, -3]), (RIGHT, [-2, -3, -3])])
    kept = frame_proposals(one_frame, num_proposals=3)
    assert kept[0, 2, 4:].max() < -10
    boxes, logits = window_proposals(kept, num_frames=1, num_queries=2)
    assert torch.allclose(logits[0, :, 0], torch.tensor([2.0, -2.0]))
    assert torch.allclose(boxes[0, 0, 1, 0], torch.tensor(0.7))


def test_boxes_that_overlap_little_all_stay() -> None:
    apart = [0.2, 0.1, 0.4, 0.5]  # IoU 1/3 with LEFT: two people side by side
    found = frame_proposals(detections([(LEFT, [1, 0, 0]), (apart, [0.9, 0, 0])]), num_proposals=2)
    assert torch.allclose(found[0, :, 4], torch.tensor([1, 0.9]))


def test_a_query_takes_its_own_box_in_every_frame() -> None:
    older, newest = frame((LEFT, 1.0), (RIGHT, 0.0)), frame((RIGHT, 0.5), (LEFT_MOVED, 0.2))
    boxes, logits = window_proposals(torch.cat((older, newest)), num_frames=2, num_queries=2)
    assert boxes.shape == (1, 2, 2, 4)
    assert torch.allclose(logits[0, :, 0], torch.tensor([0.5, 0.2]))
    centres = boxes[0, :, :, 0]
    assert torch.allclose(centres[1], torch.tensor([0.7, 0.22]))  # the newest frame
    assert torch.allclose(centres[0], torch.tensor([0.7, 0.2]))  # linked in the older one


def test_what_only_an_older_frame_has_still_gets_a_query_with_its_own_box_everywhere() -> None:
    older, newest = frame((LEFT, 1.0), (RIGHT, 0.3)), frame((RIGHT, 0.5), ([0.0, 0.8, 0.1, 0.9], -6.0))
    boxes, logits = window_proposals(torch.cat((older, newest)), num_frames=2, num_queries=2)
    assert torch.allclose(logits[0, :, 0], torch.tensor([1.0, 0.5]))
    assert torch.allclose(boxes[0, :, 0, 0], torch.tensor([0.2, 0.2]))
    # RIGHT of the older frame, better than the third of the newest, is not asked for twice.
    boxes, logits = window_proposals(torch.cat((older, newest)), num_frames=2, num_queries=3)
    assert torch.allclose(logits[0, :, 0], torch.tensor([1.0, 0.5, -6.0]))


def test_a_newer_box_that_is_nothing_does_not_hide_an_older_one() -> None:
    older, newest = frame((LEFT, 1.0)), frame((LEFT, -5.0))
    _, logits = window_proposals(torch.cat((older, newest)), num_frames=2, num_queries=1)
    assert logits[0, 0, 0] == 1.0


def test_fewer_boxes_than_queries_are_filled_up_with_the_best() -> None:
    boxes, logits = window_proposals(frame((LEFT, 1.0), (RIGHT, 0.0)), num_frames=1, num_queries=5)
    assert boxes.shape == (1, 1, 5, 4)
    assert logits[0, :, 0].tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]


def test_windows_do_not_touch() -> None:
    first, second = frame((LEFT, 1.0), (RIGHT, 0.0)), frame((RIGHT, 2.0), (LEFT, 1.5))
    both, _ = window_proposals(torch.cat((first, second)), num_frames=1, num_queries=2)
    alone, _ = window_proposals(second, num_frames=1, num_queries=2)
    assert torch.equal(both[1], alone[0])
