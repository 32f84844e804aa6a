"""Change an architecture step by step, and bring it back into the budget band."""

import numpy as np

from secateur.space.cost import Amount, Budget
from secateur.space.search_space import CostTable, Levels, SearchSpace
from secateur.space.uniform_sampling import mutate_alike, repair_alike
from secateur.space.uniform_space import UniformSpace

MAX_EXCHANGES = 16


def repair(space: SearchSpace, levels: Levels, budget: Budget, rng: np.random.Generator) -> Levels | None:
    """Move an architecture into the budget band by random single steps.

    Down while a limit is exceeded, in modules that count in it, then up while a step fits into all limits; where the
    smallest step is larger than the band, one module up and another down by steps of different cost, until what is
    left is small enough.

    Returns:
        Levels inside the band, or None where random steps got stuck outside it. In a space of layers alike the
        architecture of the band that is nearest.
    """
    if isinstance(space, UniformSpace):
        return repair_alike(space, levels, budget, rng)
    tables = [space.table(limit.cost) for limit in budget.limits]
    ceilings = [limit.ceiling for limit in budget.limits]
    current = list(levels)
    used = list(space.used(budget, levels))

    for index, table in enumerate(tables):
        while used[index] > ceilings[index]:
            above = [
                module for module, level in enumerate(current) if level and table[module][level] > table[module][0]
            ]
            if not above:
                return None
            _move(tables, current, used, above[rng.integers(len(above))], -1)
    _fill(tables, ceilings, current, used, rng)
    for _ in range(MAX_EXCHANGES):
        if budget.admits(*used):
            break
        pair = _exchange(tables, current, budget, used, rng)
        if pair is None:
            break
        _move(tables, current, used, pair[0], 1)
        _move(tables, current, used, pair[1], -1)
        if len(tables) > 1:
            # What an exchange frees of one limit may be what another step lacked.
            _fill(tables, ceilings, current, used, rng)
    if any(isinstance(amount, float) for amount in used):
        # Times are summed anew: what single steps leave of them is right to rounding only.
        used = list(space.used(budget, tuple(current)))
    return tuple(current) if budget.admits(*used) else None


def _move(tables: list[CostTable], levels: list[int], used: list[Amount], module: int, step: int) -> None:
    """Change a module's level and what is used of each limit, in place."""
    level = levels[module]
    for index, table in enumerate(tables):
        used[index] += table[module][level + step] - table[module][level]
    levels[module] = level + step


def _fill(
    tables: list[CostTable],
    ceilings: list[Amount],
    levels: list[int],
    used: list[Amount],
    rng: np.random.Generator,
) -> None:
    """Raise random modules while a step fits into all limits."""
    fitting = list(range(len(levels)))
    while True:
        # What did not fit before does not fit now: there is less left, and steps of other modules alone were made.
        for table, ceiling, amount in zip(tables, ceilings, used, strict=True):
            left = ceiling - amount
            fitting = [
                module
                for module in fitting
                if (level := levels[module] + 1) < len(costs := table[module])
                and costs[level] - costs[level - 1] <= left
            ]
        if not fitting:
            return
        _move(tables, levels, used, fitting[rng.integers(len(fitting))], 1)


def _exchange(
    tables: list[CostTable], levels: list[int], budget: Budget, used: list[Amount], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Choose a module to raise and another to lower by which more of the budget is used, and no limit exceeded.

    Returns:
        Both modules; None where no pair of steps fits.
    """
    fits = ~np.eye(len(levels), dtype=bool)
    grown_shares = np.zeros(fits.shape)
    for table, limit, amount in zip(tables, budget.limits, used, strict=True):
        up = np.array([np.inf] * len(levels))
        down = np.array([-np.inf] * len(levels))
        for module, (level, costs) in enumerate(zip(levels, table, strict=True)):
            if level + 1 < len(costs):
                up[module] = costs[level + 1] - costs[level]
            if level > 0:
                down[module] = costs[level] - costs[level - 1]
        grown = up[:, None] - down[None, :]
        fits &= grown <= limit.ceiling - amount
        grown_shares += grown / max(limit.ceiling, 1e-12)
    raised, lowered = np.nonzero(fits & (grown_shares > 0))
    if len(raised) == 0:
        return None
    pair = rng.integers(len(raised))
    return int(raised[pair]), int(lowered[pair])


def mutate(
    space: SearchSpace, levels: Levels, budget: Budget, num_switches: int, rng: np.random.Generator
) -> Levels | None:
    """Switch levels (one module up, another down, `num_switches` times) and repair into the band.

    Source:
        EvoPress (arXiv 2410.14649) keeps the budget by paired level switches; ours allows steps of one or two levels
        and repairs what modules of different cost leave over.
    """
    if isinstance(space, UniformSpace):
        return mutate_alike(space, levels, budget, num_switches, rng)
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
