"""Draw architectures inside the budget band."""

import numpy as np

from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.search_space import Levels, SearchSpace

MAX_ATTEMPTS = 1_000
MAX_EXCHANGES = 16


def repair(space: SearchSpace, levels: Levels, budget: Budget, rng: np.random.Generator) -> Levels | None:
    """Move an architecture into the budget band by random single steps.

    Down while above, then up while one fits; where the smallest step is larger than the band, one module up and another
    down by steps of different cost, until what is left is small enough.

    Returns:
        Levels inside the band, or None where random steps got stuck below it.
    """
    current = list(levels)
    cost = space.decoder_parameters(levels)
    while cost > budget.ceiling:
        above_zero = [module for module, level in enumerate(current) if level > 0]
        module = above_zero[rng.integers(len(above_zero))]
        cost -= space.parameters[module][current[module]] - space.parameters[module][current[module] - 1]
        current[module] -= 1
    while True:
        left = budget.ceiling - cost
        fitting = [
            (module, costs[level + 1] - costs[level])
            for module, (level, costs) in enumerate(zip(current, space.parameters, strict=True))
            if level + 1 < len(costs) and costs[level + 1] - costs[level] <= left
        ]
        if not fitting:
            break
        module, step = fitting[rng.integers(len(fitting))]
        current[module] += 1
        cost += step
    for _ in range(MAX_EXCHANGES):
        if budget.admits(cost):
            break
        gained = _exchange(space, current, budget.ceiling - cost, rng)
        if gained == 0:
            break
        cost += gained
    return tuple(current) if budget.admits(cost) else None


def _exchange(space: SearchSpace, levels: list[int], left: int, rng: np.random.Generator) -> int:
    """Raise one module and lower another, in place, so that the cost grows by at most `left`.

    Returns:
        How much the cost has grown; 0 where no pair of steps fits.
    """
    up = np.array([np.inf] * len(levels))
    down = np.array([-np.inf] * len(levels))
    for module, (level, costs) in enumerate(zip(levels, space.parameters, strict=True)):
        if level + 1 < len(costs):
            up[module] = costs[level + 1] - costs[level]
        if level > 0:
            down[module] = costs[level] - costs[level - 1]
    grown = up[:, None] - down[None, :]
    np.fill_diagonal(grown, 0)
    raised, lowered = np.nonzero((grown > 0) & (grown <= left))
    if len(raised) == 0:
        return 0
    pair = rng.integers(len(raised))
    levels[raised[pair]] += 1
    levels[lowered[pair]] -= 1
    return int(grown[raised[pair], lowered[pair]])


def sample_architectures(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Architecture]:
    """Draw up to `count` distinct architectures that fill the budget.

    Every draw first picks how unequal its modules are, then each module's kept share around the budget's, so that the
    sample holds both near-uniform architectures and ones with whole blocks gone.
    """
    rng = np.random.default_rng(seed)
    mean = min(max(budget.ceiling / space.shape.decoder_parameters, 0.02), 0.98)
    found: dict[str, Architecture] = {}
    for _ in range(MAX_ATTEMPTS + 20 * count):
        if len(found) == count:
            break
        concentration = np.exp(rng.uniform(np.log(1.5), np.log(60.0)))
        shares = rng.beta(mean * concentration, (1 - mean) * concentration, size=space.num_modules)
        drawn = tuple(
            int(np.abs(np.array(options) / options[-1] - share).argmin())
            for options, share in zip(space.options, shares, strict=True)
        )
        levels = repair(space, drawn, budget, rng)
        if levels is not None:
            architecture = space.architecture(levels)
            found.setdefault(architecture.key, architecture)
    return list(found.values())


def mutate(
    space: SearchSpace, levels: Levels, budget: Budget, num_switches: int, rng: np.random.Generator
) -> Levels | None:
    """Switch levels (one module up, another down, `num_switches` times) and repair into the band.

    Source:
        EvoPress (arXiv 2410.14649) keeps the budget by paired level switches; ours allows steps of one or two levels
        and repairs what modules of different cost leave over.
    """
    current = list(levels)
    highest = [len(options) - 1 for options in space.options]
    for _ in range(num_switches):
        up = [module for module, level in enumerate(current) if level < highest[module]]
        down = [module for module, level in enumerate(current) if level > 0]
        if not up or not down:
            break
        raised = up[rng.integers(len(up))]
        others = [module for module in down if module != raised]
        lowered = others[rng.integers(len(others))] if others else raised
        current[raised] = min(current[raised] + int(rng.integers(1, 3)), highest[raised])
        current[lowered] = max(current[lowered] - int(rng.integers(1, 3)), 0)
    return repair(space, tuple(current), budget, rng)
