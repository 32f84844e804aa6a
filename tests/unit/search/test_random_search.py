import pytest

from planted import PlantedProblem
from secateur.search.random_search import random_search


@pytest.mark.parametrize("num_measurements", [25, 90])
def test_every_measurement_is_another_architecture_inside_the_band(num_measurements):
    problem = PlantedProblem(0)
    found = random_search(problem.task(num_measurements=num_measurements))
    assert len(set(problem.measured)) == len(found.measurements) == num_measurements
    assert all(problem.admits(measurement.architecture) for measurement in found.measurements)
    assert {candidate.origin for candidate in problem.candidates} == {"sampled"}


def test_the_best_of_them_is_taken():
    found = random_search(PlantedProblem(0).task())
    assert found.best.kl == min(measurement.kl for measurement in found.measurements)
    assert [m.kl for m in found.finalists] == sorted(m.kl for m in found.measurements)


def test_the_seed_decides():
    def drawn(seed):
        problem = PlantedProblem(0)
        random_search(problem.task(seed=seed))
        return problem.measured

    assert drawn(1) == drawn(1)
    assert set(drawn(1)) != set(drawn(2))


def test_a_failure_is_borne():
    problem = PlantedProblem(0)
    problem.kl_of = lambda architecture: None if int(architecture.key, 16) % 2 else problem.deficit_of(architecture)
    found = random_search(problem.task())
    assert 0 < len(found.finalists) < len(found.measurements)
