"""The network that a run starts from."""

from __future__ import annotations

from model.checkpoint.nanodet import load_detector
from model.checkpoint.weights_file import load_weights, weights_path
from model.config import contradictions
from model.errors import CheckpointError
from model.network import Network, build_model, with_cues
from model.training.options import TrainingOptions

__all__ = ["initial_network"]


def initial_network(options: TrainingOptions) -> Network:
    """Random weights of the run's seed, or those that the run starts from.

    Raises CheckpointError for a file that cannot be used or is of another network.
    """
    if options.initial_weights is None:
        network = build_model(options.model_config, seed=options.seed)
        if options.detector is not None:
            assert network.detector is not None
            trunk, detector = load_detector(options.detector)
            network.backbone.load_state_dict(trunk.state_dict())
            network.detector.load_state_dict(detector.state_dict())
        return network
    network = load_weights(weights_path(options.initial_weights))
    if set(network.config.cues) < set(options.model_config.cues):
        network = with_cues(network, options.model_config.cues)
    faults = contradictions(network.config, options.model_config.to_dict())
    if faults:
        raise CheckpointError(
            f"initial_weights {options.initial_weights!r} are of another network: {'; '.join(faults)}; "
            "give the run the same `[network]`"
        )
    return network
