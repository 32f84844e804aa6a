"""FLAP's allocation: one threshold for all groups of the model, on scores standardised inside each module."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from secateur.model.shape import DenseShape, module_of
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of, module_parameters


def global_threshold_architecture(
    shape: DenseShape, budget: Budget, scores: Sequence[Float[Tensor, " _groups"]]
) -> Architecture:
    """Keep the groups with the highest scores, wherever they are, until the budget is filled.

    Args:
        scores: Per module, comparable across modules (`fluctuation_scores`). Which groups of a module stay is the
            importance's business; here they are only counted.

    Source:
        FLAP (arXiv 2312.11983), section 3.3; it counts a head as 512/3 channels, we count parameters. What is too large
        for what is left of the budget is passed over, so that the budget is filled to within a channel.
    """
    # A mixture of attention windows types its cache by position, so no layer may lose its attention there.
    widths = [1 if shape.mixed_attention else 0, 0] * shape.num_layers
    ordered = sorted(
        (-score, module, group) for module, values in enumerate(scores) for group, score in enumerate(values.tolist())
    )
    left = budget.ceiling - cost_of(shape, Architecture.from_widths(tuple(widths))).decoder_parameters
    for _, module, _ in ordered:
        kind = module_of(module)[1]
        width = widths[module]
        step = module_parameters(shape, kind, width + 1) - module_parameters(shape, kind, width)
        if step <= left and width < shape.block(kind).num_groups:
            widths[module] += 1
            left -= step
    return Architecture.from_widths(tuple(widths))
