"""The MS-STS VIS network: a clip (B, T, 3, H, W) in, instances out; knows nothing of streams.

Exports are lazy, so that importing one name does not load what the others need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.lazy import lazy_exports

if TYPE_CHECKING:
    from model.checkpoint.weights_file import load_weights
    from model.config import ModelConfig
    from model.network import FrameFeatures, Network, Output, build_model

_EXPORTS = {
    "FrameFeatures": "model.network",
    "ModelConfig": "model.config",
    "Network": "model.network",
    "Output": "model.network",
    "build_model": "model.network",
    "load_weights": "model.checkpoint",
}

__all__ = ["FrameFeatures", "ModelConfig", "Network", "Output", "build_model", "load_weights"]


__getattr__, __dir__ = lazy_exports(globals(), _EXPORTS)
