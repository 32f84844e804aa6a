import numpy as np
import pytest

from planted import BUDGET, SPACE, Problem
from secateur.search.propose import heuristics
from secateur.search.sensitivity import measure_sensitivities

WEIGHTS = np.linspace(0.5, 2.0, SPACE.num_modules)


def factors(architecture):
    """Every module multiplies the loss: curves are exact, whatever the centre."""
    kept = np.array(architecture.kept_ratios(SPACE.shape))
    return float(np.exp((WEIGHTS * (1 - kept)).sum()))


@pytest.fixture
def centres():
    return heuristics(Problem(factors).task())


def sensed(problem, centres, count):
    return measure_sensitivities(problem.task(), centres, count)


def test_curves_are_changes_of_the_log_loss_of_the_centre(centres):
    problem = Problem(factors)
    found = sensed(problem, dict(list(centres.items())[:1]), 60)
    (sensitivities,) = found.sensitivities
    (levels,) = list(centres)[:1]
    assert sensitivities.centre == centres[levels]
    for module, (options, curve) in enumerate(zip(SPACE.options, sensitivities.change, strict=True)):
        kept = np.array(options) / options[-1]
        # Linear in the kept ratio here, so that interpolation between measured widths is exact.
        np.testing.assert_allclose(curve, WEIGHTS[module] * (kept[levels[module]] - kept), atol=1e-9)
        assert curve[levels[module]] == 0


def test_no_more_is_measured_than_may_be_and_nothing_twice(centres):
    problem = Problem(factors)
    found = sensed(problem, centres, 60)
    assert 40 <= found.num_measurements == len(problem.measured) == len(set(problem.measured)) <= 60


def test_centres_are_inside_the_band_and_single_changes_for_the_most_part_outside(centres):
    problem = Problem(factors)
    found = sensed(problem, centres, 60)
    assert all(problem.admits(measurement.architecture) for measurement in found.centres)
    origins = {candidate.origin for candidate in problem.candidates}
    assert "sensitivity" in origins
    assert sum(problem.admits(measurement.architecture) for measurement in found.probes) < len(found.probes) / 2


def test_with_too_few_measurements_nothing_is_measured(centres):
    problem = Problem(factors)
    found = sensed(problem, centres, 3 * SPACE.num_modules)
    assert found.num_measurements == 0 == len(problem.measured)
    assert found.sensitivities == ()


def test_two_centres_only_where_both_can_be_looked_at(centres):
    assert len(sensed(Problem(factors), centres, 40).sensitivities) == 1
    two = sensed(Problem(factors), centres, 80).sensitivities
    assert [each.centre for each in two] == ["uniform", "additive"]


def test_a_change_that_fails_is_left_to_its_neighbours(centres):
    def fails_without_layer_0(architecture):
        return None if architecture.widths[0] == 0 else factors(architecture)

    found = sensed(Problem(fails_without_layer_0), dict(list(centres.items())[:1]), 60)
    curve = found.sensitivities[0].change[0]
    # The narrowest that was measured stands for it; its own loss would be larger.
    assert curve[0] == curve.max()
    assert 0 < curve[0] < WEIGHTS[0] * next(iter(centres))[0] / (len(curve) - 1)


def test_everything_proposed_is_inside_the_band(centres):
    assert all(BUDGET.admits(SPACE.decoder_parameters(levels)) for levels in centres)
