"""Draw architectures of which several share their first modules."""

from collections.abc import Sequence

from secateur.schema import derive_seed
from secateur.space.cost import Budget
from secateur.space.sampling import sample_architectures, space_filling
from secateur.space.search_space import Levels, SearchSpace
from secateur.space.uniform_space import UniformSpace

# Of all modules, the first that are shared, and how many architectures share them: more of either cost the predictor
# some of its rank correlation (benchmarks/sharing.py, docs/log.md).
SHARED = 1 / 3
EACH = 2


def stem_filling(space: SearchSpace, budget: Budget, count: int, known: Sequence[Levels], seed: int) -> list[Levels]:
    """Draw architectures that fill the budget band, of which `EACH` share the levels of their first modules.

    The first of each are far from each other and from `known`, as `space_filling` draws them; another keeps the first
    third of its modules and fills the band with the rest. Measured one after the other, those that share are run from
    where they differ. Layers that are all alike share nothing that way, and are drawn as `space_filling` draws them.
    """
    if isinstance(space, UniformSpace):
        return space_filling(space, budget, count, known, seed)
    depth = round(SHARED * space.num_modules)
    found: dict[Levels, None] = {}
    for index, stem in enumerate(space_filling(space, budget, -(-count // EACH), known, seed)):
        kept = tuple((options[level],) for options, level in zip(space.options[:depth], stem[:depth], strict=True))
        rest = SearchSpace(space.shape, (*kept, *space.options[depth:]))
        drawn = sample_architectures(rest, budget, 2 * EACH, derive_seed(seed, "stem", index))
        own = dict.fromkeys([stem, *(space.levels(architecture) for architecture in drawn)])
        found |= dict.fromkeys([levels for levels in own if levels not in known][:EACH])
    if len(found) < count:
        # A stem may leave nothing else to draw.
        more = space_filling(space, budget, count - len(found), [*known, *found], derive_seed(seed, "rest"))
        found |= dict.fromkeys(more)
    return list(found)[:count]
