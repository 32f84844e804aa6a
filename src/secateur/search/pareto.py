"""The Pareto front of points whose every objective should be small, and the one point that is taken from it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from secateur.search.objectives import DISPARITY, QUALITY

Values = Float[np.ndarray, "points objectives"]


def pareto_front(values: Values) -> list[int]:
    """Give the points that no other is at least as good as in everything and better in something, ascending."""
    return sorted(NonDominatedSorting().do(values, only_non_dominated_front=True).tolist()) if len(values) else []


def front_after_front(values: Values) -> list[int]:
    """Order all points: those of the Pareto front, those that are the front once these are gone, and so on.

    Inside a front the loneliest come first (crowding distance), so that its ends are never left out.

    Source:
        NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002).
    """
    if len(values) == 0:
        return []
    population = Population.new("F", values, "index", np.arange(len(values)))
    problem = Problem(n_var=1, n_obj=values.shape[1])
    RankAndCrowding().do(problem, population, n_survive=len(values))
    ordered = sorted(population, key=lambda each: (each.get("rank"), -each.get("crowding"), each.get("index")))
    return [int(each.get("index")) for each in ordered]


def spread(values: Values, count: int) -> list[int]:
    """Choose up to `count` points that cover the front best; points behind it only where it has too few.

    The most crowded point goes, the distances are made again, and so on.

    Source:
        Kukkonen and Deb, "Improved pruning of non-dominated solutions based on crowding distance" (CEC 2006).
    """
    if count >= len(values):
        return list(range(len(values)))
    if count <= 0:
        return []
    population = Population([Individual(F=row, index=index) for index, row in enumerate(values)])
    problem = Problem(n_var=1, n_obj=values.shape[1])
    kept = RankAndCrowding(crowding_func="pcd").do(
        problem, population, n_survive=count, random_state=np.random.default_rng(0)
    )
    return sorted(int(each.get("index")) for each in kept)


def knee(values: Values) -> int:
    """Give the point of the front farthest below the straight line (plane) between its ends.

    Objectives are scaled to [0, 1] over the front; the distance then falls with their sum. On a front without a bend it
    is the first of those whose sum is least.

    Source:
        Das, "On characterizing the knee of the Pareto curve based on normal-boundary intersection" (1999).
    """
    front = pareto_front(values)
    low, high = values[front].min(0), values[front].max(0)
    scaled = (values[front] - low) / np.where(high > low, high - low, 1.0)
    return front[int(scaled.sum(1).argmin())]


def least_disparity_within(
    quality: Float[np.ndarray, " points"], disparity: Float[np.ndarray, " points"], within: float
) -> int:
    """Give the point of least disparity among those whose mean perplexity is at most `within` worse than the best's.

    Args:
        quality: Mean log perplexity ratio, so that worse by a share means more by log(1 + share).
    """
    allowed = np.flatnonzero(quality <= quality.min() + math.log1p(within))
    return int(min(allowed, key=lambda index: (disparity[index], quality[index])))


def best_quality(values: Float[np.ndarray, " points"]) -> int:
    return int(values.argmin())


CHOICES: dict[str, Callable[[Mapping[str, Float[np.ndarray, " points"]], float], int]] = {
    "best_quality": lambda columns, _within: best_quality(columns[QUALITY]),
    "knee": lambda columns, _within: knee(np.column_stack(list(columns.values()))),
    "least_disparity": lambda columns, within: least_disparity_within(columns[QUALITY], columns[DISPARITY], within),
}


def choose_point(how: str, points: Sequence[Mapping[str, float]], within: float) -> int:
    """Choose one of several points by name of the rule (`CHOICES`).

    Args:
        points: Objectives by name, the same for all; those that the rule is about are among them.
    """
    return CHOICES[how]({name: np.array([point[name] for point in points]) for name in points[0]}, within)
