"""FLAP's allocation: one threshold for all groups of the model, on scores standardised inside each module."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from secateur.errors import BudgetError
from secateur.model.shape import DenseShape, module_of
from secateur.search.allocation import largest_within
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, module_parameters


def global_threshold_architecture(
    shape: DenseShape, budget: Budget, scores: Sequence[Float[Tensor, " _groups"]]
) -> Architecture:
    """Keep the groups with the highest scores, wherever they are, until the budget is filled.

    Args:
        scores: Per module, comparable across modules (`fluctuation_scores`). Which groups of a module stay is the
            importance's business; here they are only counted.

    Raises:
        BudgetError: The least that it can leave is too much.

    Source:
        FLAP (arXiv 2312.11983), section 3.3; it counts a head as 512/3 channels, we count parameters. What is too large
        for what is left of the budget is passed over, so that the budget is filled to within a channel.
    """
    ordered = sorted(
        (-score, module, group) for module, values in enumerate(scores) for group, score in enumerate(values.tolist())
    )
    modules = [module for _, module, _ in ordered]
    architecture = largest_within(shape, budget, lambda parameters: _kept(shape, modules, parameters))
    if architecture is None:
        raise BudgetError(f"search.method=global_threshold finds nothing within {budget}; raise {budget.options}")
    return architecture


def _kept(shape: DenseShape, modules: Sequence[int], parameters: int) -> Architecture:
    """Keep one group after another of the modules named, while so many decoder parameters allow."""
    widths = [0] * shape.num_modules
    left = parameters
    for module in modules:
        kind = module_of(module)[1]
        width = widths[module]
        step = module_parameters(shape, kind, width + 1) - module_parameters(shape, kind, width)
        if step <= left and width < shape.block(kind).num_groups:
            widths[module] += 1
            left -= step
    return Architecture.from_widths(tuple(widths))
