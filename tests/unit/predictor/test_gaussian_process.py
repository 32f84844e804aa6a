import numpy as np
import pytest

from secateur.predictor.gaussian_process import fit_gaussian_process
from secateur.predictor.quality import rank_correlation
from secateur.predictor.trees import fit_trees
from toy_pairs import draw

UNSEEN = draw(300, seed=9)


def test_it_ranks_smooth_losses_better_than_trees():
    pairs = draw(50, seed=0)
    ours = rank_correlation(fit_gaussian_process(pairs, 0).predict(UNSEEN.features), UNSEEN.loss)
    assert ours > rank_correlation(fit_trees(pairs, 0).predict(UNSEEN.features), UNSEEN.loss)
    assert ours > 0.8


def test_it_doubts_where_nothing_was_measured():
    predictor = fit_gaussian_process(draw(60, seed=0), 0)
    near = draw(60, seed=0).features
    doubts = [np.median(predictor.posterior(rows)[1]) for rows in (near, near + 8 * near.std(0))]
    assert doubts[1] > 1.5 * doubts[0]


def test_noise_is_not_learned_by_heart():
    pairs = draw(80, seed=0, noise=1.0)
    assert np.abs(fit_gaussian_process(pairs, 0).predict(pairs.features) - pairs.target).mean() > 0.3


@pytest.mark.parametrize("count", [25, 50, 100])
def test_few_pairs_that_fit_exactly_are_no_proof_that_there_is_no_noise(count):
    """The likelihood of few pairs without noise is highest without any: half a pair's share of the variance stays."""
    process = fit_gaussian_process(draw(count, seed=1, noise=0.0), 0).process
    assert np.exp(process.kernel_.theta[-1]) >= 0.5 / count * (1 - 1e-9)


def test_10_000_candidates_are_ranked_in_a_few_calls_of_the_kernel_with_the_same_answer():
    """One call or many: a candidate's prediction does not depend on the others'."""
    predictor = fit_gaussian_process(draw(40, seed=0), 0)
    together = predictor.predict(UNSEEN.features)
    alone = np.concatenate([predictor.predict(row[None]) for row in UNSEEN.features[:10]])
    np.testing.assert_allclose(together[:10], alone, atol=1e-9)


@pytest.mark.parametrize("count", [40, 120])
def test_what_it_says_of_its_pairs_out_of_fold_is_worse_than_what_it_has_learned(count):
    pairs = draw(count, seed=0, noise=0.3)
    predictor = fit_gaussian_process(pairs, 0)
    learned, unseen = (
        np.abs(each - pairs.target).mean() for each in (predictor.predict(pairs.features), predictor.out_of_fold)
    )
    assert unseen > learned
