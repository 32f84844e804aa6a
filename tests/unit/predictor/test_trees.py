import numpy as np
import pytest

from secateur.predictor.quality import rank_correlation
from secateur.predictor.trees import fit_trees

NUM_MODULES = 8


@pytest.fixture(scope="module")
def problem():
    """Additive losses of kept ratios, and reconstruction errors that are off by a factor per module."""
    rng = np.random.default_rng(0)
    sensitivity = rng.lognormal(sigma=1.0, size=NUM_MODULES)
    known = sensitivity * rng.lognormal(sigma=0.7, size=NUM_MODULES)

    def draw(count, seed):
        kept = np.random.default_rng(seed).integers(0, 9, size=(count, NUM_MODULES)) / 8
        kl = (sensitivity * (1 - kept) ** 2).sum(1)
        errors = known * (1 - kept) ** 2
        attention, mlp = errors[:, ::2].sum(1), errors[:, 1::2].sum(1)
        return np.column_stack([kept, attention, mlp, attention + mlp]), kl

    return draw, known, (-1,) * NUM_MODULES + (1, 1, 1)


def test_25_pairs_are_enough_to_rank_better_than_the_errors_alone(problem):
    draw, _, monotone = problem
    unseen, truth = draw(500, seed=1)
    predicted = fit_trees(*draw(25, seed=0), monotone, seed=0).predict(unseen)
    assert rank_correlation(predicted, truth) > 0.5
    assert len(np.unique(predicted)) > 100, "a constant ranks nothing"


def test_more_pairs_rank_better_than_the_errors_that_were_known_before(problem):
    draw, _, monotone = problem
    unseen, truth = draw(500, seed=1)
    few, many = (rank_correlation(fit_trees(*draw(n, seed=0), monotone, 0).predict(unseen), truth) for n in (25, 300))
    assert many > few
    assert many > rank_correlation(unseen[:, -1], truth) + 0.05


def test_predictions_are_logarithms_of_the_divergence(problem):
    draw, _, monotone = problem
    features, kl = draw(300, seed=0)
    assert np.abs(fit_trees(features, kl, monotone, seed=0).predict(features) - np.log(kl)).mean() < 0.1


def test_keeping_more_never_looks_worse(problem):
    draw, known, monotone = problem
    predictor = fit_trees(*draw(60, seed=0), monotone, seed=0)
    features, _ = draw(200, seed=2)
    before = predictor.predict(features)
    for module in range(NUM_MODULES):
        kept = features[:, :NUM_MODULES].copy()
        kept[:, module] = np.minimum(kept[:, module] + 1 / 8, 1)
        errors = known * (1 - kept) ** 2
        attention, mlp = errors[:, ::2].sum(1), errors[:, 1::2].sum(1)
        more = predictor.predict(np.column_stack([kept, attention, mlp, attention + mlp]))
        assert (more <= before + 1e-12).all()


def test_the_base_never_falls_with_the_error_even_if_the_pairs_say_so():
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.random((40, 2)), *[np.linspace(0.1, 1, 40)] * 3])
    predictor = fit_trees(features, np.linspace(1, 0.1, 40), (-1, -1, 1, 1, 1), seed=0)
    assert predictor.slope == 0


def test_errors_that_are_all_alike_or_zero_are_no_trouble():
    rng = np.random.default_rng(0)
    kept = rng.random((40, 2))
    features = np.column_stack([kept, np.zeros((40, 3))])
    predicted = fit_trees(features, 2 - kept.sum(1) + 0.1, (-1, -1, 1, 1, 1), seed=0).predict(features)
    assert np.isfinite(predicted).all()
    assert rank_correlation(predicted, -kept.sum(1)) > 0.7


def test_the_same_pairs_and_seed_give_the_same_predictor(problem):
    draw, _, monotone = problem
    unseen, _ = draw(100, seed=1)
    one, two = (fit_trees(*draw(40, seed=0), monotone, seed=3).predict(unseen) for _ in range(2))
    assert np.array_equal(one, two)
