"""The space of architectures whose layers are all alike: what every stock class holds. Whole layers may go."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from secateur.model.shape import DenseShape
from secateur.space.cost import COSTS, Amount, Budget, ModuleCost
from secateur.space.search_space import Levels, SearchSpace

ATTENTION, MLP = 0, 1
Places = Float[np.ndarray, "sizes 3"]


class Size(NamedTuple):
    """How many layers stay, and the levels of attention and MLP in each of them."""

    num_layers: int
    heads: int
    ffn: int


@dataclass(frozen=True)
class UniformSpace(SearchSpace):
    """Architectures of layers that are all alike, or gone.

    Every layer has the same options, and level 0 is a block that is gone: both blocks of a layer go together.

    Attributes:
        protected: Layers that stay.
    """

    protected: frozenset[int] = frozenset()
    _sizes: dict[Budget, tuple[Size, ...]] = field(init=False, default_factory=dict, compare=False, repr=False)
    _places: dict[Budget, Places] = field(init=False, default_factory=dict, compare=False, repr=False)

    def sizes(self, budget: Budget) -> tuple[Size, ...]:
        """Give every size inside the budget band."""
        if budget not in self._sizes:
            layers, heads, ffn = np.meshgrid(
                np.arange(max(1, len(self.protected)), self.shape.num_layers + 1),
                np.arange(1, len(self.options[ATTENTION])),
                np.arange(1, len(self.options[MLP])),
                indexing="ij",
            )
            allowed, filled = np.ones(layers.shape, dtype=bool), np.zeros(layers.shape, dtype=bool)
            for limit in budget.limits:
                table = self.table(limit.cost)
                of_layer = np.array(table[ATTENTION])[heads] + np.array(table[MLP])[ffn]
                used = layers * of_layer + limit.cost.outside(self.shape)
                allowed &= used <= limit.ceiling
                filled |= used >= limit.floor
            inside = np.argwhere(allowed & filled)
            self._sizes[budget] = tuple(Size(*(int(axis[tuple(at)]) for axis in (layers, heads, ffn))) for at in inside)
        return self._sizes[budget]

    def places(self, budget: Budget) -> Places:
        """Give the shares of layers, heads and channels that every size of the band keeps."""
        if budget not in self._places:
            shares = [[size.num_layers / self.shape.num_layers, *self.kept(size[1:])] for size in self.sizes(budget)]
            self._places[budget] = np.array(shares).reshape(-1, 3)
        return self._places[budget]

    def kept(self, pair: tuple[int, int]) -> tuple[float, float]:
        """Give the shares of heads and channels that a layer keeps at two levels."""
        heads, ffn = (options[level] / options[-1] for options, level in zip(self.options, pair, strict=False))
        return heads, ffn

    def count(self, budget: Budget) -> int:
        """Count the architectures inside the budget band."""
        free = self.shape.num_layers - len(self.protected)
        return sum(math.comb(free, size.num_layers - len(self.protected)) for size in self.sizes(budget))

    def put_together(self, size: Size, layers: Collection[int]) -> Levels:
        """Give the architecture that keeps these layers, each at a size."""
        of_layer = ((size.heads, size.ffn) if layer in layers else (0, 0) for layer in range(self.shape.num_layers))
        return tuple(level for pair in of_layer for level in pair)

    def worth_most(self, size: Size, worth: Float[np.ndarray, " layers"]) -> tuple[int, ...]:
        """Give as many layers as a size has: the protected ones, then those that are worth most."""
        order = sorted(range(len(worth)), key=lambda layer: (layer not in self.protected, -worth[layer]))
        return tuple(sorted(order[: size.num_layers]))

    def taken_apart(self, levels: Levels) -> tuple[Size, tuple[int, ...]] | None:
        """Give the size of an architecture and the layers that it keeps; None where the layers differ."""
        pairs = list(zip(levels[::2], levels[1::2], strict=True))
        layers = tuple(layer for layer, pair in enumerate(pairs) if pair != (0, 0))
        alike = {pairs[layer] for layer in layers}
        if len(alike) != 1 or 0 in next(iter(alike)):
            return None
        return Size(len(layers), *next(iter(alike))), layers

    def at(self, budget: Budget, most: int | None = None) -> "UniformSpace":
        """Give the space without widths that no architecture of the band has; the dense one stays.

        Args:
            most: Of the others, so many are left at most, from the narrowest to the widest: a weight bank holds each.
        """
        used = sorted({self.options[MLP][size.ffn] for size in self.sizes(budget)})
        if most is not None and len(used) > most:
            used = [used[place] for place in np.linspace(0, len(used) - 1, most).round().astype(int)]
        widths = tuple(sorted({0, self.shape.ffn_width, *used}))
        return replace(self, options=(self.options[ATTENTION], widths) * self.shape.num_layers)

    def smallest_step(self, cost: ModuleCost) -> Amount:
        """Give the cheapest step that all layers take together.

        In a band so wide there is an FFN width for any number of layers and heads that leave room for one.
        """
        table = self.table(cost)[: MLP + 1]
        steps = [high - low for costs in table for low, high in pairwise(costs[1:]) if high > low]
        return self.shape.num_layers * min(steps, default=0)

    def nearest_keep(self, budget: Budget) -> float:
        heads, ffn = (np.array(self.parameters[block][1:]) for block in (ATTENTION, MLP))
        layers = np.arange(max(1, len(self.protected)), self.shape.num_layers + 1)
        reachable = np.unique(layers[:, None, None] * (heads[:, None] + ffn[None, :])[None])
        inside = reachable[(reachable >= budget.floor) & (reachable <= budget.ceiling)]
        nearest = inside.max() if len(inside) else reachable[np.abs(reachable - budget.ceiling).argmin()]
        return float(nearest / self.shape.decoder_parameters)

    @property
    def smallest(self) -> Levels:
        """As few layers as may be, each as narrow as may be."""
        return self.put_together(Size(max(1, len(self.protected)), 1, 1), self.protected or {0})


def define_uniform_space(
    shape: DenseShape,
    heads: Collection[int],
    widths: Collection[int],
    protect_first: int = 0,
    protect_last: int = 0,
    costs: Mapping[str, ModuleCost] = COSTS,
) -> UniformSpace:
    """Define the space of layers alike.

    Args:
        heads: KV-head counts that the stock classes hold.
        widths: FFN widths.
        protect_first: Number of layers at the start that stay; they are narrowed as the others are.
        protect_last: Number of layers at the end that stay.
        costs: What can be told of the space's architectures.
    """
    options = (tuple(sorted({0, *heads})), tuple(sorted({0, *widths})))
    last = range(shape.num_layers - protect_last, shape.num_layers)
    return UniformSpace(
        shape=shape,
        options=options * shape.num_layers,
        costs=costs,
        protected=frozenset((*range(protect_first), *last)),
    )
