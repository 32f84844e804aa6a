"""The passes of a step: its windows go through the model, and the gradients of what is lowered are left behind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.recovery.objective import Objective, WindowLosses
from secateur.recovery.text import Batch

# Gives the factors of the windows' losses.
Weigh = Callable[[Batch, WindowLosses], Float[Tensor, " windows"]]


@dataclass(frozen=True)
class Step:
    """What a step sends through the model.

    Attributes:
        parameters: What is trained, by name.
        weigh: Gives the factors of the windows' losses.
        seed: What is drawn in the step, as dropout, is drawn with it.
    """

    model: PreTrainedModel
    objective: Objective
    parameters: Mapping[str, nn.Parameter]
    batch: Batch
    weigh: Weigh
    seed: int


@runtime_checkable
class Passes(Protocol):
    """Who sends the windows of a step through the model."""

    def run(self, step: Step) -> WindowLosses:
        """Leave the gradients of the batch's mean in the parameters, and give its losses."""
        ...


class Alone:
    """This process does."""

    def __init__(self, micro_windows: int) -> None:
        """Send at most so many windows at once."""
        self._micro_windows = micro_windows

    def run(self, step: Step) -> WindowLosses:
        for parameter in step.parameters.values():
            parameter.grad = None
        losses = add_gradients(step, step.batch.split(self._micro_windows))
        return WindowLosses(
            torch.cat([each.lowered for each in losses]), torch.cat([each.cross_entropy for each in losses])
        )


def add_gradients(step: Step, parts: Sequence[Batch]) -> list[WindowLosses]:
    """Add the gradients of some parts of a step's batch to those of the parameters; give the losses of each."""
    found, num_counted = [], float(step.batch.num_counted.sum())
    # Dropout is drawn for the step, so that it is the same wherever the training goes on from.
    with torch.random.fork_rng(devices=_devices(step.model.device)):
        torch.manual_seed(step.seed)
        for part in parts:
            losses = step.objective.losses(step.model, part)
            weights = step.weigh(part, losses) * part.num_counted.to(losses.lowered.device)
            (weights * losses.lowered).sum().div(num_counted).backward()
            found.append(WindowLosses(losses.lowered.detach(), losses.cross_entropy))
    return found


def _devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
