import numpy as np
import pytest

from secateur.predictor.conformal import fit_cross_conformal
from secateur.predictor.protocol import Explanation, Pairs
from toy_pairs import LAYOUT


class MeanOfTheTargets:
    """Predicts what it has seen on average: its errors are the noise."""

    def __init__(self, pairs, _seed):
        self.mean = pairs.target.mean()

    def predict(self, features):
        return np.full(len(features), self.mean)

    def explain(self, features):
        return Explanation(float(self.mean), np.zeros_like(features))


def noise(count, seed):
    rng = np.random.default_rng(seed)
    return Pairs(LAYOUT, rng.random((count, len(LAYOUT.names))), np.exp(rng.normal(size=count)))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9])
def test_an_interval_covers_what_it_says(confidence):
    covered = []
    for seed in range(20):
        predictor = fit_cross_conformal(MeanOfTheTargets, noise(60, seed), seed)
        unseen = noise(200, 100 + seed)
        interval = predictor.interval(unseen.features, confidence)
        covered.append(((interval.low <= unseen.target) & (unseen.target <= interval.high)).mean())
    assert np.mean(covered) == pytest.approx(confidence, abs=0.04)


def test_every_pair_is_predicted_by_a_model_that_has_not_seen_it():
    pairs = noise(10, seed=0)
    predictor = fit_cross_conformal(MeanOfTheTargets, pairs, 0)
    for pair, fold in enumerate(predictor.fold_of):
        others = pairs.target[predictor.fold_of != fold]
        assert predictor.out_of_fold[pair] == pytest.approx(others.mean())
        assert predictor.residuals[pair] == pytest.approx(abs(others.mean() - pairs.target[pair]))
