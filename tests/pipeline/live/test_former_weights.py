"""The weights that shipped before still load and run by their name, as they did."""

from __future__ import annotations

from model.checkpoint.weights_file import load_weights, weights_path
from model.config import FORMER_WEIGHTS
from pipeline.config_file import load_config
from pipeline.inference.network_predictor import load_predictor
from pipeline.live.stream import Stream


def test_the_former_weights_run_by_name_with_their_one_class_and_size() -> None:
    network = load_weights(weights_path(FORMER_WEIGHTS))
    assert (network.config.backbone, network.config.class_list) == ("resnet18", "object")
    overrides = [f"model.weights={FORMER_WEIGHTS}", "model.engine=eager", "model.precision=fp32"]
    config = load_config(overrides=[*overrides, "source.inputs.street=street", "max_frames=12"])
    predictor = load_predictor(config)
    assert predictor.input_size == (192, 320)
    results = list(Stream(config, predictor=predictor))
    assert len(results) == 12
    names = {each.class_name for result in results for each in result.instances}
    assert names == {"object"}
