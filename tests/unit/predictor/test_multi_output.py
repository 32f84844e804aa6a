import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from secateur.predictor.multi_output import fit_multi_output


@pytest.fixture(scope="module")
def pairs():
    """Ratios of 6 modules, of which the first matters most, and two targets made of them: one smooth, one noise."""
    rng = np.random.default_rng(0)
    ratios = rng.choice([0.1, 0.2, 0.3, 0.4, 0.5], size=(525, 6))
    smooth = 40 + ratios @ np.array([30.0, 10.0, 5.0, 5.0, 2.0, 0.0])
    return ratios, {"perplexity a": smooth, "accuracy": rng.normal(0.3, 0.02, size=525)}, ratios.mean(1)


def fit(pairs, *names, seed=0, count=525):
    ratios, values, reduction = pairs
    return fit_multi_output(ratios[:count], {name: values[name][:count] for name in names}, reduction[:count], seed)


@pytest.mark.parametrize(("count", "fitted"), [(525, 367), (100, 70), (32, 22), (20, 14)])
def test_seven_of_ten_pairs_are_fitted_and_the_others_judge(pairs, count, fitted):
    quality = fit(pairs, "perplexity a", count=count)[1]
    assert (quality.num_fitted, quality.num_validation) == (fitted, count - fitted)


def test_targets_are_scored_by_the_pairs_that_were_fitted(pairs):
    ratios, values, _ = pairs
    trees, _ = fit(pairs, "perplexity a", "accuracy", seed=3)
    assert trees.targets == ("perplexity a", "accuracy")
    fitted, _ = train_test_split(np.arange(525), test_size=0.3, random_state=3)
    measured = np.column_stack([values["perplexity a"], values["accuracy"]])
    scores = trees.standardise(measured)[fitted]
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(scores.std(0), 1)
    np.testing.assert_allclose(trees.predict(ratios[fitted])[:, 0], scores[:, 0], atol=0.5)


def test_an_easy_function_is_learned_and_noise_is_not(pairs):
    easy, noise = fit(pairs, "perplexity a")[1], fit(pairs, "accuracy")[1]
    assert easy.r2 > 0.9
    assert noise.r2 < 0.1
    assert easy.mse < 0.1
    assert noise.mse > 0.7
    assert easy.rmse == pytest.approx(easy.mse**0.5)
    assert easy.mae < easy.rmse


def test_qualities_of_several_targets_are_means_over_them(pairs):
    both, one, other = (
        fit(pairs, *names)[1] for names in (("perplexity a", "accuracy"), ["perplexity a"], ["accuracy"])
    )
    for measure in ("mse", "rmse", "mae", "r2", "r2_reduction_only"):
        assert getattr(both, measure) == pytest.approx((getattr(one, measure) + getattr(other, measure)) / 2), measure


def test_a_line_in_the_reduction_says_how_much_of_it_is_no_more_than_size(pairs):
    ratios, _, reduction = pairs
    unrelated = fit(pairs, "accuracy")[1]
    assert abs(unrelated.r2_reduction_only) < 0.1
    _, quality = fit_multi_output(ratios, {"perplexity a": 3 - 7 * reduction}, reduction, seed=0)
    assert quality.r2_reduction_only == pytest.approx(1)
    partly = fit(pairs, "perplexity a")[1]
    assert 0.2 < partly.r2_reduction_only < partly.r2


def test_importance_is_each_features_share_of_the_gain(pairs):
    importance = fit(pairs, "perplexity a")[0].importance()
    assert importance.sum() == pytest.approx(1)
    assert importance.argmax() == 0
    assert importance[0] > 0.5 > importance[1] > importance[4]


def test_a_target_that_is_always_the_same_is_no_trouble(pairs):
    ratios, values, reduction = pairs
    trees, quality = fit_multi_output(ratios, values | {"flat": np.full(525, 0.25)}, reduction, seed=0)
    assert np.isfinite(trees.predict(ratios)).all()
    assert np.isfinite(quality.mse)
    assert np.isfinite(trees.importance()).all()


def test_the_seed_decides_the_split(pairs):
    ratios, *_ = pairs
    (one, first), (two, second), (_, other) = (fit(pairs, "perplexity a", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.predict(ratios), two.predict(ratios))
    assert first == second
    assert first != other
