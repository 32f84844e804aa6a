"""One training by several processes that torchrun or accelerate has started: each has the model, and takes windows.

The first process, the leader, is a training like any other: it alone decides, judges, saves and writes. Of every step
it tells the others, its helpers, what is trained as it stands and which windows there are, and is given the sum of all
gradients. So a helper keeps nothing between steps, and what a leader takes back or takes up again is nothing new to it.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from secateur.errors import ConfigError
from secateur.recipe import Recipe
from secateur.recovery.objective import Objective, WindowLosses
from secateur.recovery.passes import Step, add_gradients
from secateur.recovery.text import Batch, RecoverySet
from secateur.recovery.trainee import Trainee
from secateur.schema import derive_seed

STEP, END = 1, 0
# Helpers wait while the leader judges and saves. Who started the processes ends them all with the first that fails.
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this one is."""

    rank: int
    count: int
    local_rank: int

    @property
    def leads(self) -> bool:
        return self.rank == 0


ALONE = Ranks(0, 1, 0)


def started_ranks() -> Ranks:
    """Say how many processes were started together, as torchrun and accelerate tell in the environment.

    Where there are GPUs, every process of a machine has one of its own from here on.
    """
    rank, count, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    ranks = Ranks(int(rank or 0), int(count or 1), int(local or 0))
    if ranks.count > 1 and torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    return ranks


def refuse_ranks(recipe: Recipe) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        ConfigError: Says what, and what to do instead.
    """
    several = {
        "method=qlora": recipe.method == "qlora",
        f"trials={recipe.trials}": recipe.trials > 0,
        f"soup={recipe.soup}": recipe.recoveries > 1,
        f"robust={recipe.robust}": recipe.robust != "none",
        "teacher=cached": recipe.teacher == "cached",
    }
    asked = [f"recovery.{name}" for name, is_asked in several.items() if is_asked]
    if asked:
        raise ConfigError(f"{asked[0]} trains in one process, and torchrun started several; start it without torchrun")


@contextmanager
def joined(ranks: Ranks, device: torch.device, sees: str) -> Iterator[None]:
    """Meet the other processes, if there are any; a leader sends them home in the end, however it ends.

    Args:
        sees: What model and text this process has loaded.

    Raises:
        ConfigError: Another process has loaded something else.
    """
    if ranks.count == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        own = torch.tensor([int(hashlib.sha256(sees.encode()).hexdigest()[:15], 16)], device=device)
        found = [torch.zeros_like(own) for _ in range(ranks.count)]
        distributed.all_gather(found, own)
        if len({int(each) for each in found}) > 1:
            raise ConfigError("the processes of this training see different models or texts; give all the same files")
        try:
            yield
        finally:
            if ranks.leads:
                distributed.broadcast(torch.tensor([END, 0, 0], device=device), 0)
    finally:
        distributed.destroy_process_group()


class Leading:
    """The passes of a step, shared among the leader and its helpers."""

    def __init__(self, ranks: Ranks, micro_windows: int) -> None:
        self._ranks, self._micro_windows = ranks, micro_windows

    def run(self, step: Step) -> WindowLosses:
        device = step.model.device
        distributed.broadcast(torch.tensor([STEP, len(step.batch), step.seed], device=device), 0)
        distributed.broadcast(step.batch.places.to(device), 0)
        return _run_part(self._ranks, self._micro_windows, step)


def help_train(
    ranks: Ranks, trainee: Trainee, objective: Objective, recovery_set: RecoverySet, micro_windows: int
) -> None:
    """Take windows of every step until the leader has no more of them."""
    model = trainee.at(0)
    while True:
        told = torch.zeros(3, dtype=torch.long, device=model.device)
        distributed.broadcast(told, 0)
        command, count, seed = told.tolist()
        if command == END:
            return
        places = torch.zeros(count, dtype=torch.long, device=model.device)
        distributed.broadcast(places, 0)
        batch, own_seed = recovery_set.batch(places.cpu()), derive_seed(seed, ranks.rank)
        _run_part(ranks, micro_windows, Step(model, objective, trainee.parameters, batch, evenly, own_seed))


def evenly(batch: Batch, losses: WindowLosses) -> Tensor:
    """Let every window count the same."""
    return torch.ones(len(batch), device=losses.lowered.device)


def _run_part(ranks: Ranks, micro_windows: int, step: Step) -> WindowLosses:
    """Take this process's windows of a step; the leader is left with all gradients, and given all losses."""
    batch, trained = step.batch, list(step.parameters.values())
    values = torch.cat([each.detach().flatten() for each in trained])
    distributed.broadcast(values, 0)
    with torch.no_grad():
        for parameter, own in zip(trained, values.split([each.numel() for each in trained]), strict=True):
            parameter.copy_(own.view_as(parameter))
            parameter.grad = torch.zeros_like(parameter)
    size = min(micro_windows, -(-len(batch) // ranks.count))
    parts = batch.split(size)
    mine = range(ranks.rank, len(parts), ranks.count)
    losses = add_gradients(step, [parts[place] for place in mine])
    summed = torch.cat([each.grad.flatten() for each in trained if each.grad is not None])
    distributed.reduce(summed, 0)
    all_losses = torch.zeros(2, len(batch), device=step.model.device)
    for place, own_losses in zip(mine, losses, strict=True):
        windows = slice(place * size, place * size + len(parts[place]))
        all_losses[0, windows], all_losses[1, windows] = own_losses.lowered, own_losses.cross_entropy
    distributed.reduce(all_losses, 0)
    for parameter, gradient in zip(trained, summed.split([each.numel() for each in trained]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return WindowLosses(all_losses[0], all_losses[1])
