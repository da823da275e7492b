"""Which classes a stream looks for, from which score, and what it says of them: real streams."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.streams import tiny_config
from support.truth import CLASSES, Mover, Oracle, run, script
from support.wire import ANY_PORT

from model.checkpoint.weights_file import save_weights
from model.network import build_model
from pipeline.association.associator import Associator
from pipeline.config import AssociationConfig, StreamConfig
from pipeline.config_file import dump_config, load_config
from pipeline.errors import ConfigError
from pipeline.inference.network_predictor import NetworkPredictor, load_predictor
from pipeline.inference.predictor import birth_scores
from pipeline.live.stream import Stream
from pipeline.sinks.publish import PublishSink
from pipeline.sources.demo import demo_frame
from pipeline.types import FrameResult, Window, WindowPrediction
from pipeline.wire.subscriber import Subscriber

T = 5
WATCHED = [
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of the demo scene as pictures of 96×64."""
    path = tmp_path_factory.mktemp("clip")
    for index in range(12):
        small = cv2.resize(demo_frame(5 * index).rgb, (96, 64), interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(path / f"{index:02}.png"), small[..., ::-1])
    return path


def coco_config(folder: Path, *, model: dict[str, Any] | None = None, **sections: Any) -> StreamConfig:
    """A stream with 81 classes and class scores around one half."""
    model = {"max_instances": 3, "seed": 3, **(model or {})}
    model["network"] = {"class_list": "coco_and_object", "num_queries": 30}
    return tiny_config(folder, model=model, **sections)


def first_window(config: StreamConfig, predictor: NetworkPredictor) -> WindowPrediction:
    """What the predictor says of the first window of a stream over the config's source."""
    asked: list[WindowPrediction] = []

    class Asked:
        facts = predictor.facts
        forget = predictor.forget

        def predict(self, window: Window) -> WindowPrediction:
            asked.append(predictor.predict(window))
            return asked[-1]

    Stream(config, predictor=Asked()).run()
    return asked[0]


def test_by_default_person_vehicles_animals_and_object_are_looked_for(folder: Path) -> None:
    config = coco_config(folder)
    predictor = load_predictor(config)
    assert [name for _, name in predictor.facts.classes.values()] == WATCHED
    assert predictor.facts.classes[80] == (91, "object")
    found = first_window(config, predictor)
    assert found.scores.shape == (3, 81)
    assert set(np.flatnonzero(found.scores.any(axis=0))) == set(predictor.facts.classes)
    every = tiny_config(folder, model={"network": {"class_list": "sprites"}})
    assert len(load_predictor(every).facts.classes) == 10


def test_a_model_of_one_class_runs_as_before(folder: Path) -> None:
    predictor = load_predictor(tiny_config(folder, model={"network": {"class_list": "object"}}))
    assert predictor.facts.classes == {0: (1, "object")}
    assert predictor._runtime.spec.outputs is None, "its compiled engine is the one of before"


def test_the_filter_changes_which_queries_are_kept_and_nothing_else_wins(folder: Path) -> None:
    """The network's own scores say which queries are best: of the usual classes, and of those asked for."""
    answers = {}
    for names in (None, ["dog", "boat"]):
        config = coco_config(folder, model={"classes": names})
        predictor = load_predictor(config)
        logits: list[torch.Tensor] = []
        network = predictor._runtime.network
        network.decoder.register_forward_hook(lambda _, __, out, logits=logits: logits.append(out[-1].logits))
        found = first_window(config, predictor)
        outputs = list(predictor.facts.classes)
        best = logits[0][0][:, outputs].amax(-1).topk(3)
        np.testing.assert_allclose(found.scores.max(axis=1), best.values.sigmoid(), rtol=1e-5)
        assert set(found.scores.argmax(axis=1)) <= set(outputs)
        answers[names is None] = best.indices.tolist()
    assert answers[True] != answers[False]


