from functools import partial

import numpy as np

from secateur.predictor.additive import fit_additive_model
from secateur.predictor.conformal import fit_cross_conformal
from secateur.predictor.protocol import Pairs
from secateur.predictor.trees import fit_tree_model, fit_trees
from toy_pairs import LAYOUT, NUM_MODULES, draw, encode


def test_keeping_more_never_looks_worse_to_monotone_trees():
    model = fit_tree_model(draw(60, seed=0), seed=0, monotone=True)
    kept = draw(200, seed=2).features[:, :NUM_MODULES]
    before = model.predict(encode(kept))
    for module in range(NUM_MODULES):
        more = kept.copy()
        more[:, module] = np.minimum(more[:, module] + 1 / 8, 1)
        assert (model.predict(encode(more)) <= before + 1e-12).all()


def test_they_are_monotone_where_cross_validation_says_that_it_helps():
    for seed in range(4):
        pairs = draw(30, seed=seed, noise=0.5)
        errors = {
            monotone: (fit_cross_conformal(partial(fit_tree_model, monotone=monotone), pairs, 0).residuals ** 2).mean()
            for monotone in (True, False)
        }
        assert fit_trees(pairs, seed=0).model.monotone == (errors[True] <= errors[False])
    # A loss that grows with what is kept: the constraint is wrong.
    turned = draw(60, seed=0, loss=lambda kept: 0.1 + kept[:, 0] + 2 * kept[:, 1])
    assert not fit_trees(turned, seed=0).model.monotone


def test_the_base_never_falls_with_an_estimate_even_if_the_pairs_say_so():
    features = np.column_stack([np.random.default_rng(0).random((40, NUM_MODULES)), *[np.linspace(0.1, 1, 40)] * 3])
    model = fit_additive_model(Pairs(LAYOUT, features, np.linspace(1, 0.1, 40)))
    assert model.slopes.tolist() == [0]


def test_estimates_that_are_all_alike_or_zero_are_no_trouble():
    features = np.column_stack([np.random.default_rng(0).random((40, NUM_MODULES)), np.zeros((40, 3))])
    assert np.isfinite(fit_trees(Pairs(LAYOUT, features, features[:, 0] + 0.1), 0).predict(features)).all()
