"""Sizes as shares of the dense model's, when a search is free to choose one: of any cost, and bands at any share."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from secateur.space.cost import Amount, Budget, Limit, ModuleCost
from secateur.space.search_space import Levels, SearchSpace

# What a band at one size leaves unused, of the dense model's; a step of the grid where that is more.
SLICE = 0.005


@dataclass(frozen=True)
class SizeAxis:
    """A cost that is to be small, from nothing of it in the decoder layers (0) to what the dense model has (1).

    What is outside of the layers does not count in a share: no architecture has less of it.

    Attributes:
        ceilings: Limits on other costs, or on this one, which every architecture meets besides.
    """

    space: SearchSpace
    cost: ModuleCost
    ceilings: tuple[Limit, ...] = ()

    @classmethod
    def of(cls, space: SearchSpace, budget: Budget) -> "SizeAxis":
        """Make the axis of a budget whose first limit names the cost and whose others are ceilings."""
        return cls(space, budget.limits[0].cost, budget.limits[1:])

    @property
    def whole(self) -> Amount:
        """What the dense model's layers have of the cost; the widest of each module where the grid ends below it."""
        return sum(costs[-1] for costs in self.space.table(self.cost))

    def share(self, levels: Levels) -> float:
        return sum(costs[level] for costs, level in zip(self._table, levels, strict=True)) / self.whole

    def shares(self, rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
        tables = zip(self._table, rows.T, strict=True)
        return np.sum([np.array(costs)[column] for costs, column in tables], axis=0) / self.whole

    def band(self, share: float) -> Budget:
        """Give a narrow band that ends at a share."""
        outside, whole = self.cost.outside(self.space.shape), self.whole
        width = max(self.space.smallest_step(self.cost), SLICE * whole)
        ceiling, floor = outside + share * whole, max(outside + share * whole - width, 0)
        if isinstance(whole, int) and isinstance(outside, int):
            # Rounded first: a share that was computed from a count must give it back.
            ceiling, floor = int(round(ceiling, 6)), int(floor)
        return Budget((Limit(self.cost, ceiling, floor), *self.ceilings))

    def allows(self, levels: Levels) -> bool:
        """Whether the other limits are met."""
        others = Budget(self.ceilings)
        return others.allows(*self.space.used(others, levels))

    @property
    def smallest(self) -> float:
        """Give the share of the narrowest architecture; protected layers have theirs."""
        return self.share(self.space.smallest)

    @property
    def _table(self) -> tuple[tuple[Amount, ...], ...]:
        return self.space.table(self.cost)


def open_budget(space: SearchSpace, cost: str, ceilings: Mapping[str, Amount]) -> Budget:
    """Give the budget of a search that is free in size: up to the dense model's `cost`, and ceilings on others.

    Args:
        ceilings: By the name of the cost.

    Raises:
        BudgetError: Even the smallest architecture exceeds a ceiling.
    """
    dense = space.architecture(tuple(len(options) - 1 for options in space.options))
    used = space.costs[cost].of(space.shape, dense)
    # No floor: nothing has to use them up.
    others = tuple(Limit(space.costs[name], amount, float("inf")) for name, amount in ceilings.items())
    space.check_smallest(Budget(others))
    return Budget((Limit(space.costs[cost], used, 0), *others))
