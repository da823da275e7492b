"""Values, gradients and invariances of the losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.box_cases import window_output, window_target
from support.small_models import live_model, random_images, small_config
from torch import Tensor

from model.config import ModelConfig
from model.layers.decoder import SURE, UNSEEN, LayerOutput
from model.network import Decoded, Network
from model.training.losses import (
    LossWeights,
    counted_cells,
    detection_losses,
    focal_loss,
    giou,
    mask_losses,
    matched_masks,
    window_losses,
    window_losses_and_masks,
)
from model.training.matcher import match
from model.training.targets import Target

T, H, W = 2, 64, 96
NOTHING = Target.from_clip(np.zeros((0, T, H, W), dtype=bool), np.zeros(0, dtype=np.int64))


def two_instances() -> Target:
    """One visible in both frames, one in the second alone."""
    masks = np.zeros((2, T, H, W), dtype=bool)
    masks[0, 0, 8:32, 8:24] = masks[0, 1, 8:32, 12:28] = True
    masks[1, 1, 40:60, 50:90] = True
    return Target.from_clip(masks, np.zeros(2, dtype=np.int64))


def decoded(network: Network, *, B: int = 2, seed: int = 0) -> Decoded:
    frames = random_images(B * T, 3, H, W, seed=seed)
    cues = torch.rand(B * T, 1, H, W, generator=torch.Generator().manual_seed(seed))
    return network.decode_layers(network.encode_frames(frames, cues), num_windows=B)


def plain_output(logits: Tensor, boxes: Tensor) -> LayerOutput:
    return LayerOutput(torch.zeros(*logits.shape[:2], 4), logits, boxes, boxes[..., :2])


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return small_config(class_list="object")


def test_focal_loss_of_hand_computed_values() -> None:
    logits = torch.tensor([0.0, 0.0, math.log(4.0), math.log(4.0)])
    wanted = torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = torch.tensor(
        [
            0.25 * 0.5**2 * math.log(2.0),
            0.75 * 0.5**2 * math.log(2.0),
            0.25 * 0.2**2 * -math.log(0.8),
            0.75 * 0.8**2 * -math.log(0.2),
        ]
    )
    torch.testing.assert_close(focal_loss(logits, wanted), expected)
    torch.testing.assert_close(focal_loss(logits, wanted, reduction="sum"), expected.sum())
    torch.testing.assert_close(focal_loss(logits, wanted, reduction="mean"), expected.mean())
    entropy = torch.tensor([math.log(2.0), math.log(2.0), -math.log(0.8), -math.log(0.2)])
    torch.testing.assert_close(focal_loss(logits, wanted, alpha=0.5, gamma=0.0), entropy / 2)


def test_focal_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.0, 150.0, 50.0]))
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_giou_of_hand_computed_values() -> None:
    first = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    second = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.3, 0.2, 0.2, 0.2], [0.5, 0.1, 0.2, 0.2]])
    # Equal; half covered: 1/3 and no spare hull; apart: 0 − 0.04/0.12.
    torch.testing.assert_close(giou(first, second), torch.tensor([1.0, 1 / 3, -1 / 3]))


def test_detection_losses_of_hand_computed_values() -> None:
    boxes = torch.tensor([0.3, 0.2, 0.2, 0.2]).expand(1, T, 3, 4)
    output = plain_output(torch.zeros(1, 3, 2), boxes)
    wanted = Target(
        labels=torch.tensor([1]),
        boxes=torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0]]]),
        masks=torch.zeros(1, T, 2, 2),
        present=torch.tensor([[True, False]]),
    )
    pair = [(torch.tensor([2]), torch.tensor([0]))]
    terms = detection_losses(output, [wanted], pair, num_instances=2.0)
    cell = 0.25 * math.log(2.0)
    assert terms["class"].item() == pytest.approx((0.25 * cell + 5 * 0.75 * cell) / 2)
    assert terms["l1"].item() == pytest.approx(0.1 / 2)
    assert terms["giou"].item() == pytest.approx((1 - 1 / 3) / 2)
    both = Target(
        wanted.labels, wanted.boxes[:, :1].repeat(1, T, 1), wanted.masks, torch.tensor([[True, True]])
    )
    terms = detection_losses(output, [both], pair, num_instances=2.0)
    assert terms["l1"].item() == pytest.approx(0.1 / 2)  # mean over frames
    assert terms["giou"].item() == pytest.approx((1 - 1 / 3) / 2)


# l1: mean of Σ|d| over the frames that count; giou: mean of 1 − GIoU over them (support.box_cases).
@pytest.mark.parametrize(
    ("frames", "l1", "apart"),
    [
        ("s", 0.1, 0.666667),  # 0.1; 2/3
        ("d", 0.2, 1.079365),  # 0.1 + 0.1; 68/63
        ("sw", 0.15, 0.583333),  # (0.1 + 0.2)/2; (2/3 + 1/2)/2
        ("w-", 0.2, 0.5),  # of one frame
        ("swesf", 0.16, 0.633333),  # (0.1 + 0.2 + 0 + 0.1 + 0.4)/5; (2/3 + 1/2 + 0 + 2/3 + 4/3)/5
        ("s-w-f", 0.233333, 0.833333),  # (0.1 + 0.2 + 0.4)/3; (2/3 + 1/2 + 4/3)/3
        ("f" + 35 * "e", 0.011111, 0.037037),  # 0.4/36; (4/3)/36
        (9 * "w" + 27 * "-", 0.2, 0.5),  # 9·0.2/9; 9·(1/2)/9
        (18 * "s" + 9 * "-" + 9 * "w", 0.133333, 0.611111),  # (1.8 + 1.8)/27; (12 + 4.5)/27
    ],
)
def test_detection_losses_by_hand_from_one_frame_to_36(frames: str, l1: float, apart: float) -> None:
    pair = [(torch.tensor([0]), torch.tensor([0]))]
    output, wanted = window_output(frames), window_target(frames)
    terms = detection_losses(output, [wanted], pair, num_instances=2.0)
    # One of four scores should be 1, that of 0.8: 0.25·0.2²·0.223144 = 0.002231. The others should be 0:
    # 0.75·0.5²·0.693147 = 0.129965 twice and 0.75·0.2²·0.223144 = 0.006694. In all 0.268856, for any T.
    assert terms["class"].item() == pytest.approx(0.268856 / 2, abs=1e-6)
    assert terms["l1"].item() == pytest.approx(l1 / 2, abs=1e-6)
    assert terms["giou"].item() == pytest.approx(apart / 2, abs=1e-6)
    # Two pairs are two means, as those of denoising queries, several of which answer for one instance.
    pairs = [(torch.tensor([0, 1]), torch.tensor([0, 0]))]
    twice = detection_losses(output, [wanted], pairs, num_instances=2.0)
    assert twice["l1"].item() == pytest.approx(l1, abs=1e-6)
    assert twice["giou"].item() == pytest.approx(apart, abs=1e-6)


def test_absent_frames_count_in_masks_but_not_in_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = (torch.rand(1, T, 4, 4, generator=generator) * 0.5 + 0.1).requires_grad_()
    output = plain_output(torch.zeros(1, 4, 1), boxes)
    wanted = two_instances()
    matches = [(torch.tensor([3, 1]), torch.tensor([0, 1]))]
    terms = detection_losses(output, [wanted], matches, num_instances=2.0)
    (terms["l1"] + terms["giou"]).backward()
    assert boxes.grad is not None
    touched = boxes.grad.abs().sum(dim=-1)[0] > 0  # (T, Q)
    assert touched.tolist() == [[False, False, False, True], [False, True, False, True]]

    logits = torch.zeros(2, *wanted.masks.shape[1:], requires_grad=True)
    sum(mask_losses(logits, wanted.masks, num_instances=2.0).values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert (logits.grad[1, 0] > 0).all()  # instance 1 is absent from frame 0: all of it is pushed down


def test_ignored_cells_count_neither_in_masks_nor_for_queries_that_lie_on_them() -> None:
    clip = np.zeros((1, T, 16, 16), dtype=bool)
    clip[0, :, 4:8, 4:8] = True
    ignore = np.zeros((T, 16, 16), dtype=bool)
    ignore[:, :, :8] = True  # the left half, the instance's cell included
    plain = Target.from_clip(clip, np.zeros(1, dtype=np.int64))
    wanted = Target.from_clip(clip, np.zeros(1, dtype=np.int64), ignore=ignore)
    boxes = torch.tensor([[0.2, 0.5, 0.2, 0.2], [0.2, 0.5, 0.2, 0.2], [0.8, 0.5, 0.2, 0.2]])
    logits = torch.zeros(1, 3, 1, requires_grad=True)
    output = plain_output(logits, boxes.expand(1, T, 3, 4))
    matches = [(torch.tensor([1]), torch.tensor([0]))]
    detection_losses(output, [wanted], matches, num_instances=1.0)["class"].backward()
    assert logits.grad is not None
    assert logits.grad.flatten().sign().tolist() == [0.0, -1.0, 1.0]
    everywhere = detection_losses(output, [plain], matches, num_instances=1.0)
    assert everywhere["class"].item() == pytest.approx(math.log(2) / 16 * (1 + 3 + 3))

    assert counted_cells([plain], matches) is None
    counted = counted_cells([plain, wanted], [matches[0], matches[0]])
    assert counted is not None
    assert (counted[0] == 1).all()
    assert counted[1, 0].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    mask_logits = torch.zeros(1, T, 4, 4, requires_grad=True)
    terms = mask_losses(mask_logits, wanted.masks, num_instances=1.0, counted=counted[1:])
    cell = 0.25 * math.log(2.0)
    assert terms["mask"].item() == pytest.approx((0.25 * cell + 8 * 0.75 * cell) / 9)
    assert terms["dice"].item() == pytest.approx(1 - (2 * 1 + 1) / (9 + 2 + 1))
    (terms["mask"] + terms["dice"]).backward()
    assert mask_logits.grad is not None
    assert torch.equal(mask_logits.grad != 0, counted[1:] > 0)


def test_every_parameter_learns_and_only_matched_queries_learn_masks(config: ModelConfig) -> None:
    network = live_model(config).train()
    out = decoded(network)
    targets = [two_instances(), NOTHING]
    losses = window_losses_and_masks(out.layers, lambda q, c: network.masks(q, c, out), targets)
    losses.total.backward()
    for name, parameter in network.named_parameters():
        if name.startswith("decoder.selection."):  # learns from losses of its own
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith(
            "frame_weights.bias"
        ):  # the same for all frames of a softmax: no gradient at all
            assert parameter.grad.any(), name

    network.zero_grad()
    out = decoded(network)
    last = out.layers[-1]
    last.queries.retain_grad()
    matches = match(last, targets)
    masks = matched_masks(last, matches, lambda q, c: network.masks(q, c, out))
    masks.sum().backward()
    assert last.queries.grad is not None
    touched = last.queries.grad.abs().sum(dim=-1).nonzero()
    assert touched.tolist() == [[0, query] for query in sorted(matches[0][0].tolist())]


def test_matched_masks_are_those_of_each_query_alone(config: ModelConfig) -> None:
    network = live_model(config)
    out = decoded(network)
    last = out.layers[-1]
    matches = [
        (torch.tensor([4, 0, 7]), torch.tensor([0, 1, 2])),
        (torch.tensor([5]), torch.tensor([0])),
    ]
    masks = matched_masks(last, matches, lambda q, c: network.masks(q, c, out))
    everything = network.masks(last.queries, last.centres, out)
    expected = torch.stack([everything[0, 4], everything[0, 0], everything[0, 7], everything[1, 5]])
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
    nothing = matched_masks(
        last, [matches[0], (matches[1][0][:0],) * 2], lambda q, c: network.masks(q, c, out)
    )
    assert nothing.shape == (3, T, H // 4, W // 4)


def test_the_total_is_the_weighted_sum_of_the_named_terms(config: ModelConfig) -> None:
    network = live_model(config)
    out = decoded(network)
    targets = [two_instances(), two_instances()]
    calls: list[tuple[int, ...]] = []

    def masks(queries: Tensor, centres: Tensor) -> Tensor:
        calls.append(tuple(queries.shape[:2]))
        return network.masks(queries, centres, out)

    factors = {"class": 2.0, "l1": 5.0, "giou": 2.0, "mask": 2.0, "dice": 5.0}
    for everywhere in (False, True):
        calls.clear()
        weights = LossWeights(masks_on_all_layers=everywhere)
        total, terms = window_losses(out.layers, masks, targets, weights=weights)
        detection = ["class_0", "l1_0", "giou_0"] + ["mask_0", "dice_0"] * everywhere
        assert set(terms) == {*detection, *factors}
        assert calls == [(2, 2)] * (2 if everywhere else 1)
        by_name = sum(factors[name.split("_")[0]] * term.item() for name, term in terms.items())
        assert total.item() == pytest.approx(by_name, rel=1e-5)
        assert not any(term.requires_grad for term in terms.values())
    heavier, _ = window_losses(
        out.layers, masks, targets, weights=LossWeights(dice=6.0, masks_on_all_layers=True)
    )
    assert (heavier - total).item() == pytest.approx((terms["dice"] + terms["dice_0"]).item(), rel=1e-3)


def test_the_order_of_instances_and_queries_does_not_matter(config: ModelConfig) -> None:
    network = live_model(config)
    out = decoded(network)
    targets = [two_instances(), NOTHING]
    total, _ = window_losses(out.layers, lambda q, c: network.masks(q, c, out), targets)
    swapped = [targets[0].select(torch.tensor([1, 0])), NOTHING]
    order = torch.randperm(out.layers[0].logits.shape[1], generator=torch.Generator().manual_seed(1))
    layers = [
        LayerOutput(x.queries[:, order], x.logits[:, order], x.boxes[:, :, order], x.centres[:, :, order])
        for x in out.layers
    ]
    again, _ = window_losses(layers, lambda q, c: network.masks(q, c, out), swapped)
    torch.testing.assert_close(again, total, rtol=1e-5, atol=1e-5)


def test_windows_without_an_instance_teach_the_class_alone(config: ModelConfig) -> None:
    network = live_model(config)
    out = decoded(network)
    nothing = [NOTHING, NOTHING]
    total, terms = window_losses(out.layers, lambda q, c: network.masks(q, c, out), nothing)
    assert {name for name, term in terms.items() if term != 0} == {"class", "class_0"}
    expected = sum(2 * focal_loss(x.logits, torch.zeros_like(x.logits), reduction="sum") for x in out.layers)
    torch.testing.assert_close(total, expected)
    total.backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    of_boxes = network.get_parameter("decoder.bbox_embed.1.layers.2.weight").grad
    of_masks = network.get_parameter("mask_head.controller.layers.0.weight").grad
    # Zero, but there: processes that train together average the gradients of all parameters.
    assert of_boxes is not None
    assert of_masks is not None
    assert not of_boxes.any()
    assert not of_masks.any()


def test_losses_are_float32_under_autocast(config: ModelConfig) -> None:
    network = live_model(config)
    targets = [two_instances(), NOTHING]
    with torch.no_grad():
        plain, _ = window_losses(
            (out := decoded(network)).layers, lambda q, c: network.masks(q, c, out), targets
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = decoded(network)
        assert half.memory.dtype == torch.bfloat16  # the network is; its answers are not (test_precision)
        total, terms = window_losses(half.layers, lambda q, c: network.masks(q, c, half), targets)
    assert {term.dtype for term in terms.values()} == {total.dtype} == {torch.float32}
    assert total.item() == pytest.approx(plain.item(), rel=0.05)  # bf16 keeps 8 bits of the network's outputs
    total.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_gradient_steps_on_one_window_bring_the_loss_down(config: ModelConfig) -> None:
    network = live_model(config)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    history = []
    for _ in range(12):
        out = decoded(network, B=1)
        total, _ = window_losses(
            out.layers, lambda q, c, out=out: network.masks(q, c, out), [two_instances()]
        )  # type: ignore[misc]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < 0.7 * history[0], history


@pytest.mark.parametrize("matched", [True, False])
def test_the_class_loss_of_things_is_of_those_alone_that_no_name_covers(matched: bool) -> None:
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    logits = torch.full((1, 4, 3), UNSEEN)
    logits[0, 0, 0] = SURE + 1  # named, on the instance
    logits[0, 1:, 2] = 0.0  # things: on it too, next to it, and far away
    shift = torch.tensor([0.0, 0.02, 0.15, 0.3])
    boxes = box.repeat(1, T, 4, 1)
    boxes[..., 0] += shift
    logits.requires_grad_()
    target = Target(
        labels=torch.tensor([0]),
        boxes=box.repeat(1, T, 1),
        masks=torch.zeros(1, T, 4, 6),
        present=torch.ones(1, T, dtype=torch.bool),
    )
    pairs = (
        [(torch.tensor([0, 2]), torch.tensor([0, 0]))]
        if matched
        else [(torch.tensor([0]), torch.tensor([0]))]
    )
    terms = detection_losses(plain_output(logits, boxes), [target], pairs, num_instances=1.0, thing_output=2)
    (grad,) = torch.autograd.grad(terms["class"], logits)
    # What stands on a surely named instance is asked nothing; elsewhere 0 is wanted of who is not matched.
    assert grad[0, 1].abs().max() == 0
    assert (grad[0, 2, 2] < 0) == matched
    assert grad[0, 3, 2] > 0
    assert grad[0, 0, 0] < 0
    assert grad[0, 0, 2] > 0
