"""The additive optimum of losses that are estimated at the budget: a candidate before anything is measured."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from secateur.pruning.single_changes import SingleChanges
from secateur.search.additive import additive_optimum
from secateur.search.uniform import nearest_levels, uniform_architectures
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.sampling import repair
from secateur.space.search_space import Levels, SearchSpace

# Optima that become centres themselves. The first gain most; from the fifth on they repeat or go in circles.
ROUNDS = 4
# What it is called among the heuristics.
ESTIMATED = "estimated"

Estimate = Callable[[Architecture], SingleChanges | None]


def estimated_optimum(space: SearchSpace, budget: Budget, estimate: Estimate) -> Architecture | None:
    """Give the best architecture that single changes to those at the budget lead to.

    Estimates are made around the uniform architectures; then, `ROUNDS` times, around the additive optimum of the mean
    of all estimates so far. That is a loss per module and width up to a constant per module, whatever the centres. One
    estimate alone is too sure of itself where it looks far: the optimum of several is nearer to what they agree on.

    Returns:
        Of the optima the one with the least loss, which every estimate measures by the way; None where there is no
        estimate or no optimum.

    Source:
        Sequential quadratic models of a loss whose trust region is the memory of all models before.
    """
    rng = np.random.default_rng(0)
    near = (nearest_levels(space, architecture) for architecture in uniform_architectures(space.shape, budget))
    repaired = (repair(space, levels, budget, rng) for levels in near)
    centres = list(dict.fromkeys(levels for levels in repaired if levels is not None))
    found = [estimate(space.architecture(levels)) for levels in centres]
    known = [each for each in found if each is not None]
    losses: dict[Levels, float] = {}
    while known and len(losses) < ROUNDS:
        optimum = additive_optimum(space, budget, _mean(space, known))
        if optimum is None or optimum in losses:
            break
        around = estimate(space.architecture(optimum))
        assert around is not None, "what can be estimated is the model's"
        losses[optimum] = around.loss
        known.append(around)
    return space.architecture(min(losses, key=lambda levels: (losses[levels], levels))) if losses else None


def _mean(space: SearchSpace, known: Sequence[SingleChanges]) -> list[Mapping[int, float]]:
    return [
        {width: float(np.mean([each.changes[module][width] for each in known])) for width in options}
        for module, options in enumerate(space.options)
    ]
