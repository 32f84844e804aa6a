import numpy as np

from secateur.predictor.pairwise import top_first
from toy_pairs import draw


def test_the_best_come_first_where_the_predictor_says_nothing():
    pairs, unseen = draw(120, seed=0), draw(60, seed=1)
    order = top_first(pairs, unseen.features, np.zeros(60), seed=0)
    assert sorted(order.tolist()) == list(range(60))
    ranks = np.argsort(np.argsort(unseen.loss))
    assert ranks[order[:10]].mean() < ranks[order[-10:]].mean() - 15


def test_a_predictor_that_is_sure_still_counts():
    pairs, unseen = draw(120, seed=0), draw(60, seed=1)
    order = top_first(pairs, unseen.features, unseen.target, seed=0)
    alone = top_first(pairs, unseen.features, np.zeros(60), seed=0)
    ranks = np.argsort(np.argsort(unseen.loss))
    assert ranks[order[:10]].mean() < ranks[alone[:10]].mean()


def test_the_same_seed_gives_the_same_order():
    pairs, unseen = draw(60, seed=0), draw(30, seed=1)
    one, two = (top_first(pairs, unseen.features, unseen.target, seed=5) for _ in range(2))
    assert np.array_equal(one, two)
