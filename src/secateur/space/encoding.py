"""Architectures as numbers: the features that predictors learn from, by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from secateur.errors import ConfigError, suggestion
from secateur.model.shape import module_of
from secateur.space.cost import cost_of
from secateur.space.search_space import SearchSpace

# Changes whenever a block of the same name would hold other numbers: what is stored says which it was learned from.
FEATURE_VERSION = 2
# Far from the centre the losses of the modules may take off more than there is; the sum stays a positive loss.
SMALLEST_SUM = 0.1

# One array per module, which differ in their number of options.
Table = tuple[Float[np.ndarray, "_"], ...]


@dataclass(frozen=True)
class Sensitivities:
    """What each module by itself does to a centre at the budget.

    `change[m][i]` is log(KL of the centre with module `m` at its option `i` / KL of the centre); 0 at the centre's own.
    """

    centre: str
    change: Table


@dataclass(frozen=True)
class FeatureSource:
    """What features are made of: tables per module and option, known before the search or measured at its start."""

    space: SearchSpace
    errors: Table
    removed_importance: Table | None = None
    sensitivities: tuple[Sensitivities, ...] = ()


@dataclass(frozen=True)
class Block:
    """Some of the columns: a table per module and option each, or sums of such tables over the modules.

    Attributes:
        tables: Per column group, one number per module and option; empty for an option that cannot be told.
        names: One per column.
        signs: How the loss may depend on each: -1 falls where the feature grows, +1 grows with it, 0 unknown.
        combine: From the looked-up tables, each [candidates, modules], to the columns.
    """

    tables: tuple[Table, ...]
    names: tuple[str, ...]
    signs: tuple[int, ...]
    combine: Callable[..., Float[np.ndarray, "candidates columns"]]


@dataclass(frozen=True)
class FeatureLayout:
    """Which columns there are.

    Attributes:
        names: One per column.
        monotone: Sign of each column's effect on the loss; 0 where it is not known.
        blocks: Columns of each block, by its name.
        additive: Columns that are by themselves estimates of the loss, proportional to it.
    """

    names: tuple[str, ...]
    monotone: tuple[int, ...]
    blocks: Mapping[str, slice]
    additive: tuple[int, ...]

    @property
    def curves(self) -> slice:
        """Columns along which a module's own contribution runs: in measured changes where there are any."""
        return self.blocks.get("sensitivity") or self.blocks.get("kept") or slice(0, len(self.names))


@dataclass(frozen=True)
class FeatureTable:
    """Looks features up from levels."""

    layout: FeatureLayout
    blocks: tuple[Block, ...]
    starts: Int[np.ndarray, " modules"] = field(repr=False)
    flat: tuple[tuple[Float[np.ndarray, " all_options"], ...], ...] = field(repr=False)

    def features(self, levels: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, "candidates features"]:
        """Encode candidates."""
        places = levels + self.starts
        columns = [
            block.combine(*(flat[places] for flat in tables))
            for block, tables in zip(self.blocks, self.flat, strict=True)
        ]
        return np.concatenate(columns, axis=1)


def feature_table(source: FeatureSource, names: Iterable[str] | None = None) -> FeatureTable:
    """Tabulate features for every option of the space.

    Args:
        names: Blocks of `FEATURES`; by default `DEFAULT_FEATURES`, without those that nothing is known for.

    Raises:
        ConfigError: A block is unknown, or nothing is known for it.
    """
    chosen = [name for name in DEFAULT_FEATURES if _available(source, name)] if names is None else list(names)
    for name in chosen:
        if name not in FEATURES:
            raise ConfigError(f"feature block {name!r} is unknown; {suggestion(name, FEATURES)}")
        if not _available(source, name):
            raise ConfigError(f"feature block {name!r} needs what this run has not measured or stored")
    blocks = [FEATURES[name](source) for name in chosen]
    ends = np.cumsum([len(block.names) for block in blocks])
    slices = {
        name: slice(int(end) - len(block.names), int(end))
        for name, block, end in zip(chosen, blocks, ends, strict=True)
    }
    columns = tuple(name for block in blocks for name in block.names)
    layout = FeatureLayout(
        names=columns,
        monotone=tuple(sign for block in blocks for sign in block.signs),
        blocks=slices,
        additive=tuple(
            place for place, name in enumerate(columns) if name == ERROR or name.startswith(f"{SENSITIVITY}.")
        ),
    )
    sizes = [len(options) for options in source.space.options]
    return FeatureTable(
        layout=layout,
        blocks=tuple(blocks),
        starts=np.cumsum([0, *sizes[:-1]]),
        flat=tuple(tuple(np.concatenate(table) for table in block.tables) for block in blocks),
    )


def by_option(space: SearchSpace, values: Sequence[Mapping[int, float]]) -> Table:
    """Turn a mapping per module from width to value into a table."""
    return tuple(
        np.array([module[width] for width in options], dtype=float)
        for module, options in zip(values, space.options, strict=True)
    )


