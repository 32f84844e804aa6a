"""Architectures that need no measurement to be proposed."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.model.shape import DenseShape
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.search_space import Levels, SearchSpace


def additive_optimum(space: SearchSpace, budget: Budget, losses: Sequence[Mapping[int, float]]) -> Levels | None:
    """Give the architecture with the least summed loss within the budget.

    Args:
        losses: Per module, loss per width; they are taken to add up.

    Returns:
        Levels, or None where nothing is inside the band.

    Source:
        Puzzle (arXiv 2411.19146) scores blocks one by one and solves an integer program over their sum.
    """
    sizes = [len(options) for options in space.options]
    loss = np.concatenate(
        [[losses[module][width] for width in options] for module, options in enumerate(space.options)]
    )
    cost = np.concatenate([np.array(costs, dtype=float) for costs in space.parameters])
    one_each = np.zeros((space.num_modules, len(cost)))
    for module, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        one_each[module, start : start + sizes[module]] = 1
    # In units of the ceiling: HiGHS scales badly over nine orders of magnitude.
    solution = milp(
        loss / max(loss.max(), 1e-30),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None, :] / budget.ceiling, budget.floor / budget.ceiling, 1),
        ],
        options={"mip_rel_gap": 1e-4},
    )
    if solution.x is None:
        return None
    levels = [int(part.argmax()) for part in np.split(solution.x, np.cumsum(sizes)[:-1])]
    return tuple(levels) if budget.admits(space.decoder_parameters(tuple(levels))) else None


def uniform_architectures(shape: DenseShape, budget: Budget) -> list[Architecture]:
    """Give the uniform architectures of LLM-Pruner that fill the budget.

    One pruning ratio for all layers cannot meet a budget exactly, because heads go whole: the ratio that the budget
    asks for removes `floor(ratio * heads)` KV heads in LLM-Pruner's rounding, and the FFN takes what is left. The first
    returned rounds so; the second removes one head more and leaves the FFN wider.
    """
    ratio = 1 - budget.ceiling / shape.decoder_parameters
    removed = int(shape.num_kv_heads * ratio + 1e-9)  # 40 * (1 - 0.8) is 7.999...
    found = []
    for kv_heads in (shape.num_kv_heads - removed, shape.num_kv_heads - removed - 1):
        if kv_heads < 1:
            continue
        width = _widest(shape, kv_heads, budget)
        if width > 0:
            found.append(Architecture.from_widths((kv_heads, width) * shape.num_layers))
    return found


def _widest(shape: DenseShape, kv_heads: int, budget: Budget) -> int:
    per_layer = budget.ceiling / shape.num_layers - kv_heads * shape.attention.parameters_per_group
    left = per_layer - shape.attention.parameters_constant - shape.mlp.parameters_constant
    return min(int(left // shape.mlp.parameters_per_group), shape.ffn_width)


def nearest_levels(space: SearchSpace, architecture: Architecture) -> Levels:
    """Round an architecture to the space, module by module."""
    return tuple(
        int(np.abs(np.array(options) - width).argmin())
        for options, width in zip(space.options, architecture.widths, strict=True)
    )
