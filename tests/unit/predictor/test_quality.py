import numpy as np
import pytest

from secateur.predictor.quality import cross_validate, rank_correlation
from secateur.predictor.trees import fit_trees

MONOTONE = (-1, -1, -1, 1, 1, 1)


def pairs(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random((count, 3))
    kl = (np.array([4.0, 2.0, 1.0]) * (1 - kept)).sum(1) * rng.lognormal(sigma=noise, size=count) + 0.01
    error = (1 - kept).sum(1)
    return np.column_stack([kept, error, error, 2 * error]), kl, kept.sum(1)


def test_a_constant_ranks_nothing():
    measured = np.arange(10.0)
    assert rank_correlation(np.ones(10), measured) == 0
    assert rank_correlation(measured, np.ones(10)) == 0


def test_order_is_all_that_counts():
    measured = np.arange(10.0)
    assert rank_correlation(np.exp(measured), measured) == pytest.approx(1)
    assert rank_correlation(-measured, measured) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2.0, 4.0, 3.0]), np.arange(4.0)) == pytest.approx(4 / 6)


def test_a_predictor_that_learns_something_says_so():
    features, kl, parameters = pairs(80, noise=0.0)
    quality = cross_validate("trees", fit_trees, features, kl, parameters, MONOTONE, seed=0)
    assert quality.num_pairs == 80
    assert quality.kendall_tau > 0.75
    assert quality.kendall_tau > quality.kendall_tau_error_only
    assert quality.kendall_tau_error_only == pytest.approx(rank_correlation(features[:, -1], kl))
    # Larger is better, so more parameters predict less divergence.
    assert quality.kendall_tau_reduction_only == pytest.approx(rank_correlation(-parameters, kl))
    assert quality.kendall_tau_reduction_only > 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_gives_no_confidence(seed):
    rng = np.random.default_rng(seed)
    features, _, parameters = pairs(100, noise=0.0, seed=seed)
    quality = cross_validate("trees", fit_trees, features, rng.lognormal(size=100), parameters, MONOTONE, seed=seed)
    assert abs(quality.kendall_tau) < 0.25


def test_pairs_are_judged_by_predictors_that_have_not_seen_them():
    """Kept ratios that are unique to each pair could be learned by heart; held-out pairs show that they were not."""
    features, _, parameters = pairs(60, noise=0.0)
    kl = np.random.default_rng(9).lognormal(size=60)
    quality = cross_validate("trees", fit_trees, features, kl, parameters, MONOTONE, seed=0)
    assert quality.kendall_tau < 0.3


def test_the_seed_decides_the_folds():
    features, kl, parameters = pairs(50, noise=0.5)
    one, two, other = (
        cross_validate("trees", fit_trees, features, kl, parameters, MONOTONE, seed=seed) for seed in (0, 0, 1)
    )
    assert one == two
    assert one != other
