"""One of two processes that train together; writes what its parameters are in the end.

`python -m torch.distributed.run --nproc-per-node=2 train_child.py FOLDER`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed
from support.training_runs import stage, tiny_options, trainer

OPTIONS = {
    # Everything that draws or keeps numbers of its own in each process.
    "all": tiny_options(
        stage("dense", steps=2, num_frames=1, dense_only=True),
        stage("clip", steps=2, num_denoising=3, separability_weight=0.1),
        network={"dropout": 0.2},
    ),
    # What a batch gives does not depend on how it is shared: group norm, no dropout, no mean over cells.
    "exact": tiny_options(
        stage(steps=1, batch_size=4, dense_weight=0.0), network={"dropout": 0.0, "norm": "gn"}
    ),
}


def main(folder: Path) -> None:
    """Train both runs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for name, options in OPTIONS.items():
        run = trainer(options, folder / name)
        run.run()
        modules = [run.network, run.auxiliary, *([run.discriminator] if run.discriminator else [])]
        parameters = {
            f"{index}.{key}": value.detach()
            for index, module in enumerate(modules)
            for key, value in module.named_parameters()
        }
        torch.save(parameters, folder / f"{name}.{run.rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
