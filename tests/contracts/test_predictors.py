"""What every accuracy predictor is held to; a new one is held to it by its name in `PREDICTORS` alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from secateur.predictor.choice import PREDICTORS
from secateur.predictor.protocol import Pairs, Predictor
from secateur.predictor.quality import rank_correlation
from toy_pairs import LAYOUT, draw

UNSEEN = draw(300, seed=9, noise=0.1)


@cache
def fitted(name, count=40, seed=0):
    return PREDICTORS[name](draw(count, seed, noise=0.1), seed)


@pytest.mark.parametrize("name", PREDICTORS)
class TestEveryPredictor:
    def test_it_keeps_the_protocol(self, name):
        assert isinstance(fitted(name), Predictor)

    def test_25_pairs_rank_far_better_than_chance(self, name):
        predicted = fitted(name, 25).predict(UNSEEN.features)
        assert rank_correlation(predicted, UNSEEN.loss) > 0.5
        assert len(np.unique(predicted)) > 100, "a constant ranks nothing"

    def test_more_pairs_rank_no_worse(self, name):
        few, many = (rank_correlation(fitted(name, count).predict(UNSEEN.features), UNSEEN.loss) for count in (25, 200))
        assert many > few - 0.02
        # The additive model has one number to learn, and a line no curves.
        assert many > few + 0.05 or name in ("additive", "ridge")

    def test_predictions_are_logarithms_of_the_loss(self, name):
        predicted = fitted(name, 200).predict(UNSEEN.features)
        assert np.abs(predicted - UNSEEN.target).mean() < 0.25

    def test_pairs_are_judged_by_fits_that_have_not_seen_them(self, name):
        """Pairs could be learned by heart: noise looks like noise only to who has not seen it."""
        pairs = draw(60, seed=4)
        shuffled = Pairs(LAYOUT, pairs.features, np.random.default_rng(4).permutation(pairs.loss))
        predictor = PREDICTORS[name](shuffled, 0)
        assert predictor.out_of_fold.shape == (60,)
        assert rank_correlation(predictor.out_of_fold, shuffled.loss) < 0.3

    def test_the_posterior_is_about_the_prediction(self, name):
        mean, deviation = fitted(name).posterior(UNSEEN.features)
        np.testing.assert_allclose(mean, fitted(name).predict(UNSEEN.features), atol=1e-9)
        assert (deviation > 0).all()

    def test_intervals_hold_the_prediction_and_widen_with_the_confidence(self, name):
        mean = fitted(name).predict(UNSEEN.features)
        narrow, wide = (fitted(name).interval(UNSEEN.features, confidence) for confidence in (0.5, 0.95))
        assert (narrow.low <= mean + 1e-9).all()
        assert (mean - 1e-9 <= narrow.high).all()
        assert (wide.low <= narrow.low).all()
        assert (narrow.high <= wide.high).all()
        assert (wide.high - wide.low).mean() > 1.2 * (narrow.high - narrow.low).mean()

    @pytest.mark.parametrize("count", [50, 120])
    def test_a_nominal_90_percent_interval_covers_85_to_98_percent_of_the_unseen(self, name, count):
        covered = []
        for seed in range(3):
            interval = fitted(name, count, seed).interval(UNSEEN.features)
            covered.append(((interval.low <= UNSEEN.target) & (UNSEEN.target <= interval.high)).mean())
        assert 0.85 <= np.mean(covered) <= 0.98

    def test_explanations_add_up_to_predictions(self, name):
        rows = UNSEEN.features[:20]
        explanation = fitted(name).explain(rows)
        assert explanation.contributions.shape == rows.shape
        total = explanation.base + explanation.contributions.sum(1)
        np.testing.assert_allclose(total, fitted(name).predict(rows), atol=1e-6)
        assert explanation.contributions.std(0).max() > 0.05

    def test_the_same_pairs_and_seed_give_the_same_predictor(self, name):
        one, two = (PREDICTORS[name](draw(30, seed=1), 3) for _ in range(2))
        assert np.array_equal(one.predict(UNSEEN.features), two.predict(UNSEEN.features))
        assert np.array_equal(one.out_of_fold, two.out_of_fold)

    @pytest.mark.parametrize("column", [0, -1])
    def test_a_feature_that_never_changes_is_no_trouble(self, name, column):
        pairs = draw(30, seed=0)
        features = pairs.features.copy()
        features[:, column] = 0.5
        assert np.isfinite(PREDICTORS[name](replace(pairs, features=features), 0).predict(UNSEEN.features)).all()

    def test_five_pairs_and_losses_that_are_all_alike_are_no_trouble(self, name):
        pairs = draw(5, seed=0)
        predictor = PREDICTORS[name](replace(pairs, loss=np.full(5, 0.3)), 0)
        np.testing.assert_allclose(predictor.predict(pairs.features), np.log(0.3), atol=1e-6)
        assert np.isfinite(predictor.interval(UNSEEN.features).high).all()
