"""The set of allowed architectures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Int, Num

from secateur.errors import BudgetError, ConfigError
from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, WORDS, Amount, Budget, ModuleCost, module_parameters, number

# FFN widths that GPU kernels like, and the width of the super-blocks of GGUF's k-quants.
GPU_MULTIPLE, K_QUANTS_MULTIPLE = 64, 256
SMALL_WIDTH, STEPS = 1_024, 48

Levels = tuple[int, ...]
# Per module and option, what the module costs there.
CostTable = tuple[tuple[Amount, ...], ...]


def hardware_multiple(width: int, largest: int = GPU_MULTIPLE) -> int:
    """Choose the alignment of FFN widths: what the hardware likes above 1,024 wide, else what leaves at least 48 steps.

    On a small model a coarse grid would cost more quality than it gains speed, and the sums of its widths would miss
    the budget band.

    Args:
        largest: What the hardware, or the file, likes; a power of two.
    """
    multiple = largest
    while width <= SMALL_WIDTH and multiple > 1 and width / multiple < STEPS:
        multiple //= 2
    return multiple


def divisible_heads(num_kv_heads: int, queries_per_group: int, devices: int) -> list[int]:
    """Give the KV-head counts that so many devices can share: whole query heads, and KV heads each on as many devices.

    0, an attention that is gone, is among them.
    """
    counts = range(1, num_kv_heads + 1)
    shared = (n for n in counts if n * queries_per_group % devices == 0 and (n % devices == 0 or devices % n == 0))
    return [0, *shared]


def level_grid(num_groups: int, num_levels: int, multiple: int) -> list[int]:
    """Spread widths evenly over [0, num_groups], aligned to `multiple`; 0 and the dense width are always among them."""
    inner = (round(num_groups * step / (num_levels - 1) / multiple) * multiple for step in range(num_levels - 1))
    return sorted({0, num_groups} | {width for width in inner if width < num_groups})


@dataclass(frozen=True)
class SearchSpace:
    """Allowed widths per module, ascending, in module order.

    `parameters[m][i]` is what module `m` costs at `options[m][i]`, counted by `shape`: the dense one, or its
    `with_output_bias()` where the reconstruction gives narrowed blocks a bias. `costs` are all that can be told of an
    architecture of the space, by name.
    """

    shape: DenseShape
    options: tuple[tuple[int, ...], ...]
    costs: Mapping[str, ModuleCost] = field(default_factory=lambda: COSTS, compare=False, repr=False)
    parameters: tuple[tuple[int, ...], ...] = field(init=False)
    _tables: dict[ModuleCost, CostTable] = field(init=False, default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        costs = tuple(
            tuple(module_parameters(self.shape, module_of(index)[1], width) for width in widths)
            for index, widths in enumerate(self.options)
        )
        object.__setattr__(self, "parameters", costs)

    @property
    def num_modules(self) -> int:
        return len(self.options)

    def architecture(self, levels: Levels) -> Architecture:
        return Architecture.from_widths(
            tuple(options[level] for options, level in zip(self.options, levels, strict=True))
        )

    def levels(self, architecture: Architecture) -> Levels:
        """Give the index of each width among its module's options.

        Raises:
            ValueError: A width is not among them.
        """
        return tuple(options.index(width) for options, width in zip(self.options, architecture.widths, strict=True))

    def decoder_parameters(self, levels: Levels) -> int:
        return sum(costs[level] for costs, level in zip(self.parameters, levels, strict=True))

    def table(self, cost: ModuleCost) -> CostTable:
        """Give a cost of every module at every option; what is outside of all modules is not in it."""
        if cost not in self._tables:
            self._tables[cost] = tuple(
                tuple(cost.of_module(self.shape, module_of(index)[1], width) for width in widths)
                for index, widths in enumerate(self.options)
            )
        return self._tables[cost]

    def cost(self, name: str, levels: Int[np.ndarray, "candidates modules"]) -> Num[np.ndarray, " candidates"]:
        """Give one cost of many architectures.

        Args:
            name: One of `costs`: `decoder_parameters`, `flops_per_token`, ...; latencies where they were timed.
        """
        cost = self.costs[name]
        tables = zip(self.table(cost), levels.T, strict=True)
        return np.sum([np.array(table)[column] for table, column in tables], axis=0) + cost.outside(self.shape)

    def used(self, budget: Budget, levels: Levels) -> tuple[Amount, ...]:
        """Give what an architecture uses of every limit of a budget."""
        return tuple(
            sum([costs[level] for costs, level in zip(self.table(limit.cost), levels, strict=True)])
            + limit.cost.outside(self.shape)
            for limit in budget.limits
        )

    def smallest_step(self, cost: ModuleCost) -> Amount:
        """Give the cheapest step from one width to the next that costs anything: what sums may miss a limit by."""
        steps = [high - low for costs in self.table(cost) for low, high in pairwise(costs) if high > low]
        return min(steps, default=0)

    def smallest_steps(self, budget: Budget) -> tuple[Amount, ...]:
        """Give the smallest step of every limit of a budget."""
        return tuple(self.smallest_step(limit.cost) for limit in budget.limits)

    @property
    def smallest(self) -> Levels:
        """The narrowest architecture."""
        return (0,) * self.num_modules

    def nearest_keep(self, budget: Budget) -> float:
        """Give the share of decoder parameters, among those the space can reach, that is nearest to the budget."""
        reachable = np.array([0], dtype=np.int64)
        for costs in self.parameters:
            reachable = np.unique((reachable[:, None] + np.array(costs)[None, :]).ravel())
            # Thinning keeps the set small where widths combine to millions of sums; the extremes always stay.
            if len(reachable) > 20_000:
                reachable = reachable[np.unique(np.linspace(0, len(reachable) - 1, 20_000).astype(int))]
        reachable = reachable[reachable > 0]
        inside = reachable[(reachable >= budget.floor) & (reachable <= budget.ceiling)]
        nearest = inside.max() if len(inside) else reachable[np.abs(reachable - budget.ceiling).argmin()]
        return float(nearest / self.shape.decoder_parameters)

    def check(self, budget: Budget) -> None:
        """Refuse a budget that the space cannot meet.

        Raises:
            BudgetError: No architecture of the space is inside the budget band; names the nearest share that is, or
                what the smallest architecture has.
        """
        if not budget.is_keep:
            self.check_smallest(budget)
            return
        dense = self.shape.decoder_parameters
        nearest = self.nearest_keep(budget)
        if not budget.floor / dense <= nearest <= budget.ceiling / dense:
            raise BudgetError(
                f"no architecture of the search space keeps between {budget.floor / dense:.4f} and "
                f"{budget.ceiling / dense:.4f} of the decoder parameters; the nearest budget that can be met is "
                f"--keep {np.ceil(nearest * 1e4) / 1e4:.4f}, or widen the space (space.ffn_levels, "
                "space.protect_first, space.protect_last) or the band (budget.band)"
            )

    def check_smallest(self, budget: Budget) -> None:
        """Refuse limits that even the narrowest blocks exceed; where each is met by those, all are.

        Raises:
            BudgetError: Names the limit and what the smallest architecture has.
        """
        for limit, least in zip(budget.limits, self.used(budget, self.smallest), strict=True):
            if least > limit.ceiling:
                option, unit = WORDS[limit.cost.name]
                raise BudgetError(
                    f"{option} allows {number(limit.ceiling)} {unit}, and the smallest architecture of the search "
                    f"space has {number(least)}; allow more than that, or widen the space (space.ffn_levels, "
                    "space.protect_first, space.protect_last)"
                )


def define_space(
    shape: DenseShape,
    ffn_levels: int,
    kv_levels: int,
    multiple_of: int | None = None,
    protect_first: int = 0,
    protect_last: int = 0,
    tensor_parallel: int = 1,
    costs: Mapping[str, ModuleCost] = COSTS,
) -> SearchSpace:
    """Define which widths each module may take.

    Args:
        multiple_of: Alignment of FFN widths; `None` chooses by `hardware_multiple`.
        protect_first: Number of layers at the start that stay dense.
        protect_last: Number of layers at the end that stay dense.
        tensor_parallel: Number of devices that heads and FFN widths can be divided among.
        costs: What can be told of the space's architectures.

    Raises:
        ConfigError: All layers are protected, or the dense model itself cannot be divided among the devices.
    """
    if protect_first + protect_last >= shape.num_layers:
        raise ConfigError(
            f"space.protect_first + space.protect_last must be below the number of layers {shape.num_layers}, "
            f"got {protect_first} + {protect_last}"
        )
    allowed = divisible_heads(shape.num_kv_heads, shape.queries_per_group, tensor_parallel)
    if allowed[-1] != shape.num_kv_heads or shape.ffn_width % tensor_parallel:
        raise ConfigError(
            f"--tensor-parallel {tensor_parallel}: the dense model's {shape.num_query_heads} query heads, "
            f"{shape.num_kv_heads} KV heads and FFN width {shape.ffn_width} cannot be divided among so many devices"
        )
    multiple = math.lcm(multiple_of or hardware_multiple(shape.ffn_width), tensor_parallel)
    ffn = level_grid(shape.ffn_width, ffn_levels, multiple)
    heads = [allowed[place] for place in level_grid(len(allowed) - 1, kv_levels, 1)]
    options = []
    for index in range(shape.num_modules):
        layer, kind = module_of(index)
        protected = layer < protect_first or layer >= shape.num_layers - protect_last
        grid = heads if kind is BlockKind.ATTENTION else ffn
        options.append((grid[-1],) if protected else tuple(grid))
    return SearchSpace(shape=shape, options=tuple(options), costs=costs)
