"""The network's life: every variant builds, runs, is cut at the cache seam and keeps queries."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from support.small_models import live_model, random_images, small_config

from model.config import Intra, ModelConfig, Variant
from model.engines.halves import prepared
from model.layers.attention import CellAttention, planar_attention
from model.layers.backbone import fused_form_works
from model.layers.position import image_level_sizes
from model.network import FrameFeatures, Network, build_model, with_cues

BLOCKS: list[dict[str, Any]] = [
    {"intra": "temporal", "inter": True},
    {"intra": "temporal", "inter": False},
    {"intra": "none", "inter": True},
    {"intra": "spatiotemporal", "inter": False},
    {"intra": "joint", "inter": False},
    {"intra": "joint", "inter": True},
]


def outputs_differ(first: Any, second: Any) -> bool:
    return not torch.allclose(first.logits, second.logits, atol=1e-6)


def test_output_shapes_and_ranges() -> None:
    network = live_model(small_config(class_list="ovis"))
    with torch.inference_mode():
        output = network(random_images(2, 3, 3, 64, 96), torch.zeros(2, 3, 1, 64, 96))
    assert output.logits.shape == (2, 10, 25)
    assert output.boxes.shape == (2, 3, 10, 4)
    assert output.mask_logits.shape == (2, 10, 3, 16, 24)
    assert output.query_embeddings.shape == (2, 10, 32)
    assert output.kept is None
    assert ((output.boxes >= 0) & (output.boxes <= 1)).all()
    assert torch.isfinite(output.mask_logits).all()


@pytest.mark.parametrize("variant", get_args(Variant))
def test_every_variant_is_cut_at_the_seam_without_a_trace(variant: str) -> None:
    """One frame's features, made once, serve every window it stands in, bit for bit."""
    network = live_model(small_config(variant=variant))
    frames = random_images(4, 3, 64, 96)
    cues = random_images(4, 1, 64, 96, seed=1)
    with torch.inference_mode():
        kept = [network.encode_frames(frames[i : i + 1], cues[i : i + 1]) for i in range(4)]
        for first in (0, 1):
            window = range(first, first + 3)
            cached = network.decode_window(FrameFeatures.stack([kept[i] for i in window]))
            fresh = network.decode_window(
                FrameFeatures.stack(
                    [network.encode_frames(frames[i : i + 1], cues[i : i + 1]) for i in window]
                )
            )
            assert torch.equal(cached.logits, fresh.logits)
            assert torch.equal(cached.boxes, fresh.boxes)
            assert torch.equal(cached.mask_logits, fresh.mask_logits)
        whole = network(frames[None, :3], cues[None, :3])
        parts = network.decode_window(network.encode_frames(frames[:3], cues[:3]))
        assert torch.equal(whole.logits, parts.logits)
        assert torch.equal(whole.mask_logits, parts.mask_logits)
        # Another batch size may choose another kernel: equal but for the last bits.
        assert torch.allclose(
            network.decode_window(FrameFeatures.stack(kept[:3])).mask_logits, whole.mask_logits, atol=1e-3
        )


@pytest.mark.parametrize("variant", [name for name in get_args(Variant) if name != "baseline"])
@pytest.mark.parametrize("blocks", BLOCKS, ids=lambda blocks: f"{blocks['intra']}-{blocks['inter']}")
def test_every_block_mixes_the_frames_of_a_window(variant: str, blocks: dict[str, Any]) -> None:
    """The first frame's boxes change with the last frame; in the baseline's encoder they do not."""
    network = live_model(small_config(variant=variant, decoder_temporal_attention=False, **blocks))
    clip = random_images(1, 3, 3, 72, 104)  # sizes that are odd on the coarse levels
    other = clip.clone()
    other[:, 2] = random_images(1, 3, 72, 104, seed=9)
    with torch.inference_mode():
        memory, changed = (
            network.decode_layers(network.encode_frames(x[0]), all_layers=False).memory for x in (clip, other)
        )
    assert (memory[0] - changed[0]).abs().max() > 1e-5


