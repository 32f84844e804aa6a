"""One pruning ratio for all layers, or for all but the first and last ones: LLM-Pruner's two allocations."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from secateur.errors import BudgetError
from secateur.model.shape import DenseShape
from secateur.search.allocation import largest_within
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of
from secateur.space.search_space import Levels, SearchSpace

# LLM-Pruner prunes layers 4 to 29 of the 32 of LLaMA-7B.
PROTECTED_FIRST, PROTECTED_LAST, OF_LAYERS = 4, 2, 32


def uniform_architectures(shape: DenseShape, budget: Budget) -> list[Architecture]:
    """Give the uniform architectures of LLM-Pruner that fill the budget.

    One pruning ratio for all layers cannot meet a budget exactly, because heads go whole: the ratio that the budget
    asks for removes `floor(ratio * heads)` KV heads in LLM-Pruner's rounding, and the FFN takes what is left, the
    first layers one channel more where it does not divide. The first returned rounds so; the second removes one head
    more and leaves the FFN wider. Other limits than decoder parameters narrow each of them until it meets them.
    """
    return _roundings(shape, budget, range(shape.num_layers))


def uniform_architecture(shape: DenseShape, budget: Budget) -> Architecture:
    """Give the uniform architecture in LLM-Pruner's rounding.

    Raises:
        BudgetError: It would leave no KV head, or no FFN channel.
    """
    found = uniform_architectures(shape, budget)
    if not found:
        raise BudgetError(
            f"search.method=uniform leaves no KV head or no FFN channel per layer at {budget}; raise {budget.options}"
        )
    return found[0]


def uniform_middle_architecture(shape: DenseShape, budget: Budget) -> Architecture:
    """Give the uniform architecture that leaves the first and last layers dense, in LLM-Pruner's rounding.

    Raises:
        BudgetError: The protected layers alone are more than the budget.

    Source:
        LLM-Pruner (arXiv 2305.11627) prunes layers 4 to 29 of 32; other depths protect the same share, rounded.
    """
    first, last = (round(shape.num_layers * count / OF_LAYERS) for count in (PROTECTED_FIRST, PROTECTED_LAST))
    found = _roundings(shape, budget, range(first, shape.num_layers - last))
    if not found:
        raise BudgetError(
            f"search.method=uniform_middle leaves {first + last} of {shape.num_layers} layers dense, which is more "
            f"than {budget} allow; raise {budget.options} or use search.method=uniform"
        )
    return found[0]


def _roundings(shape: DenseShape, budget: Budget, pruned: Sequence[int]) -> list[Architecture]:
    """Narrow the layers `pruned` alike until the budget holds, in both roundings; the others stay dense."""
    found = (largest_within(shape, budget, partial(_rounding, shape, pruned, fewer_heads)) for fewer_heads in (0, 1))
    return [architecture for architecture in found if architecture is not None]


def _rounding(shape: DenseShape, pruned: Sequence[int], fewer_heads: int, parameters: int) -> Architecture | None:
    """Narrow the layers `pruned` alike to so many decoder parameters; None where no head or no channel is left."""
    layer = shape.attention.parameters + shape.mlp.parameters
    left = parameters - layer * (shape.num_layers - len(pruned))
    ratio = 1 - left / (layer * len(pruned))
    removed = int(shape.num_kv_heads * ratio + 1e-9)  # 40 * (1 - 0.8) is 7.999...
    kv_heads = shape.num_kv_heads - removed - fewer_heads
    width = widest_ffn(shape, kv_heads, left / len(pruned)) if kv_heads >= 1 else 0
    if width == 0:
        return None
    widths = [shape.num_kv_heads, shape.ffn_width] * shape.num_layers
    for index in pruned:
        widths[2 * index : 2 * index + 2] = [kv_heads, width]
    return _filled(shape, Architecture.from_widths(tuple(widths)), parameters, pruned)


def _filled(shape: DenseShape, architecture: Architecture, parameters: int, layers: Sequence[int]) -> Architecture:
    """Give FFNs of the named layers one channel more each, in that order, while so many decoder parameters allow."""
    widths = list(architecture.widths)
    for layer in layers:
        wider = widths.copy()
        wider[2 * layer + 1] += 1
        grown = Architecture.from_widths(tuple(wider))
        if 0 < widths[2 * layer + 1] < shape.ffn_width and cost_of(shape, grown).decoder_parameters <= parameters:
            widths = wider
    return Architecture.from_widths(tuple(widths))


def widest_ffn(shape: DenseShape, kv_heads: int, parameters: float) -> int:
    """Give the widest FFN of a layer with so many KV heads and at most so many parameters."""
    one_channel = shape.mlp.parameters_per_group
    left = parameters - shape.attention.parameters_at(kv_heads) - (shape.mlp.parameters_at(1) - one_channel)
    return max(0, min(int(left // one_channel), shape.ffn_width))


def nearest_levels(space: SearchSpace, architecture: Architecture) -> Levels:
    """Round an architecture to the space, module by module."""
    return tuple(
        int(np.abs(np.array(options) - width).argmin())
        for options, width in zip(space.options, architecture.widths, strict=True)
    )
