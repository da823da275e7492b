"""The number of instances that losses are divided by, over a batch and over processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from model.training.losses import count_instances
from model.training.targets import Target

ROOT = Path(__file__).parents[3]


def target(num_instances: int) -> Target:
    return Target.from_clip(
        np.ones((num_instances, 2, 8, 8), dtype=bool), np.zeros(num_instances, dtype=np.int64)
    )


def test_instances_are_counted_over_the_batch_and_are_at_least_one() -> None:
    device = torch.device("cpu")
    assert count_instances([target(2), target(0), target(2)], device) == 4.0
    assert count_instances([target(0)], device) == 1.0


COUNT_IN_ONE_OF_TWO_PROCESSES = """
import sys
import torch
from model.training.losses import count_instances
from model.training.targets import Target

rank, meeting_point = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
masks = torch.ones(5 * rank, 1, 8, 8, dtype=torch.bool)
target = Target.from_clip(masks, torch.zeros(5 * rank, dtype=torch.int64))
print(count_instances([target], torch.device("cpu")))
torch.distributed.destroy_process_group()
"""


def test_instances_are_averaged_over_processes(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT_IN_ONE_OF_TWO_PROCESSES, str(rank), str(tmp_path / "meet")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert printed == ["2.5", "2.5"]