def test_baseline_keeps_the_frames_of_a_window_apart() -> None:
    network = live_model(
        small_config(variant="baseline", decoder_temporal_attention=False, query_selection="learned")
    )
    clip = random_images(1, 3, 3, 64, 96)
    other = clip.clone()
    other[:, 2] = random_images(1, 3, 64, 96, seed=9)
    with torch.inference_mode():
        first, second = network(clip), network(other)
    assert torch.equal(first.boxes[:, 0], second.boxes[:, 0])
    assert not torch.equal(first.boxes[:, 2], second.boxes[:, 2])
    assert outputs_differ(first, second)  # the instance queries see all frames


def test_decoder_attention_carries_boxes_across_frames() -> None:
    network = live_model(small_config(variant="baseline", decoder_temporal_attention=True))
    assert network.decoder.layers[0].time_attention is None
    clip = random_images(1, 3, 3, 64, 96)
    other = clip.clone()
    other[:, 2] = random_images(1, 3, 64, 96, seed=9)
    with torch.inference_mode():
        first, second = network(clip), network(other)
    assert not torch.equal(first.boxes[:, 0], second.boxes[:, 0])


def test_windows_of_a_batch_do_not_touch() -> None:
    network = live_model(small_config())
    clips = random_images(2, 3, 3, 64, 96)
    with torch.inference_mode():
        both = network(clips)
        alone = network(clips[1:])
    assert torch.allclose(both.boxes[1], alone.boxes[0], atol=1e-5)
    assert torch.allclose(both.mask_logits[1], alone.mask_logits[0], atol=1e-3)


@pytest.mark.parametrize("source", ["c2", "level1"])
def test_kept_queries_are_the_best_and_their_masks_the_same(source: str) -> None:
    network = live_model(small_config(mask_source=source, class_list="ovis"))
    features = network.encode_frames(random_images(4, 3, 64, 96))
    with torch.inference_mode():
        everything = network.decode_window(features, num_windows=2)
        kept = network.decode_window(features, num_windows=2, num_kept=4)
    assert kept.kept is not None
    assert kept.kept.shape == (2, 4)
    best = everything.logits.amax(-1)
    for window in range(2):
        chosen = kept.kept[window]
        assert best[window, chosen].tolist() == sorted(best[window].tolist(), reverse=True)[:4]
        assert torch.equal(kept.logits[window], everything.logits[window, chosen])
        assert torch.equal(kept.boxes[window], everything.boxes[window][:, chosen])
        assert torch.equal(kept.query_embeddings[window], everything.query_embeddings[window, chosen])
        expected = everything.mask_logits[window, chosen]
        # The products have another height, hence another order of sums.
        assert torch.allclose(kept.mask_logits[window], expected, atol=1e-4 * float(expected.abs().max()))


def test_more_kept_queries_than_there_are_means_all() -> None:
    network = live_model(small_config())
    with torch.inference_mode():
        output = network.decode_window(network.encode_frames(random_images(2, 3, 64, 96)), num_kept=99)
    assert output.kept is not None
    assert sorted(output.kept[0].tolist()) == list(range(10))


@pytest.mark.parametrize("num_frames", [1, 2, 7, 36])
def test_any_number_of_frames_runs(num_frames: int) -> None:
    network = live_model(small_config())
    with torch.inference_mode():
        output = network.decode_window(
            network.encode_frames(random_images(num_frames, 3, 64, 96)), num_kept=3
        )
    assert output.boxes.shape == (1, num_frames, 3, 4)
    assert output.mask_logits.shape == (1, 3, num_frames, 16, 24)
    assert torch.isfinite(output.mask_logits).all()


@pytest.mark.parametrize("num_frames", [1, 36])
def test_resnet50_split_runs_from_one_frame_to_36(num_frames: int) -> None:
    config = ModelConfig(
        **{
            **ModelConfig().to_dict(),
            "cues": (),
            "backbone": "resnet50",
            "backbone_width": 1.0,
            "hidden_dim": 256,
            "num_heads": 8,
            "ffn_dim": 1024,
            "sts_dim": 64,
            "sts_heads": 8,
            "mask_source": "level1",
            "mask_dim": None,
        }
    )
    network = build_model(config, seed=0)
    with torch.inference_mode():
        output = network.decode_window(
            network.encode_frames(random_images(num_frames, 3, 64, 64)), num_kept=5
        )
    assert output.mask_logits.shape == (1, 5, num_frames, 16, 16)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97), (120, 200), (40, 33)])
