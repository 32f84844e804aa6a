"""Allocations by a rule, without a search: the largest one that a budget allows."""

from collections.abc import Callable

from secateur.model.shape import DenseShape
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget


def largest_within(
    shape: DenseShape, budget: Budget, allocate: Callable[[int], Architecture | None]
) -> Architecture | None:
    """Give what a rule allocates for the most decoder parameters at which all limits of a budget are met.

    Rules know decoder parameters alone. Where the budget limits something else too, how many of them it leaves is found
    by bisection, on the assumption that what a rule allocates grows with them.

    Args:
        allocate: From the most decoder parameters to an architecture that fills them; None where they are too few.
    """
    if budget.is_keep:
        return allocate(budget.ceiling)

    def allowed(parameters: int) -> bool:
        architecture = allocate(parameters)
        return architecture is None or budget.allows(*budget.used(shape, architecture))

    fits, exceeds = 0, shape.decoder_parameters
    if allowed(exceeds):
        return allocate(exceeds)
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        fits, exceeds = (middle, exceeds) if allowed(middle) else (fits, middle)
    return allocate(fits) if allowed(fits) else None
