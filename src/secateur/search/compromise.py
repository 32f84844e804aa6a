"""Which point of a front is taken, where less disparity has a price: decided on what was made, not on candidates."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from secateur.search.objectives import DISPARITY, QUALITY
from secateur.search.pareto import least_disparity_within, pareto_front

Point = Mapping[str, float]
# By how much a price may be off, as a factor.
MOST_OFF = 4.0


def least_disparity_made(
    points: Sequence[Point], make: Callable[[int], Point], within: float, most: int
) -> tuple[int, dict[int, Point]]:
    """Choose the least disparity at no more than `within` worse mean perplexity, both of models made as the result is.

    What is made later than a candidate's measurement, reconstruction on all of the calibration text and gains, helps
    architectures of good quality more than those of little disparity, so that a price as searched is not the price
    that is paid (docs/log.md). The best quality is made first; then the least disparity that promises to be within the
    price if that is off by the same factor as the prices of those before it.

    Args:
        points: Objectives of every measured architecture, as searched.
        make: Makes point `i` and gives its objectives as it is then.
        most: How many are made, the best quality included.

    Returns:
        Index of the chosen point, and the objectives of all that were made, by index.
    """
    quality, disparity = (np.array([point[name] for point in points]) for name in (QUALITY, DISPARITY))
    front = sorted(pareto_front(np.column_stack([quality, disparity])), key=lambda index: quality[index])
    best = front[0]
    made = {best: make(best)}
    while len(made) < most:
        searched = sum(quality[index] - quality[best] for index in made)
        paid = sum(point[QUALITY] - made[best][QUALITY] for point in made.values())
        factor = min(max(paid / searched, 1 / MOST_OFF), MOST_OFF) if searched > 0 else 1.0
        allowed = math.log1p(within) / factor
        chosen = _chosen(made, within)
        left = [
            index
            for index in front
            if index not in made and quality[index] - quality[best] <= allowed and disparity[index] < disparity[chosen]
        ]
        if not left:
            break
        next_one = min(left, key=lambda index: disparity[index])
        made[next_one] = make(next_one)
    return _chosen(made, within), made


def _chosen(made: Mapping[int, Point], within: float) -> int:
    indices = list(made)
    quality, disparity = (np.array([made[index][name] for index in indices]) for name in (QUALITY, DISPARITY))
    return indices[least_disparity_within(quality, disparity, within)]
