"""What is left of a search space after choices have been taken out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from secateur.model.shape import BlockKind, module_of
from secateur.schema import Record
from secateur.space.search_space import Levels, SearchSpace


class Choice(Record):
    """One module at one width, in kept groups."""

    module: int
    layer: int
    kind: BlockKind
    width: int

    @classmethod
    def of(cls, space: SearchSpace, module: int, level: int) -> "Choice":
        layer, kind = module_of(module)
        return cls(module=module, layer=layer, kind=kind, width=space.options[module][level])


class Removed(Choice):
    """A choice that has left the space, alone or (order 2) together with a partner, and why."""

    order: Literal[1, 2]
    partner: Choice | None = Field(None, description="of order 2: neither has left, but they are not chosen together")
    mean_effect: float = Field(description="on the predicted loss at a fixed budget; beyond both alone for order 2")
    low: float = Field(description="lower confidence bound of the effect, above 0")
    num_samples: int = Field(description="architectures drawn over the budget band that the mean is over")
    round: int


@dataclass(frozen=True)
class SmallerSpace:
    """What is left of a search space.

    Levels stay indices of the whole space, so features, bank and measurements keep their meaning.

    Attributes:
        allowed: Per module.
        pairs: (module, level, module, level) that are not chosen together.
    """

    allowed: tuple[frozenset[int], ...]
    pairs: frozenset[tuple[int, int, int, int]] = frozenset()
    removed: tuple[Removed, ...] = ()

    @classmethod
    def of(cls, space: SearchSpace, removed: Sequence[Removed] = ()) -> "SmallerSpace":
        """Give the whole space, less what has been removed from it."""
        smaller = cls(tuple(frozenset(range(len(options))) for options in space.options))
        for each in removed:
            smaller = smaller.without(space, each)
        return smaller

    def without(self, space: SearchSpace, removed: Removed) -> "SmallerSpace":
        """Take one more choice, or pair of choices, out."""
        level = space.options[removed.module].index(removed.width)
        everything = (*self.removed, removed)
        if removed.partner is not None:
            partner = removed.partner
            pair = (removed.module, level, partner.module, space.options[partner.module].index(partner.width))
            return replace(self, pairs=self.pairs | {pair}, removed=everything)
        allowed = list(self.allowed)
        allowed[removed.module] -= {level}
        return replace(self, allowed=tuple(allowed), removed=everything)

    def admits(self, levels: Levels) -> bool:
        return bool(self.admitted(np.array([levels]))[0])

    def admitted(self, rows: Int[np.ndarray, "candidates modules"]) -> Bool[np.ndarray, " candidates"]:
        """Say which candidates are left."""
        inside = np.ones(len(rows), dtype=bool)
        for column, levels in zip(rows.T, self.allowed, strict=True):
            inside &= np.isin(column, list(levels))
        for module, level, other, other_level in self.pairs:
            inside &= (rows[:, module] != level) | (rows[:, other] != other_level)
        return inside

    def feasible_share(self, drawn: Int[np.ndarray, "candidates modules"]) -> float:
        """Estimate how much of the budget band is left, from architectures drawn over all of it."""
        return float(self.admitted(drawn).mean())
