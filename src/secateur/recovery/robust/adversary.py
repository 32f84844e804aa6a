"""An adversary without labels: it says how much more of each window there should be, and windows count so much."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.recovery.objective import WindowLosses
from secateur.recovery.robust.seen import SeenWindows
from secateur.recovery.text import Batch
from secateur.recovery.weighting import Weighting


@runtime_checkable
class Adversary(Protocol):
    """A distribution over windows that goes where the model loses most."""

    def log_ratio(self, windows: SeenWindows) -> Float[Tensor, " windows"]:
        """Give log q(x) / p(x) up to a constant, without gradients, on the CPU."""
        ...

    def learn(self, windows: SeenWindows, excess: Float[Tensor, " windows"]) -> None:
        """Take in what a batch lost over the dense model, nats per token."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...


class Reweighting:
    """Windows are drawn as another weighting draws them, and count as an adversary says."""

    def __init__(self, adversary: Adversary, windows: SeenWindows, drawn: Weighting, most: float) -> None:
        """Begin.

        Args:
            windows: The recovery set.
            drawn: Draws windows, and knows nothing of losses.
            most: No window counts more often than so.
        """
        self._adversary, self._windows, self._drawn, self._most = adversary, windows, drawn, most
        # Of the batch at work, by place: factors are 1 on average over a batch, of which `weights` sees parts.
        self._factors = torch.ones(len(windows))

    @property
    def adversary(self) -> Adversary:
        return self._adversary

    def places(self, step: int) -> Int[Tensor, " windows"]:
        places = self._drawn.places(step)
        self._factors[places] = bounded_factors(self._adversary.log_ratio(self._windows.at(places)), self._most)
        return places

    def weights(self, batch: Batch, losses: WindowLosses) -> Float[Tensor, " windows"]:
        return self._factors[batch.places].to(losses.lowered.device)

    def learn(self, _step: int, /, batch: Batch, losses: WindowLosses) -> None:
        windows = self._windows.at(batch.places)
        self._adversary.learn(windows, losses.cross_entropy.cpu() - windows.losses)

    def state(self) -> dict[str, Tensor]:
        return self._adversary.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self._adversary.restore(state)


def bounded_factors(log_ratio: Float[Tensor, " windows"], most: float) -> Float[Tensor, " windows"]:
    """Give factors in proportion to exp(log_ratio) that are 1 on average and at most `most`.

    What a bound takes from some goes to the others in proportion to theirs.

    Raises:
        ValueError: A bound below 1, which no mean of 1 meets.
    """
    if most < 1:
        raise ValueError(f"`most >= 1` must hold, but got most={most}")
    number = len(log_ratio)
    order = log_ratio.double().argsort(descending=True)
    ordered = log_ratio.double()[order]
    factors = torch.full((number,), most, dtype=torch.float64)
    # As few of the largest stand at the bound as leave the next one below it.
    for bounded in range(number):
        rest = (number - bounded * most) * ordered[bounded:].softmax(0)
        if float(rest[0]) <= most:
            factors[order[bounded:]] = rest
            factors[order[:bounded]] = most
            break
    return factors.float()


def divergence(factors: Float[Tensor, " windows"]) -> float:
    """Give KL(q || p) of factors q / p on windows drawn from p, in nats."""
    shares = factors.double()
    return float(torch.xlogy(shares, shares).mean())
