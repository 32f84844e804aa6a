"""Judges of the worst case: the domain that loses most, or what the adversaries of the training made of the text."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.recovery.robust.adversary import Adversary, bounded_factors, divergence
from secateur.recovery.robust.seen import SeenWindows, window_losses
from secateur.recovery.trainee import Trainee

# Adversaries that are further from the given text, in nats, would have a model chosen for a corner of it: more than
# e^1.5 = 4.5 times fewer windows speak.
FARTHEST = 1.5


def mean_excess(trainee: Trainee, windows: SeenWindows, pass_windows: int) -> float:
    """Give what a trainee loses over the dense model on windows, nats per token."""
    return float(excess_losses(trainee, windows, pass_windows).double().mean())


def excess_losses(trainee: Trainee, windows: SeenWindows, pass_windows: int) -> Float[Tensor, " windows"]:
    """Give what a trainee loses over the dense model on each window, nats per token."""
    return window_losses(trainee.judged(), windows.batch, pass_windows) - windows.losses


class WorstDomain:
    """Answers with the excess loss of the domain that has most of it."""

    def __init__(self, trainee: Trainee, domains: Mapping[str, SeenWindows], pass_windows: int) -> None:
        """Judge a trainee.

        Args:
            domains: Selection windows by domain.
            pass_windows: Per forward pass.
        """
        self._trainee, self._domains, self._pass_windows = trainee, domains, pass_windows

    def __call__(self) -> float:
        return max(mean_excess(self._trainee, each, self._pass_windows) for each in self._domains.values())


class WorstAdversary:
    """Answers with the largest excess loss under any adversary that the training has come by.

    The best model is the minimum over models of the maximum over adversaries. An adversary is asked for its factors on
    the selection windows when a model is judged, and these are kept in its place; so are a model's losses. Adversaries
    beyond a bound on KL(q || p) do not count; the given text itself, every factor 1, always does.

    Source:
        "Modeling the Second Player" (arXiv 2103.10282) selects checkpoints so.
    """

    def __init__(
        self, trainee: Trainee, adversary: Adversary, windows: SeenWindows, most: float, pass_windows: int
    ) -> None:
        """Judge a trainee.

        Args:
            windows: The selection set.
            most: No window counts more often than so.
            pass_windows: Per forward pass.
        """
        self._trainee, self._adversary, self._windows = trainee, adversary, windows
        self._most, self._pass_windows = most, pass_windows
        self._excess = torch.zeros(0, len(windows), dtype=torch.float64)
        self._factors = torch.ones(1, len(windows), dtype=torch.float64)

    def __call__(self) -> float:
        excess = excess_losses(self._trainee, self._windows, self._pass_windows).double()
        factors = bounded_factors(self._adversary.log_ratio(self._windows), self._most)
        if divergence(factors) <= FARTHEST:
            self._factors = torch.cat([self._factors, factors.double().unsqueeze(0)])
        self._excess = torch.cat([self._excess, excess.unsqueeze(0)])
        return self.revised()[-1]

    def revised(self) -> Sequence[float]:
        """Give what each model that was judged loses under the adversary that is worst for it."""
        under: Tensor = self._excess @ self._factors.T / len(self._windows)
        worst: list[float] = under.max(1).values.tolist()
        return worst

    def state(self) -> dict[str, Tensor]:
        return {"excess": self._excess, "factors": self._factors}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._excess, self._factors = state["excess"], state["factors"]
