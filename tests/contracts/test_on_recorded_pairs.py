"""What predictors are worth on measurements of a real model, kept in benchmarks/data (stories260K)."""

import numpy as np
import pytest
from recorded import read_recorded

from secateur.predictor.choice import PREDICTORS
from secateur.predictor.quality import rank_correlation

CENTRES = ("uniform", "additive")


@pytest.fixture(scope="module", params=["stories260k-0.8", "stories260k-0.5"])
def recorded(request):
    return read_recorded(request.param)


def tau(recorded, name, count, centres=CENTRES, num_splits=2):
    pairs = recorded.pairs(None, centres)
    rng = np.random.default_rng(0)
    taus = []
    for _ in range(num_splits):
        order = rng.permutation(len(pairs))
        unseen = pairs.take(order[200:])
        taus.append(
            rank_correlation(PREDICTORS[name](pairs.take(order[:count]), 0).predict(unseen.features), unseen.loss)
        )
    return np.mean(taus)


def test_all_recorded_architectures_are_inside_the_band(recorded):
    share = recorded.parameters / recorded.space.shape.decoder_parameters
    assert len(recorded.kl) == 600
    assert share.max() - share.min() < 0.016 * share.max()


def test_50_pairs_rank_as_well_as_the_product_claims(recorded):
    assert tau(recorded, "blend", 50) > 0.83


def test_sensitivities_at_the_budget_are_worth_more_than_twice_the_pairs(recorded):
    assert tau(recorded, "gaussian_process", 25) > tau(recorded, "gaussian_process", 50, centres=())


def test_every_fit_earns_its_keep_against_what_is_known_without_one(recorded):
    pairs = recorded.pairs()
    by_error = abs(rank_correlation(pairs.features[:, pairs.layout.names.index("error")], pairs.loss))
    for name in ("blend", "gaussian_process", "trees", "ridge"):
        assert tau(recorded, name, 50, centres=()) > by_error + 0.1
