"""A training step hardly waits for the device: it is asked for values at five places at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import stage, tiny_options, trainer
from support.waits import count_waits

DETECTOR: dict[str, Any] = {
    "backbone": "csp",
    "query_selection": "detector",
    "class_list": "coco_and_object",
    "mask_source": "picture",
    "mask_coordinates": "box",
    "num_queries": 10,
    "num_motion_queries": 3,
    "num_proposals": 12,
}


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ({"query_selection": "encoder"}, {}),
        ({"query_selection": "encoder"}, {"num_denoising": 8, "mask_pixels": 2}),
        ({"query_selection": "encoder"}, {"dense_only": True}),
        ({"query_selection": "encoder"}, {"separability_weight": 1.0}),
        (DETECTOR, {"num_denoising": 8, "mask_pixels": 2, "backbone_factor": 0.0}),
    ],
    ids=["encoder", "denoising", "dense only", "separability", "detector, denoising"],
)
def test_a_step_waits_for_the_device_five_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: dict[str, Any], changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("model.training.matcher._check", lambda *_: None)  # looks at labels on a CPU alone
    run = trainer(tiny_options(stage(**changes), network=network), tmp_path)
    steps = iter(run._batches())
    run._train(next(steps))
    batch = next(steps)
    lines = count_waits(lambda: run._train(batch))
    assert 2 <= sum(lines.values()) <= 5, dict(lines)


def test_what_waits_is_seen() -> None:
    x = torch.arange(4.0)
    mask = torch.tensor([True, False, True, False])
    for call in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x[mask],
        lambda: mask.nonzero(),
        lambda: x.cpu(),
        lambda: x.tolist(),
        lambda: torch.unique(x),
        lambda: x.index_put_((mask,), torch.zeros(2)),
    ):
        assert sum(count_waits(call).values()) == 1
    assert not count_waits(lambda: torch.where(mask, x, 0).sum() + x[torch.tensor([1, 2])].mean())
