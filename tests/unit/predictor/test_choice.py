from typing import get_args

import numpy as np
import pytest

from secateur.config import SearchConfig
from secateur.predictor.choice import AUTO, CANDIDATES, PREDICTORS, fit_predictor
from secateur.predictor.protocol import Pairs
from secateur.predictor.quality import deviation_of_noise, rank_correlation
from toy_pairs import LAYOUT, draw, parameters, smooth, steps


def fit(name, pairs, seed=0):
    return fit_predictor(name, pairs, parameters(pairs), seed)


def test_the_configuration_names_them_all():
    assert set(get_args(SearchConfig.model_fields["predictor"].annotation)) == {AUTO, *PREDICTORS}


@pytest.mark.parametrize(("loss", "among"), [(smooth, {"gaussian_process", "blend"}), (steps, {"trees", "blend"})])
def test_auto_takes_what_ranks_best_on_pairs_it_has_not_seen(loss, among):
    pairs = draw(90, seed=0, loss=loss)
    predictor, quality = fit(AUTO, pairs)
    assert quality.predictor in among
    assert set(quality.considered) == set(CANDIDATES)
    assert quality.kendall_tau == max(quality.considered.values())
    assert quality.kendall_tau == pytest.approx(rank_correlation(predictor.out_of_fold, pairs.loss))


def test_auto_takes_the_additive_model_where_nothing_is_left_to_learn():
    """Where the estimate is exact a fit can only add noise: a predictor must earn its keep."""
    pairs = draw(30, seed=0)
    features = pairs.features.copy()
    features[:, -1] = pairs.loss
    _, quality = fit(AUTO, Pairs(LAYOUT, features, pairs.loss))
    assert quality.considered["additive"] == pytest.approx(1)
    assert quality.kendall_tau == pytest.approx(1)
    assert quality.kendall_tau_error_only == pytest.approx(1)


def test_a_named_predictor_is_taken_whatever_ranks_best():
    _, quality = fit("ridge", draw(60, seed=0))
    assert quality.predictor == "ridge"
    assert list(quality.considered) == ["ridge"]


@pytest.mark.parametrize("seed", range(3))
def test_a_predictor_fed_shuffled_losses_reports_next_to_nothing_and_is_not_trusted(seed):
    pairs = draw(60, seed=seed)
    shuffled = Pairs(LAYOUT, pairs.features, np.random.default_rng(seed).permutation(pairs.loss))
    assert fit(AUTO, pairs, seed)[1].trusted
    _, quality = fit(AUTO, shuffled, seed)
    assert quality.kendall_tau < 0.25
    assert not quality.trusted


def test_what_anyone_could_say_without_a_fit_stands_beside_it():
    pairs = draw(80, seed=0)
    _, quality = fit("additive", pairs)
    assert quality.num_pairs == 80
    assert quality.kendall_tau_error_only == pytest.approx(rank_correlation(pairs.features[:, -1], pairs.loss))
    # Larger is better, so more parameters predict less loss.
    assert quality.kendall_tau_reduction_only == pytest.approx(rank_correlation(-parameters(pairs), pairs.loss))
    assert quality.kendall_tau_sensitivity_only is None
    assert quality.features == ("kept", "error_sums")


def test_the_deviation_of_noise_is_that_of_unrelated_rankings():
    rng = np.random.default_rng(0)
    taus = [rank_correlation(rng.random(25), rng.random(25)) for _ in range(2000)]
    assert deviation_of_noise(25) == pytest.approx(np.std(taus), rel=0.1)


def test_a_constant_ranks_nothing():
    measured = np.arange(10.0)
    assert rank_correlation(np.ones(10), measured) == 0
    assert rank_correlation(measured, np.ones(10)) == 0


def test_order_is_all_that_counts():
    measured = np.arange(10.0)
    assert rank_correlation(np.exp(measured), measured) == pytest.approx(1)
    assert rank_correlation(-measured, measured) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2.0, 4.0, 3.0]), np.arange(4.0)) == pytest.approx(4 / 6)