@pytest.mark.parametrize("source", ["c2", "level1"])
def test_any_image_size_runs(height: int, width: int, source: str) -> None:
    network = live_model(small_config(mask_source=source))
    with torch.inference_mode():
        output = network(random_images(1, 2, 3, height, width))
    assert torch.isfinite(output.mask_logits).all()
    cells = output.mask_logits.shape[-2:]
    assert cells[0] * 4 >= height
    assert cells[1] * 4 >= width


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_backbone_and_norm_runs(backbone: str, norm: str) -> None:
    network = live_model(small_config(backbone=backbone, norm=norm, cues=[]))
    with torch.inference_mode():
        features = network.encode_frames(random_images(1, 3, 64, 64))
    assert torch.isfinite(features.tokens).all()
    trainable = {name for name, _ in network.backbone.named_parameters() if "bn" in name}
    assert bool(trainable) == (norm != "frozen_bn")


def test_cues_start_without_effect_and_missing_cues_are_zeros() -> None:
    config = small_config()
    network = build_model(config, seed=0)
    images, cues = random_images(1, 3, 64, 96), random_images(1, 1, 64, 96, seed=5)
    with torch.inference_mode():
        without = network.encode_frames(images).tokens
        assert torch.allclose(network.encode_frames(images, cues).tokens, without, atol=1e-5)
        with torch.no_grad():
            network.backbone.cue_conv.weight.fill_(0.1)
        assert not torch.allclose(network.encode_frames(images, cues).tokens, without, atol=1e-3)
        unknown = network.encode_frames(images, torch.zeros_like(cues)).tokens
    assert torch.allclose(unknown, without, atol=1e-5)


def test_default_model_is_small_and_answers() -> None:
    network = build_model(ModelConfig(), seed=1, class_bias=0.0)
    assert sum(value.numel() for value in network.state_dict().values()) <= 5_000_000
    with torch.inference_mode():
        output = network.decode_window(network.encode_frames(random_images(5, 3, 192, 320)), num_kept=30)
    assert output.mask_logits.shape == (1, 30, 5, 48, 80)
    scores = output.logits.sigmoid()
    assert (scores > 0.5).any()  # an untrained live model must show something
    assert (output.mask_logits > 0).any()
    assert (output.mask_logits < 0).any()


def test_seed_decides_the_weights_and_global_random_state_is_left_alone() -> None:
    config = small_config()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = (build_model(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.decoder.query_embed, other.decoder.query_embed)
    assert not first.training


def test_training_starts_at_scores_of_one_percent_and_references_on_a_grid() -> None:
    network = build_model(small_config(query_selection="learned"), seed=0)
    decoder = network.decoder
    with torch.inference_mode():
        output = network(random_images(1, 2, 3, 64, 96))
        reference = decoder.reference_points(decoder.query_embed[:, :32]).sigmoid()
    assert output.logits.sigmoid().mean() < 0.1
    assert len({(round(float(x), 3), round(float(y), 3)) for x, y in reference}) == 10
    assert torch.allclose(reference[:4, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]), atol=1e-4)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_every_parameter_can_learn(variant: str) -> None:
    """A loss on all outputs of all layers reaches each parameter; none is dead or forgotten."""
    network = live_model(small_config(variant=variant, dropout=0.1)).train()
    cues = random_images(2, 1, 64, 96, seed=5)
    decoded = network.decode_layers(network.encode_frames(random_images(2, 3, 64, 96), cues))
    assert len(decoded.layers) == 2
    loss = torch.zeros(())
    for layer in decoded.layers:
        loss = loss + layer.logits.square().sum() + layer.boxes.square().sum()
        loss = loss + network.masks(layer.queries, layer.centres, decoded).square().mean()
    selection = network.decoder.selection
    assert selection is not None
    cells = selection.dense(decoded.memory, decoded.sizes)
    loss = loss + cells.logits.square().sum() + cells.boxes.square().sum()
    loss.backward()
    dead = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # A softmax over frames does not change with a bias common to all of them.
    assert [name for name in dead if "frame_weights.bias" not in name] == []