def test_a_stream_publishes_the_chosen_classes_alone_and_its_event_says_which(folder: Path) -> None:
    config = coco_config(
        folder,
        model={"classes": ["boat", "dog"]},
        association={"birth_score": 0.05},
        publish={"address": ANY_PORT, "wait_for_subscribers": 1, "block": True},
    )
    stream = Stream(config)
    (sink,) = [each for each in stream.sinks if isinstance(each, PublishSink)]
    with Subscriber(sink.address, "source0", timeout_seconds=30) as subscriber:
        runner = threading.Thread(target=stream.run)
        runner.start()
        messages = list(subscriber)
        runner.join()
        event = subscriber.events["source0"]
    assert event.class_list == "coco_and_object"
    assert event.class_names == {9: "boat", 18: "dog"}
    rows = [row for message in messages for row in message.instances]
    assert len(messages) == 12
    assert rows
    assert {(row.class_id, row.class_name) for row in rows} <= {(9, "boat"), (18, "dog")}
    assert {type(row.moved) for row in rows} == {bool}
    assert {message.wire_version for message in messages} == {(1, 1)}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.classes=[persn]", ["model.classes: 'persn'", "did you mean 'person'"]),
        ("model.classes=[person, traffic light]", ["model.classes", "did you mean 'traffic_light'"]),
        ("model.classes=[]", ["model.classes", "at least 1"]),
        ("model.classes=[cat, dog, cat]", ["model.classes", "'cat' is named twice"]),
        ("model.classes=person", ["model.classes", "list"]),
        ("model.score_thresholds.cat=1.5", ["model.score_thresholds.cat", "less than or equal to 1", "1.5"]),
        ("model.score_thresholds.cat=-0.1", ["model.score_thresholds.cat", "greater than or equal to 0"]),
        ("model.score_thresholds.person=high", ["model.score_thresholds.person", "number", "'high'"]),
        ("model.score_thresholds=[0.4]", ["model.score_thresholds", "dict"]),
        ("model.score_thresholds.objct=0.4", ["model.score_thresholds: 'objct'", "did you mean 'object'"]),
        ("model.score_thresholds.chair=0.4", ["model.score_thresholds: 'chair'", "model.classes", "person"]),
    ],
)  # fmt: skip
def test_bad_classes_and_thresholds_are_errors_at_the_start_that_name_them(
    folder: Path, override: str, words: list[str]
) -> None:
    values = coco_config(folder).model_dump()
    del values["model"]["classes"], values["model"]["score_thresholds"]
    with pytest.raises(ConfigError) as caught:
        Stream(load_config(overrides=[override], values=values))
    for word in words:
        assert word in str(caught.value)


def test_a_class_list_that_contradicts_the_weights_is_named(tmp_path: Path) -> None:
    """Both ways round, and with the weights that ship."""
    coco = tmp_path / "coco.safetensors"
    network = coco_config(tmp_path).network
    save_weights(build_model(network, seed=0), coco, name="coco", trained=False)
    for weights, asked in (("default", "coco"), (str(coco), "object"), (str(coco), "coco")):
        overrides = [f"model.weights={weights}", f"model.network.class_list={asked}"]
        with pytest.raises(ConfigError) as caught:
            load_predictor(load_config(overrides=overrides))
        assert "model.network contradicts model.weights" in str(caught.value)
        assert f"class_list: '{asked}' was asked for, the weights have '" in str(caught.value)
    with pytest.raises(ConfigError, match=r"model\.classes: 'person' is no class of class list 'object'"):
        load_predictor(load_config(overrides=["model.weights=resnet18", "model.classes=[person]"]))


