"""Draw architectures inside the budget band."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.repair import repair
from secateur.space.search_space import Levels, SearchSpace
from secateur.space.uniform_sampling import draw_alike
from secateur.space.uniform_space import UniformSpace

MAX_ATTEMPTS = 1_000
POOL = 4


def _mean_shares(space: SearchSpace, budget: Budget) -> Float[np.ndarray, " modules"]:
    """Give the kept share around which each module is drawn: what the tightest limit that it counts in leaves."""
    shares = np.ones(space.num_modules)
    dense = budget.used(space.shape, Architecture.dense(space.shape))
    for limit, most in zip(budget.limits, dense, strict=True):
        outside = limit.cost.outside(space.shape)
        counts = [any(costs) for costs in space.table(limit.cost)]
        shares[counts] = np.minimum(shares[counts], (limit.ceiling - outside) / (most - outside))
    return np.clip(shares, 0.02, 0.98)


def sample_architectures(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Architecture]:
    """Draw up to `count` distinct architectures that fill the budget.

    Every draw first picks how unequal its modules are, then each module's kept share around the budget's, so that the
    sample holds both near-uniform architectures and ones with whole blocks gone.
    """
    attempts = MAX_ATTEMPTS + 20 * count
    if isinstance(space, UniformSpace):
        return [space.architecture(levels) for levels in draw_alike(space, budget, count, attempts, seed)]
    rng = np.random.default_rng(seed)
    mean = _mean_shares(space, budget)
    found: dict[str, Architecture] = {}
    for _ in range(attempts):
        if len(found) == count:
            break
        concentration = np.exp(rng.uniform(np.log(1.5), np.log(60.0)))
        shares = rng.beta(mean * concentration, (1 - mean) * concentration)
        drawn = tuple(
            int(np.abs(np.array(options) / max(options[-1], 1) - share).argmin())
            for options, share in zip(space.options, shares, strict=True)
        )
        levels = repair(space, drawn, budget, rng)
        if levels is not None:
            architecture = space.architecture(levels)
            found.setdefault(architecture.key, architecture)
    return list(found.values())


def space_filling(space: SearchSpace, budget: Budget, count: int, known: Sequence[Levels], seed: int) -> list[Levels]:
    """Draw architectures that fill the budget band: each as far as can be from those before it and from `known`.

    Distance is the sum over modules of the difference in kept ratios.

    Source:
        Maximin designs (Johnson, Moore, Ylvisaker 1990), greedily from `POOL` times as many draws.
    """
    pool = [space.levels(architecture) for architecture in sample_architectures(space, budget, POOL * count, seed)]
    pool = [levels for levels in pool if levels not in set(known)]
    if not pool:
        return []
    ratios = [np.array(options) / max(options[-1], 1) for options in space.options]

    def kept(rows: Sequence[Levels]) -> Float[np.ndarray, "rows modules"]:
        return np.column_stack([ratios[module][list(column)] for module, column in enumerate(zip(*rows, strict=True))])

    places, chosen = kept(pool), []
    near = np.full(len(pool), np.inf)
    for row in kept(known) if known else []:
        near = np.minimum(near, np.abs(places - row).sum(1))
    for _ in range(min(count, len(pool))):
        furthest = int(near.argmax())
        chosen.append(pool[furthest])
        near = np.minimum(near, np.abs(places - places[furthest]).sum(1))
        near[furthest] = -1.0
    return chosen
