"""Spaces with few architectures at the budget: all are measured, and nothing is learned."""

import pytest

from planted import SHAPE, Problem
from secateur.search.exhaustive import holds_few, measure_all
from secateur.search.methods import SEARCHES
from secateur.space.cost import Budget
from secateur.space.uniform_space import define_uniform_space

SPACE = define_uniform_space(SHAPE, (2, 4, 6, 8), range(16, 129, 16))


def kl_of(architecture):
    return 2.0 - sum(architecture.widths[:4]) / 300


@pytest.fixture
def problem():
    exact = Budget.from_keep(SHAPE, 0.6, 0.003)
    return Problem(kl_of, SPACE, exact.widened(*SPACE.smallest_steps(exact)))


def test_everything_at_the_budget_is_measured_once_and_the_best_is_taken(problem):
    found = SEARCHES["secateur"](problem.task())
    assert len(problem.measured) == len(set(problem.measured)) == SPACE.count(problem.budget)
    assert found.best.kl == min(m.kl for m in found.measurements)
    assert found.rounds == ()


def test_after_reconstruction_where_there_is_one(problem):
    reconstructing = Problem(kl_of, SPACE, problem.budget)
    task = problem.task(measure_reconstructed=reconstructing.measure, reconstructed_share=0.6)
    found = measure_all(task)
    assert problem.batches == []
    assert found.reconstructed
    assert len(reconstructing.measured) == SPACE.count(problem.budget)


def test_of_more_than_reconstruction_is_spent_on_the_best_by_slices_are_reconstructed():
    budget = Budget.from_keep(SHAPE, 0.6, 0.3)
    problem, reconstructing = Problem(kl_of, SPACE, budget), Problem(kl_of, SPACE, budget)
    count = SPACE.count(budget)
    assert count > 50
    found = measure_all(
        problem.task(measure_reconstructed=reconstructing.measure, reconstructed_share=0.4, num_measurements=count)
    )
    assert len(problem.measured) == count
    assert 25 <= len(reconstructing.measured) <= 0.4 * count + 25
    assert found.best.kl == min(m.kl for m in found.probes)


def test_more_than_the_measurements_are_searched(problem):
    assert holds_few(problem.task(num_measurements=SPACE.count(problem.budget)))
    assert not holds_few(problem.task(num_measurements=SPACE.count(problem.budget) - 1))
    assert not holds_few(Problem(kl_of).task(num_measurements=10**6)), "layers may differ: too many to count"