def test_classes_and_thresholds_are_read_from_file_and_command_line(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("model:\n  classes: [person, car]\n  score_thresholds: {person: 0.3, car: 1}\n")
    config = load_config(path, overrides=["model.score_thresholds.person=0.4"])
    assert config.model.classes == ["person", "car"]
    assert config.model.score_thresholds == {"person": 0.4, "car": 1.0}
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert dump_config(load_config(copy)) == dump_config(config)


# What the associator makes of a threshold; the truth's classes are person, dog, car and bird.


def associate(scores: dict[int, float], *, own: dict[int, float]) -> list[FrameResult]:
    """Two objects, a person (output 1) and a dog (2), of given scores by output."""
    scene = script([Mover(lambda _: (0.25, 0.5)), Mover(lambda _: (0.75, 0.5), output=2)], 12)

    class Scored(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            found = super().predict(window)
            for output, value in scores.items():
                column = found.scores[:, output]
                column[column == np.float32(self.score)] = value
            return found

    associator = Associator(
        AssociationConfig(), emission="first", classes=CLASSES, num_frames=T, birth_scores=own
    )
    return run(Scored(scene), associator, num_frames=T)


def names(results: list[FrameResult]) -> dict[int, str]:
    return {row.track_id: row.class_name for result in results for row in result.instances}


def test_a_threshold_counts_for_its_class_alone_in_place_of_the_birth_score() -> None:
    both = {1: 0.35, 2: 0.35}
    assert names(associate(both, own={})) == {}
    assert list(names(associate(both, own={1: 0.3})).values()) == ["person"]
    assert list(names(associate(both, own={2: 0.3})).values()) == ["dog"]
    high = {1: 0.6, 2: 0.6}
    assert sorted(names(associate(high, own={})).values()) == ["dog", "person"]
    assert list(names(associate(high, own={2: 0.7})).values()) == ["person"]
    # The best candidate of a window may be one that starts nothing.
    assert list(names(associate({1: 0.6, 2: 0.8}, own={2: 0.9})).values()) == ["person"]


def test_a_threshold_below_the_high_score_keeps_one_track_and_confirms_it() -> None:
    """Candidates of 0.3 are matched late otherwise, and to confirmed tracks only: a new track each window."""
    results = associate({1: 0.3, 2: 0.3}, own={1: 0.25})
    assert names(results) == {1: "person"}
    assert [row.state for result in results[1:] for row in result.instances] == ["confirmed"] * 11


def test_weaker_candidates_still_keep_a_track_alive() -> None:
    scene = script([Mover(lambda _: (0.5, 0.5))], 12)

    class Fading(Oracle):
        def predict(self, window: Window) -> WindowPrediction:
            found = super().predict(window)
            if window.real[-1].index >= 4:
                found.scores[:, 1] = 0.2
            return found

    associator = Associator(
        AssociationConfig(), emission="first", classes=CLASSES, num_frames=T, birth_scores={1: 0.8}
    )
    results = run(Fading(scene), associator, num_frames=T)
    assert names(results) == {1: "person"}
    assert all(result.instances[0].mask is not None for result in results)


def test_thresholds_of_outputs_that_no_class_has_are_refused() -> None:
    with pytest.raises(ValueError, match="birth_scores"):
        Associator(
            AssociationConfig(), emission="first", classes=CLASSES, num_frames=T, birth_scores={0: 0.5}
        )


def test_the_configs_thresholds_reach_the_tracks_of_a_stream(folder: Path) -> None:
    """Scores of the untrained network are around one half: the dog's threshold decides alone."""
    model = {"classes": ["boat", "dog"]}
    plain = coco_config(folder, model=model, association={"birth_score": 1.0, "min_score": 0.0})
    assert not [row for result in Stream(plain) for row in result.instances]
    low = {**model, "score_thresholds": {"boat": 0.0, "dog": 0.0}}
    config = coco_config(folder, model=low, association={"birth_score": 1.0, "min_score": 0.0})
    assert birth_scores(config, load_predictor(config).facts) == {8: 0.0, 16: 0.0}
    assert [row for result in Stream(config) for row in result.instances]