def test_queries_start_at_the_best_cells_of_all_frames() -> None:
    """One object that a single frame shows is an anchor of the window; its neighbours are not."""
    config = small_config(num_queries=3, class_list="object")
    network = live_model(config)
    selection = network.decoder.selection
    assert selection is not None
    sizes = image_level_sizes(64, 96, 4)
    memory = torch.zeros(2, sum(h * w for h, w in sizes), config.hidden_dim)
    with torch.no_grad():
        selection.class_embed.weight.fill_(1.0)
        memory[1, 12 * 2 + 5] = 1.0  # row 2, column 5 of the finest level, in the second frame
        memory[1, 12 * 2 + 6] = 0.9
        memory[0, 12 * 6 + 9] = 0.5
        anchors = selection(memory, sizes, num_frames=2)[0][0]
        boxes = selection.dense(memory, sizes).boxes
    assert torch.allclose(anchors[0], boxes[1, 12 * 2 + 5], atol=1e-5)
    assert torch.allclose(anchors[1], boxes[0, 12 * 6 + 9], atol=1e-5)


def test_more_queries_than_cells_share_the_best_one() -> None:
    network = live_model(small_config(num_queries=300))
    with torch.inference_mode():
        output = network(random_images(1, 2, 3, 64, 64))
    assert output.boxes.shape[2] == 300
    assert output.mask_logits.isfinite().all()


@pytest.mark.parametrize("intra", get_args(Intra))
def test_inference_before_training_does_not_spoil_it(intra: str) -> None:
    """Cached position tables made under inference mode must not be inference tensors."""
    network = live_model(small_config(intra=intra))
    images = random_images(2, 3, 72, 88)
    with torch.inference_mode():
        network.decode_window(network.encode_frames(images))
    network.decode_window(network.encode_frames(images)).logits.sum().backward()
    gradient = network.backbone.conv1.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.fixture(scope="module")
def network() -> Network:
    return live_model(small_config())


class TestBadInput:
    """Wrong shapes are refused with what was expected."""

    def test_clip(self, network: Network) -> None:
        with pytest.raises(ValueError, match=r"clip has shape \(3, 3, 64, 96\), expected \(B, T, 3, H, W\)"):
            network(random_images(3, 3, 64, 96))

    def test_images(self, network: Network) -> None:
        with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
            network.encode_frames(random_images(3, 64, 96))
        with pytest.raises(ValueError, match=r"images are torch.uint8"):
            network.encode_frames(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))

    def test_cues(self, network: Network) -> None:
        with pytest.raises(ValueError, match=r"cues have shape \(1, 2, 64, 96\), expected \(1, 1, 64, 96\)"):
            network.encode_frames(random_images(1, 3, 64, 96), torch.zeros(1, 2, 64, 96))
        with pytest.raises(ValueError, match="the config has no cues"):
            live_model(small_config(cues=[])).encode_frames(
                random_images(1, 3, 64, 96), torch.zeros(1, 1, 64, 96)
            )

    def test_windows(self, network: Network) -> None:
        features = network.encode_frames(random_images(3, 3, 64, 96))
        with pytest.raises(ValueError, match="3 frames do not divide into 2 windows"):
            network.decode_window(features, num_windows=2)
        with pytest.raises(ValueError, match="num_kept=0"):
            network.decode_window(features, num_kept=0)
        with pytest.raises(ValueError, match="no frames"):
            FrameFeatures.stack([])
        with pytest.raises(ValueError, match="different sizes"):
            FrameFeatures.stack([features, network.encode_frames(random_images(1, 3, 64, 64))])

    def test_slices_of_features(self, network: Network) -> None:
        features = network.encode_frames(random_images(3, 3, 64, 96))
        assert len(features) == 3
        assert len(features[1]) == len(features[-1]) == 1
        assert torch.equal(features[-1].tokens, features.tokens[2:])
        assert features[1:].tokens.data_ptr() == features.tokens[1].data_ptr()  # no copy
        assert torch.equal(FrameFeatures.stack([features[0], features[1:]]).tokens, features.tokens)


