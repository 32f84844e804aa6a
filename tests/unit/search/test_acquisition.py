import numpy as np
import pytest
from scipy.stats import norm

from secateur.search.acquisition import ACQUISITIONS, log_expected_improvement


def by_quadrature(mean, deviation, best):
    grid = np.linspace(mean - 12 * deviation, best, 200_001) if best > mean - 12 * deviation else np.array([best])
    return np.trapezoid((best - grid) * norm.pdf(grid, mean, deviation), grid)


@pytest.mark.parametrize("mean", [-2.0, -0.5, 0.0, 0.3, 0.99, 1.01, 2.0, 4.0])
def test_it_is_the_logarithm_of_what_falls_below_the_best_on_average(mean):
    found = log_expected_improvement(np.array([mean]), np.array([0.7]), 0.0)
    assert found[0] == pytest.approx(np.log(by_quadrature(mean, 0.7, 0.0)), abs=1e-5)


def test_what_promises_next_to_nothing_is_still_told_apart():
    means = np.array([10.0, 20.0, 100.0, 1e3, 1e5])
    found = log_expected_improvement(means, np.ones(5), 0.0)
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_of_two_that_are_predicted_alike_the_less_known_promises_more():
    known, unknown = log_expected_improvement(np.array([1.0, 1.0]), np.array([0.1, 0.5]), 0.9)
    assert unknown > known


class Known:
    """Says the first feature, and doubts by the second."""

    out_of_fold = np.zeros(0)

    def interval(self, features, confidence=0.9):
        raise NotImplementedError

    def explain(self, features):
        raise NotImplementedError

    def predict(self, features):
        return features[:, 0]

    def posterior(self, features):
        return features[:, 0], features[:, 1]


@pytest.mark.parametrize(("name", "chosen"), [("mean", 0), ("bound", 1), ("improvement", 1)])
def test_what_is_made_small_is_the_mean_or_looks_at_the_doubt_too(name, chosen):
    rows = np.array([[0.9, 0.01], [1.0, 0.5], [2.0, 0.5]])
    assert ACQUISITIONS[name](Known(), rows, 0.9).argmin() == chosen
