import numpy as np
import pytest

from planted import BUDGET, SHAPE, SPACE, PlantedProblem, Problem
from secateur.search.evolution import HALVED_OFFSPRING, OFFSPRING, SURVIVORS, evolutionary_search
from secateur.search.halving import halve, rungs, whole_measurements
from secateur.search.random_search import random_search
from secateur.search.uniform import uniform_architectures
from secateur.space.cost import Budget
from secateur.space.search_space import define_space


@pytest.mark.parametrize("num_measurements", [25, 33, 90])
def test_exactly_as_many_architectures_are_measured_as_were_allowed_and_none_twice(num_measurements):
    problem = PlantedProblem(1)
    found = evolutionary_search(problem.task(num_measurements=num_measurements))
    assert len(set(problem.measured)) == len(problem.measured) == found.num_measurements == num_measurements
    assert not found.probes


def test_all_are_inside_the_band():
    problem = PlantedProblem(1)
    assert all(problem.admits(m.architecture) for m in evolutionary_search(problem.task()).measurements)


def test_it_starts_from_uniform_and_goes_on_in_generations():
    problem = PlantedProblem(1)
    evolutionary_search(problem.task(num_measurements=30))
    start, *generations = problem.batches
    assert {candidate.origin for candidate in start} == {"uniform"}
    uniform = [architecture.kept_ratios(SHAPE) for architecture in uniform_architectures(SHAPE, BUDGET)]
    for candidate, ratios in zip(start, uniform, strict=True):
        assert np.abs(np.array(candidate.architecture.kept_ratios(SHAPE)) - ratios).max() <= 1 / 8 + 1e-9
    assert [len(generation) for generation in generations[:-1]] == [OFFSPRING] * (len(generations) - 1)
    for number, generation in enumerate(generations, start=1):
        assert {(candidate.origin, candidate.round) for candidate in generation} == {("offspring", number)}


def test_worse_offspring_never_become_parents():
    """Where the start is best of all, the search never leaves its surroundings, however long it lasts."""
    problem = Problem(lambda _architecture: 0.0 if not problem.batches[1:] else 1.0)
    evolutionary_search(problem.task(num_measurements=200))
    home = np.array([SPACE.levels(candidate.architecture) for candidate in problem.batches[0]])

    def farthest(batches):
        levels = np.array([SPACE.levels(c.architecture) for batch in batches for c in batch])
        return np.abs(levels[:, None] - home[None]).sum(2).min(1).max()

    assert farthest(problem.batches[-5:]) <= farthest(problem.batches[1:])
    # A child is at most three switches of two levels up and two down away, and what repairing adds.
    assert farthest(problem.batches[1:]) <= 3 * 4 + 4


def test_the_best_of_all_is_found_not_the_best_of_the_last_generation():
    problem = PlantedProblem(2)
    found = evolutionary_search(problem.task())
    assert found.best.kl == min(measurement.kl for measurement in found.measurements)
    assert [m.kl for m in found.finalists] == sorted(m.kl for m in found.measurements)


def test_a_planted_optimum_is_approached_better_than_by_random_search():
    evolved, drawn = [], []
    for seed in range(5):
        problem = PlantedProblem(seed)
        evolved.append(evolutionary_search(problem.task(seed=seed)).best.kl)
        drawn.append(random_search(problem.task(seed=seed)).best.kl)
    assert all(one < other for one, other in zip(evolved, drawn, strict=True))
    assert np.median(evolved) < 0.5 * np.median(drawn)


def test_the_seed_decides():
    def batches(seed):
        problem = PlantedProblem(0)
        evolutionary_search(problem.task(seed=seed, num_measurements=40))
        return problem.batches

    assert batches(1) == batches(1)
    assert batches(1)[1:] != batches(2)[1:]


def test_failed_offspring_are_passed_over():
    problem = PlantedProblem(0)
    problem.kl_of = lambda architecture: (
        None if len(problem.batches) > 1 and int(architecture.key, 16) % 3 == 0 else problem.deficit_of(architecture)
    )
    found = evolutionary_search(problem.task())
    assert any(measurement.kl is None for measurement in found.measurements)
    assert found.num_measurements == 90
    assert found.best.kl < found.measurements[0].kl


def test_a_band_that_holds_few_architectures_ends_the_search_early(prepared):
    space = define_space(prepared.dense.shape, 2, 2)
    problem = Problem(lambda architecture: 1 / sum(architecture.widths), space, Budget.from_keep(space.shape, 0.6, 0.2))
    found = evolutionary_search(problem.task(num_measurements=100))
    assert 1 <= len(found.measurements) < 64
    assert len(set(problem.measured)) == len(problem.measured)


def test_where_the_budget_allows_no_uniform_architecture_it_starts_from_a_random_one():
    """Less than one KV head per layer."""
    problem = Problem(lambda architecture: 1 / sum(architecture.widths), budget=Budget.from_keep(SHAPE, 0.05, 0.1))
    assert uniform_architectures(SHAPE, problem.budget) == []
    found = evolutionary_search(problem.task(num_measurements=30))
    assert all(problem.admits(measurement.architecture) for measurement in found.measurements)
    assert len(found.measurements) == 30


class TestHalving:
    """Many offspring on few tokens, a few of them on all."""

    @staticmethod
    def halved(problem, **changes):
        """A task whose first steps see the loss through noise, the last as it is."""

        def measure_best(batch, count):
            steps = rungs(8, len(batch), count)
            kl = [problem.kl_of(candidate.architecture) for candidate in batch]

            def score(there, step):
                noise = 0.1 * (1 - step.batches.stop / 8)
                rng = np.random.default_rng(step.batches.stop)
                return [kl[number] * (1 + noise * rng.standard_normal()) for number in there]

            return problem.measure([batch[number] for number in halve(len(batch), steps, score)])

        return problem.task(measure_best=measure_best, **changes)

    def test_only_survivors_are_measured_whole_and_no_more_work_is_spent(self):
        problem = PlantedProblem(1)
        found = evolutionary_search(self.halved(problem, num_measurements=50))
        start, *generations = problem.batches
        assert [len(generation) for generation in generations[:-1]] == [SURVIVORS] * (len(generations) - 1)
        whole = whole_measurements(HALVED_OFFSPRING, SURVIVORS)
        assert 50 - whole <= len(start) + (len(generations) - 1) * whole <= 50
        assert found.num_measurements == len(start) + SURVIVORS * len(generations)

    def test_finds_better_for_the_same_work(self):
        halved, plain = [], []
        for seed in range(5):
            problem = PlantedProblem(seed)
            plain.append(evolutionary_search(problem.task(seed=seed, num_measurements=60)).best.kl)
            halved.append(evolutionary_search(self.halved(problem, seed=seed, num_measurements=60)).best.kl)
        assert np.median(halved) < np.median(plain)
