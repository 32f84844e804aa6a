"""Which windows a step is taken on, and how much each of them counts."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.recovery.objective import WindowLosses
from secateur.recovery.text import Batch
from secateur.schema import derive_seed


@runtime_checkable
class Weighting(Protocol):
    """What decides which windows count how much; may learn from the losses that they have."""

    def places(self, step: int) -> Int[Tensor, " windows"]:
        """Give the windows of a step, as places in the recovery set. The same for the same step and state."""
        ...

    def weights(self, batch: Batch, losses: WindowLosses) -> Float[Tensor, " windows"]:
        """Give the factors of the windows' losses, without gradients; 1 on average."""
        ...

    def learn(self, step: int, /, batch: Batch, losses: WindowLosses) -> None:
        """Take in what a whole batch had as losses, without gradients, once the step is taken."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Give all that it has learned, so that a training that was interrupted goes on alike."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        ...


class Evenly:
    """Every window once per epoch, in an order drawn for the epoch, and each counts the same."""

    def __init__(self, num_windows: int, batch_windows: int, seed: int) -> None:
        self._num_windows, self._batch_windows, self._seed = num_windows, batch_windows, seed

    def places(self, step: int) -> Int[Tensor, " windows"]:
        first = step * self._batch_windows
        wanted = range(first, first + self._batch_windows)
        orders = {epoch: self._order(epoch) for epoch in {place // self._num_windows for place in wanted}}
        return torch.stack([orders[place // self._num_windows][place % self._num_windows] for place in wanted])

    def _order(self, epoch: int) -> Int[Tensor, " windows"]:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "recovery epoch", epoch))
        return torch.randperm(self._num_windows, generator=generator)

    def weights(self, batch: Batch, losses: WindowLosses) -> Float[Tensor, " windows"]:
        return torch.ones(len(batch), device=losses.lowered.device)

    def learn(self, step: int, /, batch: Batch, losses: WindowLosses) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""
