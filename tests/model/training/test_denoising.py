"""Denoising queries: noised true boxes that know their instance, negatives next to it, nobody sees them."""

from __future__ import annotations

import pytest
import torch
from support.small_models import small_config

from model.layers.decoder import UNSEEN, Decoder
from model.network import build_model
from model.training.denoising import FIXED_NOISE, NOISE, Denoising, DenoisingContent, denoising_queries
from model.training.targets import Target
from ops.boxes import box_cxcywh_to_xyxy, box_iou

CONFIG = small_config(query_selection="encoder", class_list="ovis")
D = 12


def some_target(boxes: list[list[float]], labels: list[int], *, num_frames: int = 2) -> Target:
    """Boxes that stay where they are in all frames."""
    known = torch.tensor(boxes).reshape(-1, 1, 4).expand(-1, num_frames, -1).clone()
    return Target(
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=known,
        masks=torch.zeros(len(labels), num_frames, 4, 4),
        present=torch.ones(len(labels), num_frames, dtype=torch.bool),
    )


TARGETS = [
    some_target([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.1, 0.3], [0.5, 0.4, 0.2, 0.1]], [3, 0, 7]),
    some_target([[0.5, 0.5, 0.2, 0.2]], [5]),
    some_target([], []),
]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return build_model(CONFIG, seed=0).decoder


def made(decoder: Decoder, targets: list[Target] = TARGETS, *, seed: int = 0) -> Denoising:
    torch.manual_seed(1)
    content = DenoisingContent(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    return denoising_queries(content, decoder, targets, num_queries=D, generator=generator)


def test_shapes_and_matches(decoder: Decoder) -> None:
    result = made(decoder)
    C, Q = CONFIG.hidden_dim, CONFIG.num_queries
    assert result.extra.content.shape == (3, D, C)
    assert result.extra.position.shape == (3, D, C)
    assert result.extra.reference.shape == (3, 2, D, 4)
    assert result.extra.mask.shape == (Q + D, Q + D)
    assert ((result.extra.reference > 0) & (result.extra.reference < 1)).all()
    for target, (queries, instances) in zip(TARGETS, result.matches, strict=True):
        if target.num_instances:
            assert len(queries) == 2 * D // 3
            assert sorted(set(instances.tolist())) == list(range(target.num_instances))
            assert instances.tolist() == sorted(instances.tolist())
            assert len(set(queries.tolist())) == len(queries)
        else:
            assert len(queries) == len(instances) == 0


def test_positives_overlap_their_instance_and_negatives_do_so_less(decoder: Decoder) -> None:
    close, far = [], []
    for seed in range(20):
        result = made(decoder, seed=seed)
        target, (queries, instances) = TARGETS[0], result.matches[0]
        reference = box_cxcywh_to_xyxy(result.extra.reference[0, 0])
        iou = box_iou(reference, box_cxcywh_to_xyxy(target.boxes[:, 0]))  # (D, N)
        close += iou[queries, instances].tolist()
        negative = [query for query in range(D) if query not in queries.tolist()]
        assert len(negative) == D // 3
        far += iou[negative].amax(dim=1).tolist()
        moved = result.extra.reference[0, 0][queries] - target.boxes[instances, 0]
        assert (moved.abs() <= NOISE * target.boxes[instances, 0][:, [2, 3, 2, 3]] + 1e-6).all()
    assert min(close) > 0.15
    assert sum(close) / len(close) > 0.4
    assert sum(far) / len(far) < 0.15


def test_the_networks_own_queries_do_not_see_them_and_they_see_one_another_not(decoder: Decoder) -> None:
    mask, Q = made(decoder).extra.mask, CONFIG.num_queries
    assert mask[:Q, :Q].all()
    assert mask[Q:, :Q].all()
    assert torch.equal(mask[Q:, Q:], torch.eye(D, dtype=torch.bool))
    assert not mask[:Q, Q:].any()


def test_the_networks_answers_are_the_same_with_and_without_them() -> None:
    network = build_model(CONFIG, seed=0)
    clip = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = network.encode_frames(clip)
    extra = made(network.decoder, TARGETS[:1]).extra
    Q = CONFIG.num_queries
    with_them = network.decode_layers(features, extra=extra).layers
    without = network.decode_layers(features).layers
    for one, other in zip(with_them, without, strict=True):
        assert one.logits.shape[1] == Q + D
        assert torch.allclose(one.logits[:, :Q], other.logits, atol=1e-5)
        assert torch.allclose(one.boxes[:, :, :Q], other.boxes, atol=1e-6)


def test_noise_depends_on_the_generator_alone(decoder: Decoder) -> None:
    first, again, other = made(decoder), made(decoder), made(decoder, seed=1)
    assert torch.equal(first.extra.reference, again.extra.reference)
    assert torch.equal(first.extra.content, again.extra.content)
    assert not torch.equal(first.extra.reference, other.extra.reference)


def test_a_frame_without_the_instance_takes_the_nearest_frames_box(decoder: Decoder) -> None:
    target = some_target([[0.2, 0.3, 0.2, 0.2]], [1], num_frames=4)
    target.boxes[0, :, 0] = torch.tensor([0.0, 0.2, 0.4, 0.0])
    target.boxes[0, [0, 3]] = 0
    target.present[0, [0, 3]] = False
    result = made(decoder, [target])
    queries = result.matches[0][0]
    centres = result.extra.reference[0, :, queries, 0]  # (T, n)
    shift = centres[1] - 0.2
    assert torch.allclose(centres[0], centres[1])
    assert torch.allclose(centres[2] - 0.4, shift, atol=1e-6)
    assert torch.allclose(centres[3], centres[2])


def test_most_queries_claim_the_class_of_their_instance(decoder: Decoder) -> None:
    torch.manual_seed(0)
    content = DenoisingContent(CONFIG)
    target = some_target([[0.5, 0.5, 0.2, 0.2]], [5])
    generator = torch.Generator().manual_seed(0)
    result = denoising_queries(content, decoder, [target], num_queries=300, generator=generator)
    own = (result.extra.content[0] == content.embed.weight[5]).all(dim=-1)
    assert 0.7 < float(own.float().mean()) < 0.9


def test_with_a_detector_half_claim_a_name_and_half_are_things_of_more_noise() -> None:
    config = small_config(
        backbone="csp",
        query_selection="detector",
        class_list="coco_and_object",
        mask_source="picture",
        num_queries=6,
        num_motion_queries=2,
    )
    decoder = build_model(config, seed=0).decoder
    target = some_target([[0.5, 0.5, 0.2, 0.2]], [5])
    generator = torch.Generator().manual_seed(0)
    result = denoising_queries(None, decoder, [target], num_queries=200, generator=generator)
    logits = result.extra.class_logits
    assert logits is not None
    assert result.num_named == 100
    named = logits[0, :, :-1].amax(dim=-1) > UNSEEN
    assert named[:100].float().mean() > 0.9
    assert not named[100:].any()
    assert (logits[0, 100:, -1] > UNSEEN).float().mean() > 0.9
    queries, _ = result.matches[0]
    shift = (result.extra.reference[0, 0, :, 0] - 0.5).abs() / 0.2
    of_names, of_things = queries[queries < 100], queries[queries >= 100]
    assert len(of_names) == pytest.approx(len(of_things), abs=1)
    assert 0.1 < shift[of_names].max() <= FIXED_NOISE + 1e-5
    assert FIXED_NOISE < shift[of_things].max() <= NOISE + 1e-5