@pytest.mark.parametrize(
    ("had", "given"),
    [([], ["flow"]), (["background"], ["background", "flow"]), (["flow"], ["background", "flow"])],
)
@torch.inference_mode()
def test_more_cues_change_nothing_until_they_are_trained(had: list[str], given: list[str]) -> None:
    network = live_model(small_config(cues=had))
    if had:
        network.get_parameter("backbone.cue_conv.weight").normal_()
    wider = with_cues(network, given)
    assert wider.config.cues == tuple(given)
    images, planes = random_images(1, 2, 3, 64, 96), torch.rand(1, 2, 3, 64, 96)
    of = {"background": planes[:, :, :1], "flow": planes[:, :, 1:]}
    known = torch.cat([of[cue] for cue in had], dim=2) if had else None
    before = network(images, known)
    after = wider(images, torch.cat([of[cue] for cue in given], dim=2))
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.mask_logits, before.mask_logits)
    with pytest.raises(ValueError, match="lack"):
        with_cues(wider, [cue for cue in given if cue not in had] if had else [])


@pytest.mark.parametrize("overrides", [{}, {"mask_source": "c2", "norm": "gn"}, {"cues": ["background"]}])
@torch.inference_mode()
def test_a_half_network_answers_as_the_whole_and_keeps_coordinates_in_float32(
    overrides: dict[str, Any],
) -> None:
    # Learned queries: a choice among cells that nearly tie may fall otherwise in half precision.
    network = live_model(small_config(query_selection="learned", **overrides))
    images = random_images(4, 3, 64, 96)
    cues = torch.rand(4, 1, 64, 96) if overrides.get("cues") else None
    whole, half = prepared(network), prepared(network).to_precision(torch.bfloat16)
    features = half.encode_frames(images, cues)
    assert features.tokens.dtype == torch.bfloat16
    expected = whole.decode_window(whole.encode_frames(images, cues))
    output = half.decode_window(features)
    for name in ("logits", "boxes", "mask_logits"):
        ours, theirs = getattr(output, name), getattr(expected, name)
        assert ours.dtype == torch.float32, name
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), name
    kept = {name for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert {"encoder.layers.0.norm1.weight", "decoder.class_embed.0.weight"} <= kept
    assert half.backbone.conv1.weight.dtype == torch.bfloat16
    assert half.encoder.layers[0].attention.value_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("with_parent", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (13, 9)], ids=["whole cells", "odd borders"])
def test_all_heads_at_once_are_the_heads_one_by_one(size: tuple[int, int], with_parent: bool) -> None:
    """What a GPU runs, and what a CPU runs."""
    block = CellAttention(16, num_heads=4, with_parent=with_parent)
    torch.nn.init.normal_(block.slot_embed)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(7, 5 * block.slot_embed.shape[0], 16, generator=generator) for _ in range(3)]
    missing = torch.zeros(7, 1, parts[0].shape[1], dtype=torch.bool)
    missing[3:, :, 1::4] = size == (13, 9)
    for mask in (None, missing):
        torch.testing.assert_close(
            block._attend_at_once(*parts, missing=mask), block._attend_by_head(*parts, missing=mask)
        )


def test_attention_over_time_is_the_same_product_by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 4, 1, 5, 30, generator=generator) for _ in range(3)]
    at_once = planar_attention(*parts)
    monkeypatch.setattr("model.layers.attention._FEW", 0)
    torch.testing.assert_close(planar_attention(*parts), at_once)


def test_fused_convolutions_are_asked_for_what_the_plain_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's functions exist on a GPU only; here plain ones stand for them, given the same arguments."""

    def relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *rest: Any) -> torch.Tensor:
        return F.conv2d(x, weight, bias, *rest).relu()

    def add_relu(
        x: torch.Tensor, weight: torch.Tensor, z: torch.Tensor, alpha: float, bias: torch.Tensor, *rest: Any
    ) -> torch.Tensor:
        return (F.conv2d(x, weight, bias, *rest) + alpha * z).relu()

    network = prepared(live_model(small_config(backbone="resnet50", norm="frozen_bn")))
    images = random_images(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = network.backbone(images)
        monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
        monkeypatch.setattr("model.layers.backbone.fuses", lambda x: True)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        got = network.backbone(images)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_on_a_cpu_convolutions_are_not_fused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert not fused_form_works(torch.device("cpu"), torch.float32)
    assert "cpu: convolutions are not fused: " in caplog.text
