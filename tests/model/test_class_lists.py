"""Class lists, and the trap between the two layouts of the class head."""

from __future__ import annotations

import re

import pytest
import torch
from support.small_models import live_model, random_images, small_config

from model.class_lists import (
    CLASS_LISTS,
    RECOMMENDED,
    categories,
    chosen_outputs,
    output_categories,
    used_outputs,
)
from model.config import ModelConfig
from model.network import Output
from model.postprocess import ComingCandidates


def test_lists_have_the_published_lengths_and_ids() -> None:
    lengths = {name: len(table) for name, table in CLASS_LISTS.items()}
    assert lengths == {
        "object": 1,
        "youtube_vis_2019": 40,
        "youtube_vis_2021": 40,
        "ovis": 25,
        "coco": 80,
        "coco_and_object": 81,
        "sprites": 10,
    }
    for table in CLASS_LISTS.values():
        ids = [category.id for category in table]
        assert ids == sorted(set(ids))
        assert len({category.name for category in table}) == len(table)


def test_known_ids() -> None:
    def name(class_list: str, category_id: int) -> str:
        return next(category.name for category in categories(class_list) if category.id == category_id)

    assert [name("youtube_vis_2019", i) for i in (1, 8, 20, 40)] == [
        "person",
        "dog",
        "bear",
        "tennis_racket",
    ]
    assert [name("youtube_vis_2021", i) for i in (1, 26, 40)] == ["airplane", "person", "zebra"]
    assert [name("ovis", i) for i in (1, 16, 25)] == ["person", "monkey", "vehicle"]
    assert name("coco_and_object", 91) == "object"
    assert categories("coco_and_object")[:80] == categories("coco")
    assert [name("coco", i) for i in (1, 13, 18, 44, 67, 90)] == [
        *("person", "stop_sign", "dog", "bottle", "dining_table", "toothbrush")
    ]


def test_dense_head_counts_categories_and_published_head_is_by_id() -> None:
    dense = output_categories("youtube_vis_2019", 40)
    by_id = output_categories("youtube_vis_2019", 42)
    assert dense[0] is not None
    assert (dense[0].id, dense[0].name) == (1, "person")
    assert by_id[0] is None
    assert by_id[41] is None
    assert by_id[1] == dense[0]
    assert by_id[40] == dense[39]
    assert used_outputs("youtube_vis_2019", 42) == tuple(range(1, 41))
    assert len(used_outputs("coco", 91)) == 80
    assert output_categories("coco", 91)[12] is None


def test_config_resolves_outputs() -> None:
    assert ModelConfig(class_list="ovis").outputs == 25
    assert ModelConfig(class_list="youtube_vis_2019", num_outputs=42).used_outputs == tuple(range(1, 41))


def test_unused_outputs_never_win() -> None:
    config = small_config(class_list="youtube_vis_2019", num_outputs=42, variant="baseline")
    network = live_model(config)
    with torch.no_grad():
        for head in network.decoder.class_embed:
            head.bias[0] = head.bias[41] = 50.0
    with torch.inference_mode():
        features = network.encode_frames(random_images(2, 3, 64, 96))
        everything = network.decode_window(features)
        output = network.decode_window(features, num_kept=4)
    assert output.kept is not None
    best = everything.logits[0, :, 1:41].amax(-1).topk(4).indices
    assert output.kept[0].tolist() == best.tolist()
    found = ComingCandidates(output, config).wait()[0]
    assert (found.scores[:, [0, 41]] == 0).all()
    assert set(found.labels) <= set(range(1, 41))


def test_the_recommendation_is_people_vehicles_animals_and_object_and_elsewhere_every_class() -> None:
    names = [category.name for category in categories("coco_and_object")]
    chosen = [names[index] for index in chosen_outputs("coco_and_object", 81)]
    assert chosen == [
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "airplane",
        "bus",
        "train",
        "truck",
        "boat",
        "bird",
        "cat",
        "dog",
        "horse",
        "sheep",
        "cow",
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "object",
    ]
    assert chosen_outputs("coco", 80) == chosen_outputs("coco_and_object", 81)[:-1]
    assert chosen_outputs("coco", 91)[:3] == (1, 2, 3), "by id"
    for name, table in CLASS_LISTS.items():
        if name not in RECOMMENDED:
            assert chosen_outputs(name, len(table)) == used_outputs(name, len(table))
    assert chosen_outputs("coco", 80, ["toothbrush", "person"]) == (0, 79)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["persn"], "'persn' is no class of class list 'coco': did you mean 'person'?"),
        (["person", "Traffic Light"], "did you mean 'traffic_light'?"),
        (["object"], "'object' is no class of class list 'coco': did you mean 'bench'? There are person, "),
        (["cat", "dog", "cat"], "'cat' is named twice"),
        ([], "no class is named"),
    ],
)
def test_names_that_are_not_in_the_list_are_refused_with_the_nearest(names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        chosen_outputs("coco", 80, names)


def test_outputs_that_are_left_out_neither_choose_queries_nor_win() -> None:
    config = small_config(class_list="coco", variant="baseline")
    network = live_model(config)
    outputs = chosen_outputs("coco", 80, ["dog", "boat"])
    with torch.no_grad():
        for head in network.decoder.class_embed:
            head.bias[0] = 50.0
    with torch.inference_mode():
        features = network.encode_frames(random_images(2, 3, 64, 96))
        everything = network.decode_window(features)
        plain = network.decode_window(features, num_kept=4)
        output = network.decode_window(features, num_kept=4, outputs=outputs)
    assert output.kept is not None
    assert plain.kept is not None
    best = everything.logits[0][:, outputs].amax(-1).topk(4).indices
    assert output.kept[0].tolist() == best.tolist()
    assert plain.kept[0].tolist() != best.tolist()
    found = ComingCandidates(output, config, outputs).wait()[0]
    assert set(found.labels) <= set(outputs)
    assert (found.scores[:, outputs] > 0).all()
    assert found.scores.astype(bool).sum() == 4 * len(outputs)
    assert set(ComingCandidates(output, config).wait()[0].labels) == {0}


def test_candidates_are_the_output_in_numpy() -> None:
    output = Output(
        logits=torch.tensor([[[0.0], [2.0]]]),
        boxes=torch.rand(1, 3, 2, 4),
        mask_logits=torch.rand(1, 2, 3, 4, 5),
        query_embeddings=torch.rand(1, 2, 8),
    )
    (found,) = ComingCandidates(output, ModelConfig()).wait()
    assert len(found) == 2
    assert torch.equal(torch.from_numpy(found.scores), output.logits[0].sigmoid())
    assert torch.equal(torch.from_numpy(found.boxes), output.boxes[0].transpose(0, 1))
    assert torch.equal(torch.from_numpy(found.mask_logits), output.mask_logits[0])
    assert torch.equal(torch.from_numpy(found.embeddings), output.query_embeddings[0])
    assert found.labels.tolist() == [0, 0]