def _modules(space: SearchSpace, prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{layer}.{kind.value}" for layer, kind in map(module_of, range(space.num_modules)))


def _per_module(source: FeatureSource, prefix: str, table: Table, sign: int) -> Block:
    names = _modules(source.space, prefix)
    return Block((table,), names, (sign,) * len(names), lambda values: values)


def _kept(source: FeatureSource) -> Block:
    """The kept ratio of every module: the effective one, what rounding left."""
    groups = [source.space.shape.block(module_of(index)[1]).num_groups for index in range(source.space.num_modules)]
    table = tuple(np.array(options) / count for options, count in zip(source.space.options, groups, strict=True))
    return _per_module(source, "kept", table, -1)


def _gone(source: FeatureSource) -> Block:
    return _per_module(source, "gone", tuple((np.array(options) == 0) * 1.0 for options in source.space.options), +1)


def _error(source: FeatureSource) -> Block:
    """Each module's reconstruction error, in nats."""
    return _per_module(source, "error", source.errors, +1)


def _error_sums(source: FeatureSource) -> Block:
    def combine(errors: Float[np.ndarray, "candidates modules"]) -> Float[np.ndarray, "candidates 3"]:
        attention, mlp = errors[:, ::2].sum(1), errors[:, 1::2].sum(1)
        return np.column_stack([attention, mlp, attention + mlp])

    return Block((source.errors,), ("error.attention", "error.mlp", ERROR), (1, 1, 1), combine)


def _importance(source: FeatureSource) -> Block:
    """The share of each module's importance that is removed."""
    assert source.removed_importance is not None, "only asked for where it is known"
    return _per_module(source, "removed_importance", source.removed_importance, +1)


def _costs(source: FeatureSource) -> Block:
    """Decoder parameters, FLOPs and cache bytes, as shares of the dense model's."""
    space = source.space
    widths = tuple(options[-1] for options in space.options)
    whole = cost_of(space.shape, space.architecture(tuple(len(options) - 1 for options in space.options)))
    kinds = [space.shape.block(module_of(index)[1]) for index in range(space.num_modules)]
    parameters = tuple(np.array(costs) / whole.decoder_parameters for costs in space.parameters)
    flops = tuple(
        np.array([2 * kind.weights_at(width) for width in options]) / whole.flops_per_token
        for options, kind in zip(space.options, kinds, strict=True)
    )
    heads = sum(widths[::2])
    cache = tuple(np.array(options) / heads * (index % 2 == 0) for index, options in enumerate(space.options))
    names = ("cost.decoder_parameters", "cost.flops_per_token", "cost.kv_cache_bytes_per_token")
    return Block(
        (parameters, flops, cache), names, (-1, -1, -1), lambda *values: np.column_stack([v.sum(1) for v in values])
    )


def _sensitivity(source: FeatureSource) -> Block:
    """The change that each module makes to each centre."""
    names = tuple(
        name for each in source.sensitivities for name in _modules(source.space, f"sensitivity.{each.centre}")
    )
    tables = tuple(each.change for each in source.sensitivities)
    return Block(tables, names, (1,) * len(names), lambda *changes: np.concatenate(changes, axis=1))


def _sensitivity_sums(source: FeatureSource) -> Block:
    """The modules' changes to a centre, put together in the two simplest ways: as factors and as summands.

    With r the factor by which a module changes the centre's KL: sum of log r, and 1 + sum of (r - 1).
    """

    def combine(*changes: Float[np.ndarray, "candidates modules"]) -> Float[np.ndarray, "candidates columns"]:
        summed = [np.maximum(1 + np.expm1(change).sum(1), SMALLEST_SUM) for change in changes]
        return np.column_stack([change.sum(1) for change in changes] + summed)

    centres = [each.centre for each in source.sensitivities]
    names = [f"sensitivity.{centre}.product" for centre in centres] + [f"{SENSITIVITY}.{centre}" for centre in centres]
    return Block(tuple(each.change for each in source.sensitivities), tuple(names), (1,) * len(names), combine)


def _available(source: FeatureSource, name: str) -> bool:
    if name.startswith("sensitivity"):
        return bool(source.sensitivities)
    return name != "importance" or source.removed_importance is not None


ERROR, SENSITIVITY = "error", "sensitivity.sum"
FEATURES: dict[str, Callable[[FeatureSource], Block]] = {
    "kept": _kept,
    "error": _error,
    "error_sums": _error_sums,
    "sensitivity": _sensitivity,
    "sensitivity_sums": _sensitivity_sums,
    "importance": _importance,
    "gone": _gone,
    "costs": _costs,
}
# Those that raise the rank correlation at the budget (benchmarks/predictors.py has the ablation).
DEFAULT_FEATURES = ("kept", "error", "error_sums", "sensitivity", "sensitivity_sums")
