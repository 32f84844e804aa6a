"""Samples that share their first modules."""

import numpy as np
import pytest

from planted import BUDGET, SPACE
from secateur.space.cost import Budget
from secateur.space.sampling import space_filling
from secateur.space.search_space import define_space
from secateur.space.stems import EACH, SHARED, stem_filling


def modules_run(rows):
    """Count the distinct prefixes: what is run when candidates are measured in order, each from where it differs."""
    return len({row[:depth] for row in rows for depth in range(1, len(row) + 1)})


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_takes_less_work_than_one_that_shares_nothing(seed):
    rows, apart = (draw(SPACE, BUDGET, 20, [], seed) for draw in (stem_filling, space_filling))
    assert len(set(rows)) == len(rows) == len(apart) == 20
    assert modules_run(rows) < 0.95 * modules_run(apart)
    depth = round(SHARED * SPACE.num_modules)
    assert len({row[:depth] for row in rows}) == 20 // EACH


def test_all_are_in_the_band_and_the_seed_decides():
    one, two, other = (stem_filling(SPACE, BUDGET, 21, [], seed) for seed in (1, 1, 2))
    assert one == two != other
    assert all(BUDGET.admits(SPACE.decoder_parameters(levels)) for levels in one)


def test_what_is_known_is_not_drawn_again():
    known = stem_filling(SPACE, BUDGET, 20, [], seed=0)
    assert not set(known) & set(stem_filling(SPACE, BUDGET, 20, known, seed=0))


def test_stems_are_far_from_each_other():
    stems = np.array(stem_filling(SPACE, BUDGET, 20, [], seed=0)[::EACH])
    apart = np.array(space_filling(SPACE, BUDGET, 20 // EACH, [], seed=0))
    assert (stems == apart).all()


def test_a_space_of_few_gives_what_it_has(prepared):
    """Where the rest of the modules leaves nothing to draw, the sample is filled up from elsewhere."""
    space = define_space(prepared.dense.shape, 2, 2)
    budget = Budget.from_keep(space.shape, 0.6, 0.2)
    rows, apart = (draw(space, budget, 20, [], 0) for draw in (stem_filling, space_filling))
    assert len(set(rows)) == len(rows)
    assert len(rows) >= 0.8 * len(apart)
