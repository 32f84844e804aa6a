from typing import get_args

import numpy as np
import pytest

from secateur.config import SearchConfig
from secateur.predictor.choice import AUTO, PREDICTORS, fit_predictor
from secateur.predictor.quality import cross_validate, rank_correlation

MONOTONE = (-1, -1, -1, -1, 1, 1, 1)


def pairs(loss, count=150, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random((count, 4))
    error = (1 - kept).sum(1)
    return np.column_stack([kept, error, error, 2 * error]), loss(kept), kept.sum(1)


def smooth(kept):
    return 0.1 + ((1 - kept) ** 2 * [4, 1, 1, 1]).sum(1) + 3 * (1 - kept[:, 0]) * (1 - kept[:, 1])


def steps(kept):
    """Four cliffs at irregular places: nothing a smooth function gets right, and all that a tree needs."""
    return 0.1 + (np.array([8.0, 4.0, 2.0, 1.0]) * (kept < [0.31, 0.72, 0.55, 0.18])).sum(1)


def test_the_configuration_names_them_all():
    assert set(get_args(SearchConfig.model_fields["predictor"].annotation)) == {AUTO, *PREDICTORS}


@pytest.mark.parametrize(("loss", "best"), [(smooth, "gaussian_process"), (steps, "trees")])
def test_auto_takes_what_ranks_best_on_pairs_it_has_not_seen(loss, best):
    features, kl, parameters = pairs(loss)
    _, quality = fit_predictor(AUTO, features, kl, parameters, MONOTONE, seed=0)
    alone = {
        name: cross_validate(name, fit, features, kl, parameters, MONOTONE, seed=0) for name, fit in PREDICTORS.items()
    }
    assert quality.predictor == best
    assert quality == alone[best]
    assert quality.kendall_tau == max(each.kendall_tau for each in alone.values())


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_named_predictor_is_taken_whatever_ranks_best(name):
    features, kl, parameters = pairs(smooth)
    predictor, quality = fit_predictor(name, features, kl, parameters, MONOTONE, seed=0)
    assert quality.predictor == name
    unseen, truth, _ = pairs(smooth, seed=1)
    assert rank_correlation(predictor.predict(unseen), truth) > 0.5


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("seed", range(3))
def test_noise_gives_no_confidence(name, seed):
    features, _, parameters = pairs(smooth, count=100, seed=seed)
    kl = np.random.default_rng(seed).lognormal(size=100)
    _, quality = fit_predictor(name, features, kl, parameters, MONOTONE, seed)
    assert abs(quality.kendall_tau) < 0.25
