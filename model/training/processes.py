"""What the processes of one run (torchrun) agree on; a single process is its own answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor, nn


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are: 0 and 1 outside of a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def broadcast_parameters(module: nn.Module) -> None:
    """Start every process with the first one's parameters."""
    if rank_and_world()[1] > 1:
        for parameter in module.parameters():
            torch.distributed.broadcast(parameter.data, 0)


def gather_states(state: Tensor) -> list[Tensor]:
    """A generator's states in all processes, by rank."""
    _, world = rank_and_world()
    if world == 1:
        return [state]
    states: list[Tensor | None] = [None] * world
    torch.distributed.all_gather_object(states, state)
    return [value for value in states if value is not None]


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean over the processes in the place of every gradient; a missing one counts as zero."""
    _, world = rank_and_world()
    if world == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    flat /= world
    begin = 0
    for parameter in parameters:
        part = flat[begin : begin + parameter.numel()].view_as(parameter)
        parameter.grad = part.clone()
        begin += parameter.numel()


def any_wishes(wish: bool, device: torch.device) -> bool:
    """Whether any process wishes it: all must stop or save at the same step."""
    if rank_and_world()[1] == 1:
        return wish
    wishes = torch.tensor(float(wish), device=device)
    torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
    return bool(wishes.item())
