"""A planted optimum is found, and a predictor fed noise reports poor quality instead of confidence."""

from functools import cache

import numpy as np
import pytest

from planted import BUDGET, NUM_MEASUREMENTS, SPACE, PlantedProblem
from secateur.search.methods import SEARCHES
from secateur.search.rounds import search_rounds
from secateur.space.sampling import sample_architectures


@cache
def searched(seed, method="secateur"):
    """A problem and what a search of it found; made once."""
    problem = PlantedProblem(seed)
    return problem, SEARCHES[method](problem.task(seed=seed))


@cache
def chance(seed):
    """The best of as many random draws, five times: one set may be lucky, the median is what chance gives."""
    problem = PlantedProblem(seed)
    return [
        min(sample_architectures(SPACE, BUDGET, NUM_MEASUREMENTS, seed=100 * seed + draw), key=problem.kl_of)
        for draw in range(5)
    ]


LEARNING = sorted(set(SEARCHES) - {"random"})
SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", LEARNING)
def test_every_search_finds_much_less_loss_than_chance(method, seed):
    problem, found = searched(seed, method)
    assert problem.kl_of(found.best.architecture) < 0.5 * np.median([problem.kl_of(each) for each in chance(seed)])


@pytest.mark.parametrize("method", LEARNING)
def test_every_search_comes_much_closer_to_a_planted_optimum_than_chance(method):
    """Over the seeds together: where a few modules hardly matter, little loss can be far away."""
    distances = [problem.distance(found.best.architecture) for problem, found in (searched(s, method) for s in SEEDS)]
    by_chance = [np.median([PlantedProblem(seed).distance(each) for each in chance(seed)]) for seed in SEEDS]
    assert sum(distances) < 0.7 * sum(by_chance)


@pytest.mark.parametrize("method", SEARCHES)
def test_every_measurement_is_spent_once(method):
    problem, found = searched(0, method)
    assert len(problem.measured) == len(set(problem.measured)) == found.num_measurements == NUM_MEASUREMENTS


@pytest.mark.parametrize("method", SEARCHES)
def test_what_is_found_is_inside_the_band_and_the_best_of_all_that_is(method):
    problem, found = searched(0, method)
    assert all(problem.admits(measurement.architecture) for measurement in found.measurements)
    assert found.best.kl == min(measurement.kl for measurement in found.measurements)


@pytest.mark.parametrize("method", SEARCHES)
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(method):
    one, two, other = PlantedProblem(0), PlantedProblem(0), PlantedProblem(0)
    for problem, seed in ((one, 5), (two, 5), (other, 6)):
        SEARCHES[method](problem.task(seed=seed, num_measurements=40, num_rounds=1))
    assert one.batches == two.batches
    assert set(one.measured) != set(other.measured)


def test_the_predictor_gets_better_with_the_rounds_and_says_so():
    _, found = searched(0)
    qualities = [record.quality for record in found.rounds]
    assert qualities[-1].kendall_tau > 0.5
    assert [quality.num_pairs for quality in qualities] == sorted({quality.num_pairs for quality in qualities})
    best = [record.best_kl for record in found.rounds]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_predictor_fed_noise_does_not_claim_to_rank(seed):
    found = search_rounds(PlantedProblem(seed, noise=1.0).task(seed=seed, num_rounds=2))
    assert abs(found.rounds[-1].quality.kendall_tau) < 0.25


@pytest.mark.parametrize("method", SEARCHES)
def test_the_order_of_measuring_changes_nothing(method):
    (straight, first), turned = searched(0, method), PlantedProblem(0)
    second = SEARCHES[method](turned.task(measure=lambda batch: turned.measure(batch[::-1])[::-1]))
    assert set(straight.measured) == set(turned.measured)
    assert first.best == second.best
    assert first.rounds == second.rounds
