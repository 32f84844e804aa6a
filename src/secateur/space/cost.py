"""What an architecture uses, as functions that add up over its modules, and what it may use."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError
from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.schema import Record
from secateur.space.architecture import Architecture

# Counts are whole numbers, times are not.
Amount = int | float


class Cost(Record):
    """Cost of one architecture.

    `decoder_parameters` counts the transformer blocks only, `total_parameters` the whole model. `flops_per_token` are
    two per matrix entry of the blocks that a token meets (attention scores, which grow with the context, and the head
    are outside): of a mixture, the router, the experts that a token goes to, and the shared one.
    `kv_cache_bytes_per_token` assumes 2 bytes per entry.
    """

    decoder_parameters: int
    total_parameters: int
    flops_per_token: int
    kv_cache_bytes_per_token: int


class Words(NamedTuple):
    """How a cost is limited on the command line, and what its amounts are called."""

    option: str
    unit: str


WORDS: dict[str, Words] = {
    "decoder_parameters": Words("--keep", "decoder parameters"),
    "total_parameters": Words("--max-params", "parameters"),
    "flops_per_token": Words("--max-flops", "FLOPs per token"),
    "kv_cache_bytes_per_token": Words("--max-kv-cache-bytes", "bytes of KV cache per token"),
    "prefill_ms": Words("--max-latency-ms prefill", "ms of prefill"),
    "decode_ms": Words("--max-latency-ms decode", "ms per generated token"),
}


@dataclass(frozen=True)
class ModuleCost:
    """A cost that adds up over modules.

    Attributes:
        of_module: What one block has of it that keeps so many groups; grows with them, and is 0 where the block is
            gone.
        outside: What is there outside of all blocks, whatever the architecture.
    """

    name: str
    of_module: Callable[[DenseShape, BlockKind, int], Amount]
    outside: Callable[[DenseShape], Amount]

    def of(self, shape: DenseShape, architecture: Architecture) -> Amount:
        modules = enumerate(architecture.widths)
        blocks = sum(self.of_module(shape, module_of(index)[1], width) for index, width in modules)
        return blocks + self.outside(shape)

    def say(self, amount: Amount) -> str:
        return say(self.name, amount)


def say(name: str, amount: Amount) -> str:
    """Write an amount of a cost with its unit: `1,100,000 parameters`, `11.25 ms per generated token`."""
    return f"{number(amount)} {WORDS[name].unit}"


def number(amount: Amount) -> str:
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:.4g}"


def module_parameters(shape: DenseShape, kind: BlockKind, width: int) -> int:
    """Parameters of one block that keeps `width` groups (see `BlockShape.parameters_at`)."""
    return shape.block(kind).parameters_at(width)


def _module_flops(shape: DenseShape, kind: BlockKind, width: int) -> int:
    return 2 * shape.block(kind).weights_at(width)


def _module_cache(shape: DenseShape, kind: BlockKind, width: int) -> int:
    """Count keys and values, 2 bytes each."""
    return 2 * 2 * width * shape.head_dim if kind is BlockKind.ATTENTION else 0


def _nothing(_shape: DenseShape) -> int:
    return 0


def _parameters_outside(shape: DenseShape) -> int:
    return shape.parameters_outside


# Exact functions of the architecture; those that are timed are made by `LatencyTable.costs`.
COSTS: dict[str, ModuleCost] = {
    cost.name: cost
    for cost in (
        ModuleCost("decoder_parameters", module_parameters, _nothing),
        ModuleCost("total_parameters", module_parameters, _parameters_outside),
        ModuleCost("flops_per_token", _module_flops, _nothing),
        ModuleCost("kv_cache_bytes_per_token", _module_cache, _nothing),
    )
}


def cost_of(shape: DenseShape, architecture: Architecture) -> Cost:
    """Count what an architecture of a dense model costs.

    Args:
        shape: `with_output_bias()` where narrowed blocks gain a bias.
    """
    return Cost.model_validate({name: cost.of(shape, architecture) for name, cost in COSTS.items()})


@dataclass(frozen=True)
class Limit:
    """The most of one cost, and the least that still counts as using it up.

    The floor is infinite where the dense model is below the ceiling: no architecture uses such a limit up.
    """

    cost: ModuleCost
    ceiling: Amount
    floor: Amount

    @classmethod
    def below(cls, cost: ModuleCost, ceiling: Amount, band: float) -> "Limit":
        """Make a limit of which the share `band` may stay unused."""
        if isinstance(ceiling, int):
            return cls(cost, ceiling, max(1, math.ceil(ceiling * (1 - band))))
        return cls(cost, ceiling, ceiling * (1 - band))

    def widened(self, step: Amount) -> "Limit":
        if math.isinf(self.floor):
            return self
        least = 1 if isinstance(self.ceiling, int) else 0.0
        return replace(self, floor=min(self.floor, max(least, self.ceiling - step)))


@dataclass(frozen=True)
class Budget:
    """The most that an architecture may have of every limited cost, and how much counts as using the budget.

    Candidates are drawn inside the budget band: every cost at or below its ceiling, and at least one of them at or
    above its floor. A measurement far below the budget teaches only that smaller is worse. `used` is always one amount
    per limit, in their order.
    """

    limits: tuple[Limit, ...]

    @classmethod
    def from_keep(cls, shape: DenseShape, keep: float, band: float) -> "Budget":
        """Make a budget from a share of the dense decoder parameters; what pruning adds comes out of the budget.

        Args:
            band: Share of the budget that may stay unused.

        Raises:
            BudgetError: `keep` is outside (0, 1].
        """
        if not 0 < keep <= 1:
            raise BudgetError(f"--keep must be a share in (0, 1], got {keep}; 0.8 keeps 80 % of the decoder parameters")
        # Rounded first: 3000 * 0.57 is 1709.999... in floating point.
        ceiling = int(round(shape.decoder_parameters * keep, 6))
        return cls((Limit.below(COSTS["decoder_parameters"], ceiling, band),))

    @classmethod
    def of_decoder_parameters(cls, ceiling: int, floor: int) -> "Budget":
        return cls((Limit(COSTS["decoder_parameters"], ceiling, floor),))

    @classmethod
    def from_config(cls, shape: DenseShape, config: BudgetConfig, costs: Mapping[str, ModuleCost] = COSTS) -> "Budget":
        """Make the budget that a configuration asks for.

        Args:
            costs: By name, those that are timed among them where the configuration limits them.

        Raises:
            BudgetError: `keep` is outside (0, 1], or the dense model meets all limits.
        """
        limits = cls.from_keep(shape, config.keep, config.band).limits if config.keep is not None else ()
        if not config.ceilings:
            return cls(limits)
        limits += tuple(Limit.below(costs[name], most, config.band) for name, most in config.ceilings.items())
        dense = Architecture.dense(shape)
        has = [limit.cost.of(shape, dense) for limit in limits]
        slack = [amount <= limit.ceiling for amount, limit in zip(has, limits, strict=True)]
        if all(slack):
            amounts = ", ".join(limit.cost.say(amount) for amount, limit in zip(has, limits, strict=True))
            raise BudgetError(
                f"there is nothing to prune: the dense model has {amounts}, and the budget allows {cls(limits)}; "
                f"lower {cls(limits).options}"
            )
        return cls(
            tuple(
                replace(limit, floor=math.inf) if is_slack else limit
                for limit, is_slack in zip(limits, slack, strict=True)
            )
        )

    def __str__(self) -> str:
        return " and ".join(limit.cost.say(limit.ceiling) for limit in self.limits)

    @property
    def options(self) -> str:
        """What on the command line limits it: `--keep`, or `--max-params or --max-flops`."""
        return " or ".join(WORDS[limit.cost.name].option for limit in self.limits)

    @property
    def is_keep(self) -> bool:
        """Whether decoder parameters are all that it limits."""
        return [limit.cost.name for limit in self.limits] == ["decoder_parameters"]

    @property
    def ceiling(self) -> int:
        """The most decoder parameters, of a budget that limits them alone."""
        assert self.is_keep, "other budgets have several ceilings, or one of something else"
        return int(self.limits[0].ceiling)

    @property
    def floor(self) -> int:
        """The least decoder parameters that count as using a budget that limits them alone."""
        assert self.is_keep, "other budgets have several floors, or one of something else"
        return int(self.limits[0].floor)

    def widened(self, *steps: Amount) -> "Budget":
        """Give the budget whose band is, for each limit, at least so wide."""
        return Budget(tuple(limit.widened(step) for limit, step in zip(self.limits, steps, strict=True)))

    def used(self, shape: DenseShape, architecture: Architecture) -> tuple[Amount, ...]:
        return tuple(limit.cost.of(shape, architecture) for limit in self.limits)

    def allows(self, *used: Amount) -> bool:
        """Whether no ceiling is exceeded."""
        return all(amount <= limit.ceiling for amount, limit in zip(used, self.limits, strict=True))

    def admits(self, *used: Amount) -> bool:
        """Whether it is inside the band."""
        filled = any(amount >= limit.floor for amount, limit in zip(used, self.limits, strict=True))
        return filled and self.allows(*used)
