"""Which query is matched to which instance."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support.box_cases import window_output, window_target
from support.small_models import live_model, random_images, small_config
from torch import Tensor

from model.layers.decoder import SURE, UNSEEN, LayerOutput
from model.training.matcher import (
    MatchWeights,
    covered_instances,
    match,
    match_layers,
    match_terms,
    shared_boxes,
    sum_terms,
)
from model.training.targets import Target


def layer_output(*, B: int, T: int, Q: int, K: int, seed: int) -> LayerOutput:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(B, T, Q, 4, generator=generator) * 0.5 + 0.1
    return LayerOutput(
        queries=torch.randn(B, Q, 8, generator=generator),
        logits=torch.randn(B, Q, K, generator=generator) * 2,
        boxes=boxes,
        centres=boxes[..., :2],
    )


def target(*, N: int, T: int, K: int, seed: int, hidden: float = 0.3) -> Target:
    """N random instances, each absent in some frames but never in all."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(N, T, generator=generator) >= hidden
    present[:, 0] |= ~present.any(dim=1)
    boxes = (torch.rand(N, T, 4, generator=generator) * 0.5 + 0.1) * present[..., None]
    return Target(
        labels=torch.randint(K, (N,), generator=generator),
        boxes=boxes,
        masks=torch.zeros(N, T, 4, 6),
        present=present,
    )


def cost_by_hand(output: LayerOutput, window: int, wanted: Target, query: int, instance: int) -> float:
    """The cost of one pair in plain Python floats, from the formulas of the design."""
    p = 1 / (1 + math.exp(-output.logits[window, query, wanted.labels[instance]].item()))
    cost = 2 * (0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p))
    frames = [t for t in range(wanted.num_frames) if wanted.present[instance, t]]
    squares = 0.0
    for t in frames:
        box, goal = output.boxes[window, t, query].tolist(), wanted.boxes[instance, t].tolist()
        squares += sum((a - b) ** 2 for a, b in zip(box, goal, strict=True))
        cost -= 2 * giou_by_hand(box, goal) / len(frames)
    return cost + 5 * math.sqrt(squares * wanted.num_frames / len(frames))


def giou_by_hand(first: list[float], second: list[float]) -> float:
    spans = []
    for axis in range(2):
        a0, a1 = first[axis] - first[axis + 2] / 2, first[axis] + first[axis + 2] / 2
        b0, b1 = second[axis] - second[axis + 2] / 2, second[axis] + second[axis + 2] / 2
        spans.append((max(0.0, min(a1, b1) - max(a0, b0)), max(a1, b1) - min(a0, b0)))
    both, hull = spans[0][0] * spans[1][0], spans[0][1] * spans[1][1]
    union = first[2] * first[3] + second[2] * second[3] - both
    return both / union - (hull - union) / hull


def test_the_cost_is_the_designs_formula() -> None:
    output = layer_output(B=2, T=3, Q=4, K=3, seed=0)
    wanted = target(N=3, T=3, K=3, seed=1)
    assert not wanted.present.all()
    cost = sum_terms(match_terms(output, 1, wanted), MatchWeights())
    by_hand = [[cost_by_hand(output, 1, wanted, q, n) for n in range(3)] for q in range(4)]
    torch.testing.assert_close(cost, torch.tensor(by_hand), rtol=1e-5, atol=1e-5)


