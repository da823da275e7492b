"""A network that starts from a detector's boxes: what it is before training, and what may be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_models import random_images, small_config

from model.checkpoint.weights_file import load_weights, save_weights
from model.config import ModelConfig
from model.engines.ring import FeatureRing
from model.layers.decoder import LIKELY, UNSEEN, LayerOutput, ObjectScore, names_first
from model.layers.proposals import window_proposals
from model.network import FrameFeatures, Network, build_model

DETECTOR: dict[str, Any] = {
    "backbone": "csp",
    "query_selection": "detector",
    "class_list": "coco_and_object",
    "mask_source": "picture",
    "mask_coordinates": "box",
    "num_queries": 10,
    "num_motion_queries": 3,
    "num_proposals": 12,
    "cues": ["background", "flow"],
}


def detector_config(**overrides: Any) -> ModelConfig:
    return small_config(**{**DETECTOR, **overrides})


@pytest.fixture(scope="module")
def network() -> Network:
    made = build_model(detector_config(), seed=0)
    assert made.detector is not None
    with torch.no_grad():  # scores and boxes that differ from cell to cell
        for head in made.detector.heads:
            head.predict.weight.mul_(20.0)
    return made


@torch.inference_mode()
def test_before_training_queries_say_what_the_detector_says(network: Network) -> None:
    features = network.encode_frames(random_images(2, 3, 64, 96))
    assert features.proposals is not None
    assert features.proposals.shape == (2, 12, 4 + 80)
    output = network.decode_window(features)
    boxes, logits = window_proposals(features.proposals, num_frames=2, num_queries=7)
    assert torch.equal(output.logits[:, :7, :80], logits)
    assert (output.logits[:, :7, 80] == UNSEEN).all()
    assert torch.allclose(output.boxes[:, :, :7], boxes, atol=1e-4)
    # Motion queries claim `object` alone, as surely as their cell.
    assert (output.logits[:, 7:, :80] == UNSEEN).all()
    assert len(output.logits[0, 7:, 80].unique()) > 1


@torch.inference_mode()
@pytest.mark.parametrize("sure", [True, False])
def test_motion_queries_lie_outside_what_the_detector_is_sure_of(sure: bool) -> None:
    network = build_model(detector_config(), seed=0)
    selection = network.decoder.selection
    assert selection is not None
    last = selection.bbox_embed.layers[-1]
    for parameter in last.parameters():
        parameter.zero_()  # an anchor stands where its cell does
    features = network.encode_frames(random_images(1, 3, 64, 96, seed=2))
    assert features.proposals is not None
    proposals = torch.full_like(features.proposals, -9.0)
    proposals[..., :4] = torch.tensor([0.0, 0.0, 0.5, 1.0])  # the left half
    proposals[..., 4] = 4.0 if sure else -4.0
    output = network.decode_window(replace(features, proposals=proposals))
    on_the_right = output.boxes[0, 0, 7:, 0] > 0.5
    assert bool(on_the_right.all()) is sure


@torch.inference_mode()
def test_masks_start_as_ellipses_in_their_boxes() -> None:
    network = build_model(detector_config(mask_channels=8), seed=1)
    boxes = torch.tensor([[[[0.5, 0.5, 0.5, 0.75], [0.25, 0.5, 0.25, 0.5]]]])  # (1, 1, 2, 4)
    features = network.encode_frames(random_images(1, 3, 64, 96))
    decoded = network.decode_layers(features, all_layers=False)
    queries = decoded.layers[0].queries[:, :2]
    masks = network.masks(queries, boxes, decoded)[0, :, 0] > 0  # (2, 16, 24)
    y, x = torch.meshgrid((torch.arange(16) + 0.5) / 16, (torch.arange(24) + 0.5) / 24, indexing="ij")
    for mask, (cx, cy, w, h) in zip(masks, boxes[0, 0].tolist(), strict=True):
        ellipse = ((x - cx) / (w / 2)) ** 2 + ((y - cy) / (h / 2)) ** 2 < 1
        assert (mask & ellipse).sum() / (mask | ellipse).sum() > 0.7


@torch.inference_mode()
def test_a_mask_moves_and_grows_with_its_box_where_the_picture_says_nothing() -> None:
    network = build_model(detector_config(), seed=1)
    head = network.mask_head
    queries = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    features = torch.zeros(1, 1, 8, 64, 64)

    def mask(cx: float, cy: float, w: float, h: float) -> torch.Tensor:
        return head(queries, torch.tensor([[[[cx, cy, w, h]]]]), features, stride=4)[0, 0, 0]

    small, moved, large = mask(82, 82, 40, 40), mask(122, 102, 40, 40), mask(162, 162, 120, 120)
    assert torch.allclose(small[10:31, 10:31], moved[15:36, 20:41], atol=1e-5)
    assert torch.allclose(small[20, 15:26], large[40, 25:56:3], atol=1e-4)  # places 1/3 as far apart


def test_only_the_object_score_of_unnamed_queries_is_learnt() -> None:
    score = ObjectScore(32)
    torch.nn.init.normal_(score.change.weight, std=1.0)
    tgt, start = torch.randn(1, 4, 32), torch.randn(1, 4, 81)
    named = torch.tensor([True, True, False, False])[None, :, None]
    logits = score(tgt, start, named)
    assert torch.equal(logits[..., :80], start[..., :80])
    assert torch.equal(logits[:, :2], start[:, :2])
    change = (logits - start)[0, 2:, 80]
    assert change.abs().min() > 0
    assert change.abs().max() <= ObjectScore.LARGEST


def test_what_has_a_likely_name_is_no_object_besides() -> None:
    logits = torch.full((1, 5, 81), UNSEEN)
    logits[0, 0, 2] = LIKELY
    logits[0, 1, 2] = LIKELY - 0.1
    logits[0, 2:, 80] = 2.0
    spots = torch.tensor(
        [0.2, 0.6, 0.22, 0.62, 0.35]
    )  # things on the likely name, on the other, next to both
    boxes = torch.tensor([0.0, 0.5, 0.2, 0.4]).repeat(1, 2, 5, 1)
    boxes[..., 0] = spots
    output = LayerOutput(torch.zeros(1, 5, 8), logits, boxes, boxes)
    after = names_first(output)
    assert torch.equal(after.logits[..., :80], logits[..., :80])
    assert torch.equal(after.boxes, boxes)
    assert after.logits[0, 2, 80] < -10
    assert torch.equal(after.logits[0, [0, 1, 3, 4], 80], logits[0, [0, 1, 3, 4], 80])


@torch.inference_mode()
def test_training_leaves_the_detector_s_boxes_and_moves_the_others() -> None:
    network = build_model(detector_config(), seed=0)
    for head in network.decoder.bbox_embed:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(7))
    assert network.detector is not None
    for head in network.detector.heads:
        head.predict.weight.mul_(20.0)
    features = network.encode_frames(random_images(2, 3, 64, 96))
    assert features.proposals is not None
    boxes, _ = window_proposals(features.proposals, num_frames=2, num_queries=7)
    output = network.decode_window(features)
    assert torch.equal(output.boxes[:, :, :7], boxes)
    motion = output.boxes[:, :, 7:]
    assert not torch.allclose(motion[:, 0], motion[:, 1], atol=1e-4)


@torch.inference_mode()
def test_cues_of_zeros_and_no_cues_are_the_same_and_others_are_not(network: Network) -> None:
    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        assert network.cue_pyramid is not None
        kept = [out.weight.clone() for out in network.cue_pyramid.out]
        for out in network.cue_pyramid.out:
            out.weight.normal_(std=0.2)
    zeros = torch.zeros(1, 3, 64, 96)
    none, zero = network.encode_frames(images), network.encode_frames(images, zeros)
    some = network.encode_frames(images, zeros + 0.5)
    with torch.no_grad():
        for out, weight in zip(network.cue_pyramid.out, kept, strict=True):
            out.weight.copy_(weight)
    for name in ("tokens", "c2", "proposals"):
        assert torch.equal(getattr(none, name), getattr(zero, name))
    assert not torch.equal(none.tokens, some.tokens)
    assert none.c2 is not None
    assert some.c2 is not None
    assert not torch.equal(none.c2, some.c2)
    assert none.proposals is not None
    assert some.proposals is not None
    assert torch.equal(none.proposals, some.proposals)  # the detector sees pictures alone


@torch.inference_mode()
def test_frames_out_of_the_ring_give_the_bits_of_the_whole_clip(network: Network) -> None:
    clip = random_images(1, 3, 3, 64, 96, seed=4)
    ring = FeatureRing(3)
    for index in range(3):
        ring.store(index, network.encode_frames(clip[:, index]))
    kept = network.decode_window(FrameFeatures.stack([ring[index] for index in range(3)]), num_kept=4)
    whole = network.decode_window(
        FrameFeatures.stack([network.encode_frames(clip[:, index]) for index in range(3)]), num_kept=4
    )
    assert torch.equal(kept.logits, whole.logits)
    assert torch.equal(kept.boxes, whole.boxes)
    assert torch.equal(kept.mask_logits, whole.mask_logits)


@torch.inference_mode()
def test_what_a_cell_becomes_does_not_depend_on_a_far_part_of_the_picture(network: Network) -> None:
    images = random_images(1, 3, 64, 512, seed=5)
    other = images.clone()
    other[..., 384:] = 0.0
    one, two = network.encode_frames(images), network.encode_frames(other)
    level = one.tokens[0, : 8 * 64].view(8, 64, -1), two.tokens[0, : 8 * 64].view(8, 64, -1)
    assert torch.allclose(level[0][:, :4], level[1][:, :4], atol=1e-4)
    assert not torch.allclose(level[0][:, -4:], level[1][:, -4:], atol=1e-2)


def test_weights_come_back(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "detector_network.safetensors"
    save_weights(network, path, name="x", trained=False)
    back = load_weights(path)
    clip = random_images(1, 2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(back(clip).mask_logits, network(clip).mask_logits)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"class_list": "ovis"}, "needs backbone 'csp' and class_list 'coco_and_object'"),
        ({"backbone": "resnet18"}, "needs backbone 'csp'"),
        ({"height": 72}, "height: 72 must be a multiple of 32 .* such as 64"),
        ({"query_selection": "learned"}, "mask_coordinates: 'box' needs first references with a size"),
        ({"num_motion_queries": 10}, r"num_motion_queries: 10 must be 1 to num_queries - 1 \(9\)"),
    ],
)
def test_configs_that_cannot_be_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector_config(**overrides)


def test_pictures_of_another_size_are_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="32"):
        network.encode_frames(random_images(1, 3, 72, 96))


def test_the_trunk_alone_serves_the_paper_s_queries() -> None:
    config = detector_config(
        query_selection="learned", class_list="ovis", mask_source="c2", mask_coordinates="pixels"
    )
    network = build_model(config, seed=0)
    with torch.inference_mode():
        output = network(random_images(1, 2, 3, 64, 96), torch.rand(1, 2, 3, 64, 96))
    assert output.logits.shape == (1, 10, 25)
    assert network.detector is None


@torch.inference_mode()
def test_a_mask_ends_a_little_beyond_its_box_whatever_the_picture_says() -> None:
    network = build_model(detector_config(), seed=1)
    head = network.mask_head
    generator = torch.Generator().manual_seed(0)
    features = 20.0 * torch.randn(1, 1, 8, 32, 48, generator=generator)
    boxes = torch.tensor([[[[100.0, 60.0, 60.0, 40.0], [20.0, 20.0, 40.0, 40.0]]]])
    masks = head(torch.randn(1, 2, 32, generator=generator), boxes, features, stride=4)[0, :, 0]
    y, x = torch.meshgrid(torch.arange(32) * 4.0 + 2, torch.arange(48) * 4.0 + 2, indexing="ij")
    for mask, (cx, cy, w, h) in zip(masks, boxes[0, 0].tolist(), strict=True):
        far = ((x - cx).abs() > 1.6 * w / 2) | ((y - cy).abs() > 1.6 * h / 2)
        near = ((x - cx).abs() < 1.15 * w / 2) & ((y - cy).abs() < 1.15 * h / 2)
        assert mask[far].max() < mask[near].max() - 10
