"""Named domains: those that lose most over the dense model are drawn more often, within a ball around the given."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.recovery.objective import WindowLosses
from secateur.recovery.robust.chi_square import worst_mixture
from secateur.recovery.text import Batch, RecoverySet
from secateur.schema import derive_seed

# What is left of a domain's losses after a step: the mean is over about the last ten that it was drawn in.
REMEMBERED = 0.9
# Share of the windows that is drawn as given, so that no domain is lost sight of: one that the ball leaves nothing
# would never be seen to get worse. What comes out is in the ball still, which is convex.
AS_GIVEN = 0.1
# How far a step moves the shares towards what is worst now. The worst mixture lies on the edge of the ball however
# little domains differ: taken as it is, a domain had a third of the windows and, once below another, next to none.
MOVED = 0.1


class WorstDomains:
    """Draws domains by the mixture of most excess loss in a chi-square ball around their shares of the recovery set.

    A domain's excess is a mean over the windows drawn of it lately: their cross-entropy less the dense model's on the
    same windows, so that text which is hard for every model counts for nothing. Shares go there in small steps, and
    are then an average of what was worst lately. Until every domain was drawn once, they are drawn as given. Every
    window of a domain is drawn once before any of it is again.

    Source:
        Sheared LLaMA's dynamic batch loading (arXiv 2310.06694) re-samples domains by losses over a reference too; its
        update is multiplicative, ours the exact optimum in a ball (chi-square: Duchi and Namkoong, arXiv 1810.08750).
    """

    def __init__(
        self,
        recovery_set: RecoverySet,
        dense_losses: Float[Tensor, " windows"],
        radius: float,
        batch_windows: int,
        seed: int,
    ) -> None:
        """Begin at the shares that the domains have of a recovery set.

        Args:
            dense_losses: The dense model's own on each window.
        """
        self._dense, self._radius, self._batch_windows, self._seed = dense_losses, radius, batch_windows, seed
        self._number = len(recovery_set.domain_names)
        own = [(recovery_set.domains == domain).nonzero().flatten() for domain in range(self._number)]
        self._windows = own
        self._given = torch.tensor([len(places) for places in own], dtype=torch.float64) / len(recovery_set)
        self._sums = torch.zeros(self._number, dtype=torch.float64)
        self._counts = torch.zeros(self._number, dtype=torch.float64)
        self._drawn = torch.zeros(self._number, dtype=torch.int64)
        self._mixture = self._given

    @property
    def mixture(self) -> Float[Tensor, " domains"]:
        """Give the shares that domains are drawn by now."""
        return self._mixture

    def places(self, step: int) -> Int[Tensor, " windows"]:
        """Give the windows of a step: each domain's number is its share of the step, rounded up or down by chance."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "recovery domains", step))
        # Evenly spaced from a random start: as often as independent draws, with none of their scatter.
        points = (torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(self._batch_windows)) / (
            self._batch_windows
        )
        domains = torch.searchsorted(self._mixture.cumsum(0), points, right=True).clamp(max=self._number - 1)
        counts = torch.bincount(domains, minlength=self._number).tolist()
        return torch.cat([self._next(domain, count) for domain, count in enumerate(counts) if count])

    def _next(self, domain: int, count: int) -> Int[Tensor, " windows"]:
        """Give the windows of a domain whose turn it is."""
        own, first = self._windows[domain], int(self._drawn[domain])
        wanted = range(first, first + count)
        orders = {epoch: self._order(domain, epoch) for epoch in {place // len(own) for place in wanted}}
        return own[torch.stack([orders[place // len(own)][place % len(own)] for place in wanted])]

    def _order(self, domain: int, epoch: int) -> Int[Tensor, " windows"]:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "recovery domain", domain, epoch))
        return torch.randperm(len(self._windows[domain]), generator=generator)

    def weights(self, batch: Batch, losses: WindowLosses) -> Float[Tensor, " windows"]:
        return torch.ones(len(batch), device=losses.lowered.device)

    def learn(self, _step: int, /, batch: Batch, losses: WindowLosses) -> None:
        excess = losses.cross_entropy.cpu().double() - self._dense[batch.places].double()
        counts = torch.bincount(batch.domains, minlength=self._number)
        self._drawn = self._drawn + counts
        self._sums = REMEMBERED * self._sums + torch.bincount(batch.domains, excess, minlength=self._number)
        self._counts = REMEMBERED * self._counts + counts
        if bool((self._drawn > 0).all()):
            worst = worst_mixture(self._sums / self._counts, self._given, self._radius)
            worst = AS_GIVEN * self._given + (1 - AS_GIVEN) * worst
            self._mixture = (1 - MOVED) * self._mixture + MOVED * worst

    def state(self) -> dict[str, Tensor]:
        return {"sums": self._sums, "counts": self._counts, "drawn": self._drawn, "mixture": self._mixture}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._sums, self._counts = state["sums"], state["counts"]
        self._drawn, self._mixture = state["drawn"], state["mixture"]