# l1: √(Σd² · T / counted frames); giou: mean of GIoU over those (support.box_cases). The class cost of query
# 0, whose score is 0.8: 0.25·0.2²·0.223144 − 0.75·0.8²·1.609438 = −0.770299. Total: 2·class + 5·l1 − 2·giou.
@pytest.mark.parametrize(
    ("frames", "l1", "giou", "total"),
    [
        ("s", 0.1, 0.333333, -1.707264),  # −1.540598 + 0.5 − 0.666667
        ("d", 0.141421, -0.079365, -0.674761),  # √(0.01 + 0.01): −1.540598 + 0.707107 + 0.158730
        ("sw", 0.223607, 0.416667, -1.255897),  # √(0.01 + 0.04); (1/3 + 1/2)/2
        ("w-", 0.282843, 0.5, -1.126384),  # √(0.04·2/1)
        ("swesf", 0.469042, 0.366667, 0.071277),  # √0.22; (1/3 + 1/2 + 1 + 1/3 − 1/3)/5
        ("s-w-f", 0.591608, 0.166667, 1.084109),  # √(0.21·5/3); (1/3 + 1/2 − 1/3)/3
        ("f" + 35 * "e", 0.4, 0.962963, -1.466523),  # √0.16; (35 − 1/3)/36
        (9 * "w" + 27 * "-", 1.2, 0.5, 3.459402),  # √(9·0.04·36/9)
        (18 * "s" + 9 * "-" + 9 * "w", 0.848528, 0.388889, 1.924266),  # √(0.54·36/27); (6 + 4.5)/27
    ],
)
def test_the_cost_by_hand_from_one_frame_to_36(frames: str, l1: float, giou: float, total: float) -> None:
    terms = match_terms(window_output(frames), 0, window_target(frames))
    # Query 1 has a score of 0.5: 0.25·0.5²·0.693147 − 0.75·0.5²·0.693147 = −0.086643.
    torch.testing.assert_close(terms["class"], torch.tensor([[-0.770299], [-0.086643]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(terms["l1"], torch.full((2, 1), l1), rtol=0, atol=1e-6)
    torch.testing.assert_close(terms["giou"], torch.full((2, 1), -giou), rtol=0, atol=1e-6)
    assert sum_terms(terms, MatchWeights())[0].item() == pytest.approx(total, abs=5e-6)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 36])
def test_where_every_frame_counts_the_l1_cost_is_cdist_over_all_numbers(num_frames: int) -> None:
    output = layer_output(B=1, T=num_frames, Q=6, K=2, seed=1)
    wanted = target(N=4, T=num_frames, K=2, seed=2, hidden=0.0)
    rows = output.boxes[0].transpose(0, 1).flatten(1)  # (Q, T·4)
    published = torch.cdist(rows, wanted.boxes.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(match_terms(output, 0, wanted)["l1"], published)


def test_boxes_weigh_as_much_for_an_instance_that_is_seen_briefly() -> None:
    """Equally far off in every frame, and counted in 1 to 5 of them: the same cost."""
    costs = [match_terms(window_output(f), 0, window_target(f))["l1"] for f in ("ddddd", "dd-d-", "----d")]
    for cost in costs[1:]:
        torch.testing.assert_close(cost, costs[0])


@pytest.mark.parametrize("seed", range(8))
def test_the_assignment_is_the_cheapest_of_all(seed: int) -> None:
    output = layer_output(B=2, T=2, Q=5, K=2, seed=seed)
    targets = [target(N=3, T=2, K=2, seed=seed + 100), target(N=4, T=2, K=2, seed=seed + 200)]
    for window, (wanted, (queries, instances)) in enumerate(
        zip(targets, match(output, targets), strict=True)
    ):
        assert instances.tolist() == list(range(wanted.num_instances))
        assert len(set(queries.tolist())) == wanted.num_instances
        assert queries.dtype == instances.dtype == torch.int64

        def price(order: tuple[int, ...], window: int = window, wanted: Target = wanted) -> float:
            return sum(cost_by_hand(output, window, wanted, q, n) for n, q in enumerate(order))

        best = min(itertools.permutations(range(5), wanted.num_instances), key=price)
        assert queries.tolist() == list(best)


def test_a_permutation_of_queries_and_instances_permutes_the_matches() -> None:
    output = layer_output(B=1, T=3, Q=6, K=2, seed=3)
    wanted = target(N=4, T=3, K=2, seed=4)
    [(queries, _)] = match(output, [wanted])
    of_query, of_instance = torch.randperm(6), torch.randperm(4)
    shuffled = LayerOutput(
        queries=output.queries[:, of_query],
        logits=output.logits[:, of_query],
        boxes=output.boxes[:, :, of_query],
        centres=output.centres[:, :, of_query],
    )
    [(again, instances)] = match(shuffled, [wanted.select(of_instance)])
    assert instances.tolist() == [0, 1, 2, 3]
    assert of_query[again].tolist() == queries[of_instance].tolist()


def test_boxes_of_absent_frames_do_not_count() -> None:
    output = layer_output(B=1, T=2, Q=3, K=1, seed=5)
    wanted = target(N=2, T=2, K=1, seed=6, hidden=0.0)
    wanted = Target(wanted.labels, wanted.boxes, wanted.masks, torch.tensor([[True, False], [True, True]]))
    boxes = wanted.boxes.clone()
    boxes[0, 1] = torch.tensor([0.9, 0.9, 0.05, 0.05])
    elsewhere = Target(wanted.labels, boxes, wanted.masks, wanted.present)
    before, after = match_terms(output, 0, wanted), match_terms(output, 0, elsewhere)
    assert all(torch.equal(before[name], after[name]) for name in before)
    everywhere = Target(wanted.labels, boxes, wanted.masks, torch.ones(2, 2, dtype=torch.bool))
    assert not torch.equal(before["l1"], match_terms(output, 0, everywhere)["l1"])


def test_windows_without_an_instance_and_with_more_than_queries() -> None:
    output = layer_output(B=3, T=2, Q=3, K=1, seed=7)
    targets = [target(N=n, T=2, K=1, seed=8 + n) for n in (0, 5, 2)]
    empty, crowded, plain = match(output, targets)
    assert [len(part) for part in empty] == [0, 0]
    assert empty[0].dtype == torch.int64
    assert sorted(crowded[0].tolist()) == [0, 1, 2]
    assert crowded[1].tolist() == sorted(set(crowded[1].tolist()))
    assert plain[1].tolist() == [0, 1]


def test_layers_together_match_as_each_alone() -> None:
    layers = [layer_output(B=2, T=2, Q=4, K=1, seed=seed) for seed in (1, 2, 3)]
    targets = [target(N=2, T=2, K=1, seed=4), target(N=0, T=2, K=1, seed=5)]
    for layer, together in zip(layers, match_layers(layers, targets), strict=True):
        for alone, shared in zip(match(layer, targets), together, strict=True):
            assert torch.equal(alone[0], shared[0])
            assert torch.equal(alone[1], shared[1])


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("class", "logits", math.nan), ("l1", "boxes", math.inf), ("l1", "boxes", math.nan)],
)
def test_what_is_not_finite_is_named(name: str, field: str, value: float) -> None:
    good = layer_output(B=2, T=2, Q=4, K=1, seed=1)
    bad = layer_output(B=2, T=2, Q=4, K=1, seed=1)
    spoiled: Tensor = getattr(bad, field)
    spoiled[1, 1] = value
    targets = [target(N=2, T=2, K=1, seed=4, hidden=0.0)] * 2
    with pytest.raises(ValueError, match=f"the {name} cost of decoder layer 1, window 1 is not finite"):
        match_layers([good, bad], targets)


