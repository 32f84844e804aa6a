"""Additive sensitivities: every module measured by itself, and an exact integer program over their sum (Puzzle)."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.schema import derive_seed
from secateur.search.task import Found, SearchTask, ranked
from secateur.space.candidate import Measurement
from secateur.space.cost import Budget
from secateur.space.repair import repair
from secateur.space.search_space import Levels, SearchSpace
from secateur.space.uniform_space import UniformSpace

# Measurements kept back for solutions of the integer program.
FEWEST_SOLUTIONS = 10
# Relative noise on the losses grows by this much whenever it brings no new solution.
NOISE_STEP = 0.01
MAX_SOLVES_PER_SOLUTION = 5


def additive_search(task: SearchTask) -> Found:
    """Measure every module at several widths with all others dense, then the solutions of the integer program.

    Where the measurements do not allow every width, widths are spread evenly and the losses between them interpolated.
    The exact optimum is measured first; measurements that are left go to optima of slightly perturbed losses, and the
    best measured is taken.

    Source:
        Puzzle (arXiv 2411.19146), "replace one block" scores with KL to the dense model; it builds the one best
        solution and measures no others.
    """
    space = task.space
    dense = tuple(len(options) - 1 for options in space.options)
    free = [module for module, options in enumerate(space.options) if len(options) > 1]
    per_module = max(1, (task.num_measurements - FEWEST_SOLUTIONS) // max(1, len(free)))
    single = []
    for module in free:
        below = dense[module]  # all levels but the dense one
        for level in sorted({int(level) for level in np.linspace(0, below, per_module, endpoint=False)}):
            single.append((module, level))
    candidates = [task.candidate((*dense[:m], level, *dense[m + 1 :]), "single") for m, level in single]
    probes = task.measure(candidates)
    losses = _interpolated(space, dict(zip(single, probes, strict=True)))
    known = {candidate.architecture.key for candidate in candidates}
    solutions = [
        levels
        for levels in _solutions(task, losses, task.num_measurements - len(probes))
        if space.architecture(levels).key not in known
    ]
    measured = task.measure([task.candidate(levels, "additive") for levels in solutions])
    return Found(measured, ranked(measured), probes=probes)


def _solutions(task: SearchTask, losses: Sequence[Mapping[int, float]], count: int) -> list[Levels]:
    """Give up to `count` distinct solutions, the exact one first; the others come from ever more perturbed losses."""
    rng = np.random.default_rng(derive_seed(task.seed, "additive"))
    found: dict[Levels, None] = {}
    noise = 0.0
    for _ in range(MAX_SOLVES_PER_SOLUTION * count):
        if len(found) == count:
            break
        perturbed = [
            {width: loss * max(0.0, 1 + noise * rng.standard_normal()) for width, loss in module.items()}
            for module in losses
        ]
        levels = additive_optimum(task.space, task.budget, perturbed)
        if levels is None:
            break
        if levels in found or noise == 0:
            noise += NOISE_STEP
        found[levels] = None
    return list(found)


def _interpolated(space: SearchSpace, probes: Mapping[tuple[int, int], Measurement]) -> list[dict[int, float]]:
    """Give every width of every module a loss: measured, or linear between the nearest measured ones; dense is 0."""
    losses = []
    for module, options in enumerate(space.options):
        known = {options[-1]: 0.0} | {
            options[level]: probe.kl for (at, level), probe in probes.items() if at == module and probe.kl is not None
        }
        widths = sorted(known)
        values = [known[width] for width in widths]
        losses.append(dict(zip(options, np.interp(options, widths, values).tolist(), strict=True)))
    return losses


def additive_optimum(space: SearchSpace, budget: Budget, losses: Sequence[Mapping[int, float]]) -> Levels | None:
    """Give the architecture with the least summed loss within the budget.

    With one limit the program asks for an architecture of the band. With several it asks for none to be exceeded; where
    the optimum uses none of them up, what still fits is added.

    Args:
        losses: Per module, loss per width; they are taken to add up.

    Returns:
        Levels, or None where nothing is inside the band.

    Source:
        Puzzle (arXiv 2411.19146) scores blocks one by one and solves an integer program over their sum.
    """
    if isinstance(space, UniformSpace):
        return _alike_optimum(space, budget, losses)
    sizes = [len(options) for options in space.options]
    loss = np.concatenate(
        [[losses[module][width] for width in options] for module, options in enumerate(space.options)]
    )
    one_each = np.zeros((space.num_modules, len(loss)))
    for module, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        one_each[module, start : start + sizes[module]] = 1
    with _without_output():
        solution = milp(
            loss / max(loss.max(), 1e-30),
            integrality=np.ones(len(loss)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), *_constraints(space, budget)],
            options={"mip_rel_gap": 1e-4},
        )
    if solution.x is None:
        return None
    chosen = tuple(int(part.argmax()) for part in np.split(solution.x, np.cumsum(sizes)[:-1]))
    if budget.admits(*space.used(budget, chosen)):
        return chosen
    return repair(space, chosen, budget, np.random.default_rng(0)) if len(budget.limits) > 1 else None


def _alike_optimum(space: UniformSpace, budget: Budget, losses: Sequence[Mapping[int, float]]) -> Levels | None:
    """Give the same among layers alike: of every size, the layers whose loss it lowers most stay."""
    tables = [[module[width] for width in options] for module, options in zip(losses, space.options, strict=True)]
    layers = range(space.shape.num_layers)
    best, least = None, np.inf
    for size in space.sizes(budget):
        gone = [tables[2 * layer][0] + tables[2 * layer + 1][0] for layer in layers]
        kept = [tables[2 * layer][size.heads] + tables[2 * layer + 1][size.ffn] for layer in layers]
        worth = np.subtract(gone, kept)
        chosen = space.worth_most(size, worth)
        loss = sum(gone) - sum(worth[layer] for layer in chosen)
        if loss < least:
            best, least = space.put_together(size, chosen), loss
    return best


def _constraints(space: SearchSpace, budget: Budget) -> list[LinearConstraint]:
    """Give a linear constraint per limit, in a unit of its own: HiGHS scales badly over nine orders of magnitude."""
    constraints = []
    for limit in budget.limits:
        cost = np.concatenate([np.array(costs, dtype=float) for costs in space.table(limit.cost)])
        outside = limit.cost.outside(space.shape)
        floor = limit.floor - outside if len(budget.limits) == 1 else -np.inf
        ceiling = limit.ceiling - outside
        if isinstance(ceiling, int):
            # Counts in their common unit.
            unit = float(max(np.gcd.reduce(cost.astype(np.int64)), 1))
            constraints.append(LinearConstraint(cost[None, :] / unit, np.ceil(floor / unit), np.floor(ceiling / unit)))
        else:
            unit = max(float(cost.max()), 1e-30) / 1_000
            constraints.append(LinearConstraint(cost[None, :] / unit, floor / unit, ceiling / unit))
    return constraints


@contextmanager
def _without_output() -> Iterator[None]:
    """Send what C code prints nowhere: HiGHS writes a debugging line to standard output, whatever its options say."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
