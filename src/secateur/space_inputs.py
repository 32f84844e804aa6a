"""The search space that a configuration leaves: what may be cut, on which grid, and what the alternative would be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.config import RunConfig
from secateur.errors import BudgetError, ConfigError
from secateur.export.checkpoint import stock_holds
from secateur.model.loading import DenseModel
from secateur.model.shape import DenseShape
from secateur.schema import derive_seed
from secateur.search.methods import SEARCHES
from secateur.search.rounds import FEWEST_PAIRS
from secateur.space.cost import COSTS, Budget, ModuleCost
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import (
    GPU_MULTIPLE,
    K_QUANTS_MULTIPLE,
    SearchSpace,
    define_space,
    divisible_heads,
    hardware_multiple,
    level_grid,
)
from secateur.space.uniform_space import UniformSpace, define_uniform_space

# FFN widths of layers alike where the size is open: all of them move together, so that steps count once per layer.
OPEN_UNIFORM_LEVELS = 33


@dataclass(frozen=True)
class Alternative:
    """The space that the export target does not ask for, at the same budget: layers alike, or ones that differ."""

    space: SearchSpace
    budget: Budget


def space_of(config: RunConfig, dense: DenseModel, costs: Mapping[str, ModuleCost]) -> SearchSpace:
    """Define the space that the configuration leaves."""
    if config.export.target == "uniform":
        return uniform_space_of(config, dense, costs)
    return per_layer_space_of(config, dense, costs)


def per_layer_space_of(config: RunConfig, dense: DenseModel, costs: Mapping[str, ModuleCost]) -> SearchSpace:
    """Define the space in which layers may differ."""
    limits = config.space
    return define_space(
        _counted_shape(config, dense),
        limits.ffn_levels,
        limits.kv_levels,
        width_multiple(config, dense.shape),
        limits.protect_first,
        limits.protect_last,
        limits.tensor_parallel,
        costs,
    )


def uniform_space_of(config: RunConfig, dense: DenseModel, costs: Mapping[str, ModuleCost]) -> UniformSpace:
    """Define the space of layers alike that stock classes hold.

    Where decoder parameters alone are limited every aligned FFN width is in it, of which a budget leaves few
    (`UniformSpace.at`).
    """
    limits, shape = config.space, dense.shape
    # The same is refused as in the other space.
    per_layer_space_of(config, dense, costs)
    multiple = math.lcm(width_multiple(config, shape), limits.tensor_parallel)
    open_size = config.budget.max_drop is not None or config.budget.limits_latency
    levels = OPEN_UNIFORM_LEVELS if open_size else shape.ffn_width // multiple + 1
    heads = divisible_heads(shape.num_kv_heads, shape.queries_per_group, limits.tensor_parallel)
    return define_uniform_space(
        _counted_shape(config, dense),
        [count for count in heads if count and stock_holds(dense, count)],
        level_grid(shape.ffn_width, max(levels, 2), multiple),
        limits.protect_first,
        limits.protect_last,
        costs,
    )


def width_multiple(config: RunConfig, shape: DenseShape) -> int:
    """Give what FFN widths are multiples of: as asked, or as who loads the export likes it; of experts, any number."""
    if shape.whole_experts:
        return config.space.multiple_of or 1
    largest = K_QUANTS_MULTIPLE if config.export.target == "gguf" else GPU_MULTIPLE
    return config.space.multiple_of or hardware_multiple(shape.ffn_width, largest)


def _counted_shape(config: RunConfig, dense: DenseModel) -> DenseShape:
    """Give the shape by which architectures are counted.

    Raises:
        ConfigError: Narrowed blocks are to gain biases, and have no place for them.
    """
    if config.pruning.reconstruction != "bias":
        return dense.shape
    if dense.shape.experts is not None:
        raise ConfigError(
            f"pruning.reconstruction=bias has no place for its biases in a mixture of experts, which family "
            f"{dense.family.model_type!r} is; use none, least_squares or sequential"
        )
    return dense.shape.with_output_bias()


def searchable(space: SearchSpace, budget: Budget, seed: int) -> tuple[SearchSpace, Budget]:
    """Give the budget back if its band holds enough architectures to search; else one as wide as a step of the grid.

    Layers alike always get the wide band, in which every number of layers and heads finds its FFN width; they need not
    be many, since few can all be measured. Widths that none of them has leave the space.

    Raises:
        BudgetError: That band too holds fewer architectures than a predictor can learn from, or none.
    """
    widened = budget.widened(*space.smallest_steps(budget))
    space.check(widened)
    if isinstance(space, UniformSpace):
        return space.at(widened), widened
    for band in (budget, widened):
        found = len(sample_architectures(space, band, FEWEST_PAIRS, derive_seed(seed, "count")))
        if found >= FEWEST_PAIRS:
            return space, band
    raise BudgetError(
        f"only {found} architectures of the search space are inside the budget band, at least {FEWEST_PAIRS} are "
        f"needed to learn from; lower {budget.options}, widen the band (budget.band) or the space (space.ffn_levels, "
        "space.protect_first, space.protect_last)"
    )


def alternative_of(config: RunConfig, dense: DenseModel, costs: Mapping[str, ModuleCost] = COSTS) -> Alternative | None:
    """Give the other space, where a run says what the choice between the two costs.

    None where it is not asked, the hidden size goes too, the search weighs more than quality, times are limited, or the
    other space has nothing at the budget.
    """
    search, budget = config.search, config.budget
    plain = not search.objectives and not config.data.groups
    # Blocks are timed at the widths of the space that is searched.
    counted = budget.max_drop is None and not budget.limits_latency
    if (
        config.space.hidden
        or search.method != "secateur"
        or not (plain and counted)
        or search.alternative_measurements < FEWEST_PAIRS
    ):
        return None
    other = per_layer_space_of if config.export.target == "uniform" else uniform_space_of
    wanted = Budget.from_config(dense.shape, budget, costs)
    try:
        space, band = searchable(other(config, dense, costs), wanted, config.seed)
    except BudgetError:
        return None
    # A bank twice as large as the run's own is enough for what is only held against it.
    return Alternative(space.at(band, config.space.ffn_levels) if isinstance(space, UniformSpace) else space, band)


def refuse_hidden(config: RunConfig) -> None:
    """Refuse what cannot be had together with `space.hidden`.

    Raises:
        ConfigError: Says what, and what to do instead.
    """
    if not config.space.hidden:
        return
    limits = config.budget
    others = ["--max-drop"] * (limits.max_drop is not None) + ["--max-latency-ms"] * limits.limits_latency
    others += [f"search.method={config.search.method}"] * (config.search.method not in SEARCHES)
    others += ["pruning.reconstruction=bias"] * (config.pruning.reconstruction == "bias")
    others += ["a cost in search.objectives"] * bool(set(config.search.objectives) & set(COSTS))
    others += ["--target gguf"] * (config.export.target == "gguf")
    if others:
        raise ConfigError(
            f"space.hidden=true tries hidden sizes at one budget of counts by searching, which {others[0]} is not for; "
            "leave one of the two out"
        )


def refuse_target(config: RunConfig) -> None:
    """Refuse a method that cannot keep layers alike.

    Raises:
        ConfigError: Names those that can.
    """
    if config.export.target == "uniform" and config.search.method not in SEARCHES:
        raise ConfigError(
            f"--target uniform needs a method that searches layers alike ({', '.join(SEARCHES)}), got "
            f"search.method={config.search.method}; use another target, or one of those"
        )