def test_bad_targets_are_named() -> None:
    output = layer_output(B=2, T=2, Q=4, K=2, seed=1)
    good = target(N=2, T=2, K=2, seed=4)
    with pytest.raises(ValueError, match="1 targets for 2 windows"):
        match(output, [good])
    with pytest.raises(ValueError, match="target 1 has 3 frames, the window has 2"):
        match(output, [good, target(N=2, T=3, K=2, seed=4)])
    stranger = Target(torch.tensor([0, 2]), good.boxes, good.masks, good.present)
    with pytest.raises(ValueError, match="labels of target 1 go from 0 to 2, allowed: 0 to 1"):
        match(output, [good, stranger])


def test_matching_takes_no_gradient_and_is_float32_under_autocast() -> None:
    config = small_config(class_list="object")
    network = live_model(config)
    features = network.encode_frames(random_images(4, 3, 64, 96))
    wanted = [target(N=2, T=2, K=1, seed=9), target(N=1, T=2, K=1, seed=10)]
    output = network.decode_layers(features, num_windows=2).layers[-1]
    plain = match(output, wanted)
    rounded = LayerOutput(
        output.queries, output.logits.bfloat16(), output.boxes.bfloat16(), output.centres.bfloat16()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = match_terms(rounded, 0, wanted[0])
        again = match(output, wanted)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    for (queries, _), (same, _) in zip(plain, again, strict=True):
        assert torch.equal(queries, same)
        assert not queries.requires_grad


THING = 2
"""The last of three outputs: what no detector names."""


def beside_a_detector() -> tuple[LayerOutput, Target]:
    """Four queries, one window of two frames, three instances side by side.

    The detector is sure of query 0, on instance 0; not of 1, on instance 1; sure of 2, where nothing is.
    Query 3 it does not name; it stands on instance 0, and nearer to 1 than to 2.
    """
    spots = torch.tensor([[0.2, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4], [0.8, 0.5, 0.2, 0.4]])
    logits = torch.full((1, 4, 3), UNSEEN)
    logits[0, 0, 0] = logits[0, 2, 1] = SURE + 1
    logits[0, 1, 0] = SURE - 1
    logits[0, 3, THING] = 1.0
    nowhere = torch.tensor([0.5, 0.1, 0.9, 0.1])
    boxes = torch.stack((spots[0], spots[1], nowhere, spots[0] + torch.tensor([0.02, 0.0, 0.0, 0.0])))
    boxes = boxes.expand(1, 2, 4, 4)
    wanted = Target(
        labels=torch.tensor([1, 0, 0]),
        boxes=spots[:, None].expand(3, 2, 4),
        masks=torch.zeros(3, 2, 4, 6),
        present=torch.ones(3, 2, dtype=torch.bool),
    )
    return LayerOutput(torch.zeros(1, 4, 8), logits, boxes, boxes[..., :2]), wanted


def test_what_a_sure_box_covers_by_half_is_covered_whatever_its_name() -> None:
    output, wanted = beside_a_detector()
    assert covered_instances(output, 0, wanted).tolist() == [True, False, False]
    moved = output.boxes + torch.tensor([0.08, 0.08, 0.0, 0.0])
    apart = LayerOutput(output.queries, output.logits, moved, output.centres)
    # 0.2 wide and 0.4 high, moved by 0.08 on both axes: 0.12·0.32 of 0.16 − 0.12·0.32 are shared.
    assert shared_boxes(apart, 0, wanted)[0, 0].item() == pytest.approx(0.0384 / 0.1216, abs=1e-6)
    assert not covered_instances(apart, 0, wanted).any()


def test_names_are_matched_where_they_lie_and_things_where_no_sure_name_is() -> None:
    output, wanted = beside_a_detector()
    ((queries, instances),) = match_layers([output], [wanted], thing_output=THING)[0]
    pairs = list(zip(queries.tolist(), instances.tolist(), strict=True))
    # Query 0 has its mask to learn though the name is another; 2 lies on nothing; 3 must leave instance 0
    # to the detector and takes 1, the nearer of those that it is not sure of.
    assert pairs == [(0, 0), (1, 1), (3, 1)]


def test_without_things_a_query_may_take_any_instance() -> None:
    output, wanted = beside_a_detector()
    ((queries, instances),) = match_layers([output], [wanted])[0]
    assert sorted(instances.tolist()) == [0, 1, 2]
    assert len(set(queries.tolist())) == 3


def test_things_of_windows_without_an_instance_and_of_several_layers() -> None:
    output, wanted = beside_a_detector()
    nothing = wanted.select(torch.zeros(0, dtype=torch.int64))
    twice = LayerOutput(
        *(x.expand(2, *x.shape[1:]) for x in (output.queries, output.logits, output.boxes, output.centres))
    )
    layers = match_layers([twice, twice], [nothing, wanted], thing_output=THING)
    for empty, full in layers:
        assert [len(part) for part in empty] == [0, 0]
        assert full[0].tolist() == [0, 1, 3]
        assert full[1].tolist() == [0, 1, 1]
