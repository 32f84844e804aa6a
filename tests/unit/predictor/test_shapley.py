from itertools import combinations, permutations

import numpy as np
import pytest

from secateur.predictor import shapley
from secateur.predictor.shapley import feature_shapley, module_interactions, module_shapley

NUM_MODULES = 6


@pytest.fixture
def tables():
    """What each of 5 levels of each module costs."""
    return np.random.default_rng(0).normal(size=(NUM_MODULES, 5))


@pytest.fixture
def drawn():
    rng = np.random.default_rng(1)
    return rng.integers(0, 5, size=(7, NUM_MODULES)), rng.integers(0, 5, size=(4, NUM_MODULES))


def each(tables, levels):
    return tables[np.arange(levels.shape[1]), levels]


def mixed(rows):
    """Nothing is simple about it: products of threes, a maximum, a logarithm."""
    return np.log1p(rows.sum(1)) + rows[:, 0] * rows[:, 1] * rows[:, 2] + rows.max(1) * rows[:, -1]


def all_orders(score, candidate, starts):
    """The definition: mean over every order and every background of what a player changes when it comes in."""
    values = np.zeros(len(candidate))
    orders = list(permutations(range(len(candidate))))
    for start in starts:
        for order in orders:
            now = start.copy()
            for player in order:
                before = score(now[None])[0]
                now[player] = candidate[player]
                values[player] += score(now[None])[0] - before
    return values / (len(orders) * len(starts))


class TestModules:
    def test_of_an_additive_score_values_are_exact(self, tables, drawn):
        levels, background = drawn
        values = module_shapley(lambda rows: each(tables, rows).sum(1), levels, background, len(background), seed=0)
        np.testing.assert_allclose(values, each(tables, levels) - each(tables, background).mean(0))

    @pytest.mark.parametrize("num_permutations", [4, 8])
    def test_they_sum_to_the_score_less_that_of_the_background(self, drawn, num_permutations):
        levels, background = drawn
        values = module_shapley(mixed, levels, background, num_permutations, seed=0)
        np.testing.assert_allclose(values.sum(1), mixed(levels) - mixed(background).mean())

    def test_with_fewer_permutations_each_is_compared_with_as_many_backgrounds(self, drawn):
        levels, background = drawn
        sums = mixed(levels) - module_shapley(mixed, levels, background, 1, seed=0).sum(1)
        for compared_with in sums:
            assert np.isclose(compared_with, mixed(background)).any()

    def test_many_permutations_agree_with_the_definition(self):
        rng = np.random.default_rng(0)
        levels, background = rng.integers(0, 5, size=(1, 4)), rng.integers(0, 5, size=(2, 4))
        values = module_shapley(mixed, levels, background, 4_000, seed=0)
        exact = all_orders(mixed, levels[0], background)
        np.testing.assert_allclose(values[0], exact, atol=0.02 * np.abs(exact).max())

    def test_two_modules_share_their_product(self):
        """Antithetic pairs: of a product, one order and its reverse are enough."""
        levels, background = np.array([[3, 2, 4]]), np.zeros((1, 3), dtype=int)
        values = module_shapley(lambda rows: (rows[:, 0] * rows[:, 1]).astype(float), levels, background, 1, seed=0)
        np.testing.assert_allclose(values, [[3, 3, 0]])

    def test_the_seed_decides(self, drawn):
        one, same, other = (module_shapley(mixed, *drawn, 2, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_rows_are_scored_in_few_calls_of_bounded_size(self, drawn, monkeypatch):
        sizes = []

        def score(rows):
            sizes.append(len(rows))
            return mixed(rows)

        values = module_shapley(score, *drawn, 4, seed=0)
        assert len(sizes) == 2
        assert values.shape == drawn[0].shape
        monkeypatch.setattr(shapley, "ROWS_PER_CALL", 50)
        sizes.clear()
        module_shapley(score, *drawn, 4, seed=0)
        assert len(sizes) > 2
        assert max(sizes) <= 50


class TestFeatures:
    def test_of_a_line_values_are_its_terms(self):
        rng = np.random.default_rng(0)
        features, background, slopes = rng.normal(size=(3, 5)), rng.normal(size=(2, 5)), np.arange(5.0)
        values = feature_shapley(lambda rows: rows @ slopes, features, background, 2, seed=0)
        np.testing.assert_allclose(values, (features - background.mean(0)) * slopes)


class TestInteractions:
    @pytest.mark.parametrize("num_modules", [5, 6])
    def test_a_product_of_two_modules_is_found_and_nothing_else(self, num_modules):
        rng = np.random.default_rng(0)
        levels, background = rng.integers(0, 5, size=(3, num_modules)), rng.integers(0, 5, size=(4, num_modules))

        def score(rows):
            return 10.0 * rows.sum(1) + rows[:, 1] * rows[:, 3]

        beyond = module_interactions(score, levels, background[:1], 2, seed=0)
        expected = np.zeros_like(beyond)
        expected[:, 1, 3] = expected[:, 3, 1] = (levels[:, 1] - background[0, 1]) * (levels[:, 3] - background[0, 3])
        np.testing.assert_allclose(beyond, expected, atol=1e-9)

    @pytest.mark.parametrize("num_modules", [4, 5])
    def test_many_permutations_agree_with_the_definition(self, num_modules):
        rng = np.random.default_rng(3)
        candidate, start = rng.integers(0, 5, size=(2, num_modules))
        found = module_interactions(mixed, candidate[None], start[None], 1_500, seed=0)[0]

        def value(present):
            return mixed(np.where(np.isin(np.arange(num_modules), present), candidate, start)[None])[0]

        exact = np.zeros((num_modules, num_modules))
        for a, b in combinations(range(num_modules), 2):
            others = [player for player in range(num_modules) if player not in (a, b)]
            # All subsets of a size weigh the same, and all sizes together the same.
            means = [
                np.mean(
                    [
                        value([*S, a, b]) - value([*S, a]) - value([*S, b]) + value([*S])
                        for S in combinations(others, size)
                    ]
                )
                for size in range(num_modules - 1)
            ]
            exact[a, b] = exact[b, a] = np.mean(means)
        np.testing.assert_allclose(found, exact, atol=0.03 * np.abs(exact).max())

    def test_the_seed_decides(self, drawn):
        one, same, other = (module_interactions(mixed, *drawn, 1, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
        assert np.array_equal(one, one.transpose(0, 2, 1))
