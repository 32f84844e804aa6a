import numpy as np
import pytest

from secateur.predictor.gaussian_process import fit_gaussian_process
from secateur.predictor.quality import rank_correlation
from secateur.predictor.trees import fit_trees

NUM_MODULES = 10


def draw(count, seed, noise=0.0):
    """Losses that add up over modules but for one pair that makes up for each other, as bought by fixed budgets."""
    rng = np.random.default_rng(seed)
    kept = rng.integers(2, 9, size=(count, NUM_MODULES)) / 8
    cut = 1 - kept
    kl = (np.linspace(0.5, 2.0, NUM_MODULES) * cut**2).sum(1) + 2 * cut[:, 0] * cut[:, 1] + 0.05
    error = (cut**2).sum(1)
    features = np.column_stack([kept, error / 2, error / 2, error])
    return features, kl * rng.lognormal(sigma=noise, size=count)


def test_it_ranks_smooth_losses_better_than_trees():
    features, kl = draw(50, seed=0)
    unseen, truth = draw(400, seed=1)
    monotone = (-1,) * NUM_MODULES + (1, 1, 1)
    ours = rank_correlation(fit_gaussian_process(features, kl).predict(unseen), truth)
    assert ours > rank_correlation(fit_trees(features, kl, monotone, seed=0).predict(unseen), truth)
    assert ours > 0.8


def test_predictions_are_logarithms_of_the_divergence():
    features, kl = draw(80, seed=0)
    assert np.abs(fit_gaussian_process(features, kl).predict(features) - np.log(kl)).mean() < 0.02


def test_the_lower_bound_is_far_below_only_where_nothing_was_measured():
    features, kl = draw(60, seed=0)
    predictor = fit_gaussian_process(features, kl)
    near, far = features, features + 5 * features.std(0)
    doubt_near, doubt_far = (predictor.predict(rows) - predictor.lower_bound(rows) for rows in (near, far))
    assert (doubt_near >= 0).all()
    assert np.median(doubt_far) > 5 * np.median(doubt_near)


def test_noise_is_not_learned_by_heart():
    features, kl = draw(80, seed=0, noise=1.0)
    assert np.abs(fit_gaussian_process(features, kl).predict(features) - np.log(kl)).mean() > 0.3


@pytest.mark.parametrize("column", [0, -1])
def test_a_feature_that_never_changes_is_no_trouble(column):
    features, kl = draw(40, seed=0)
    features[:, column] = 0.5
    assert np.isfinite(fit_gaussian_process(features, kl).predict(features)).all()


def test_five_pairs_and_losses_that_are_all_alike_are_no_trouble():
    features, _ = draw(5, seed=0)
    predicted = fit_gaussian_process(features, np.full(5, 0.3)).predict(features)
    assert predicted == pytest.approx(np.log(0.3))


def test_the_same_pairs_give_the_same_predictor():
    unseen, _ = draw(50, seed=1)
    one, two = (fit_gaussian_process(*draw(40, seed=0)).predict(unseen) for _ in range(2))
    assert np.array_equal(one, two)
