"""Rates: of groups of parameters, and over the steps of a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training_runs import stage, tiny_options, trainer

from model.training.optimizers import rate_factor


def test_groups_of_parameters_have_their_own_rate_and_decay(tmp_path: Path) -> None:
    options = tiny_options(stage(steps=1, backbone_factor=0.5, sampling_factor=0.25, weight_decay=0.01))
    run = trainer(options, tmp_path)
    groups = {
        id(parameter): (group["peak"], group["weight_decay"])
        for group in run.optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in run.network.named_parameters():
        rate, decay = groups[id(parameter)]
        factor = 0.5 if name.startswith("backbone.") else 0.25 if ".sampling." in name else 1.0
        assert rate == pytest.approx(1e-3 * factor), name
        assert decay == (0.01 if parameter.dim() > 1 else 0.0), name
    assert any(".sampling." in name for name, _ in run.network.named_parameters())
    trained = {*run.network.parameters(), *run.auxiliary.parameters()}
    assert len(groups) == len(trained)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.1, 1.0, 0.51, 0.02]),
        ("steps", [0.1, 1.0, 1.0, 0.01]),
        ("constant", [0.1, 1.0, 1.0, 1.0]),
    ],
)
def test_the_rate_warms_up_and_falls(schedule: str, expected: list[float]) -> None:
    made = tiny_options(stage(steps=1000, warmup_steps=10, schedule=schedule)).stages[0]
    factors = [rate_factor(made, step) for step in (0, 9, 500, 999)]
    assert factors == pytest.approx(expected, abs=2e-3)
    assert rate_factor(tiny_options(stage(steps=10, warmup_steps=0)).stages[0], 0) == 1.0
