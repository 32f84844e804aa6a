"""Losses are planted over architectures at one budget; where it matters, a predictor has learned them from noise."""

from functools import cache

import numpy as np
import pytest

from planted import BUDGET, SPACE
from secateur.predictor.gaussian_process import fit_gaussian_process
from secateur.predictor.protocol import Pairs
from secateur.search import shrink as module
from secateur.search.shrink import priced, residual_deviation, shrink
from secateur.space.encoding import FeatureLayout
from secateur.space.sampling import sample_architectures
from secateur.space.smaller_space import SmallerSpace

LAYOUT = FeatureLayout(
    names=tuple(f"kept.{module}" for module in range(SPACE.num_modules)),
    monotone=(-1,) * SPACE.num_modules,
    blocks={"kept": slice(0, SPACE.num_modules)},
    additive=(),
)

WHOLE = SmallerSpace.of(SPACE)
WIDEST = 8
SAMPLE_ONCE = cache(sample_architectures)


@pytest.fixture(scope="module")
def band():
    """Architectures of the budget band: whole-space levels, one row each."""
    return np.array([SPACE.levels(drawn) for drawn in sample_architectures(SPACE, BUDGET, 400, seed=7)])


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch):
    draw_once = ("sample_architectures", SAMPLE_ONCE)
    for name, value in (("NUM_DRAWN", 400), ("NUM_INTERACTING", 12), draw_once):
        monkeypatch.setattr(module, name, value)


def price_of_width(rows):
    """Every group of every module is worth the same."""
    return -3.0 * (rows / WIDEST).sum(1)


def unequal(rows):
    """Later modules matter more, and each the more the narrower it is."""
    return np.log(0.05 + (np.linspace(0.2, 2.0, 8) * (1 - rows / WIDEST) ** 2).sum(1))


def harmful(rows):
    return price_of_width(rows) + (rows[:, 3] == 4)


def harmful_together(rows):
    return price_of_width(rows) + 2.0 * ((rows[:, 2] <= 3) & (rows[:, 5] <= 3))


def one_round(loss, measured, known=WHOLE, round_number=1, seed=0, score=None):
    return shrink(SPACE, BUDGET, score or loss, measured, np.exp(loss(measured)), known, round_number, seed)


def left(smaller):
    """(module, level) of what has left alone."""
    return {
        (each.module, SPACE.options[each.module].index(each.width)) for each in smaller.removed if each.partner is None
    }


class TestWhatLeaves:
    def test_a_choice_that_harms_at_the_budget(self, band):
        smaller = one_round(harmful, band[:100])
        assert left(smaller) == {(3, 4)}
        (removed,) = smaller.removed
        assert (removed.order, removed.round, removed.partner) == (1, 1, None)
        assert 0 < removed.low < removed.mean_effect
        assert removed.mean_effect == pytest.approx(1, abs=0.5)
        assert removed.num_samples >= module.FEWEST_SAMPLES

    def test_nothing_where_width_has_one_price(self, band):
        """The narrowest choices have by far the largest Shapley values, and are as good a bargain as any."""
        assert one_round(price_of_width, band[:100]) == WHOLE

    @pytest.mark.parametrize("seed", range(3))
    def test_next_to_nothing_where_a_predictor_learned_that_from_noisy_measurements(self, band, seed):
        measured = band[:100]
        log_kl = price_of_width(measured) + 0.3 * np.random.default_rng(seed).normal(size=100)
        predictor = fit_gaussian_process(Pairs(LAYOUT, measured.astype(float), np.exp(log_kl)), seed)
        smaller = shrink(
            SPACE,
            BUDGET,
            lambda rows: predictor.predict(rows.astype(float)),
            measured,
            np.exp(log_kl),
            WHOLE,
            round_number=1,
            seed=seed,
        )
        assert len(smaller.removed) <= 1

    def test_narrow_choices_of_modules_that_matter_and_wide_ones_of_those_that_do_not(self, band):
        gone = left(one_round(unequal, band[:100]))
        narrow, wide = ({m for m, level in gone if (level < 4) == is_narrow} for is_narrow in (True, False))
        assert {6, 7} <= narrow <= {3, 4, 5, 6, 7}
        assert {0, 1} <= wide <= {0, 1, 2, 3, 4}

    def test_a_pair_that_harms_only_together(self, band):
        smaller = one_round(harmful_together, band)
        pairs = [each for each in smaller.removed if each.order == 2]
        assert pairs
        for each in pairs:
            assert (each.module, each.partner.module) == (2, 5)
            assert each.width <= SPACE.options[2][3]
            assert each.partner.width <= SPACE.options[5][3]
            assert 0 < each.low < each.mean_effect
        # What is forbidden is the pair: both levels are still there for other partners.
        level, other = SPACE.options[2].index(pairs[0].width), SPACE.options[5].index(pairs[0].partner.width)
        with_pair = band[(band[:, 2] == level) & (band[:, 5] == other)]
        assert not smaller.admitted(with_pair).any()
        assert level in smaller.allowed[2]
        assert other in smaller.allowed[5]

    def test_later_rounds_go_on_from_what_is_known(self, band):
        one = one_round(unequal, band[:100])
        two = one_round(unequal, band[:100], known=one, round_number=2)
        assert two.removed[: len(one.removed)] == one.removed
        assert {each.round for each in two.removed[len(one.removed) :]} <= {2}
        assert all(later <= earlier for later, earlier in zip(two.allowed, one.allowed, strict=True))


class TestGuards:
    def test_twenty_at_most(self, band, monkeypatch):
        monkeypatch.setattr(module, "LEAST_FEASIBLE", 0.0)
        assert len(one_round(unequal, band).removed) == 20

    def test_a_fifth_of_the_band_is_left(self, band, monkeypatch):
        monkeypatch.setattr(module, "MOST_REMOVED", 1_000)
        smaller = one_round(unequal, band)
        assert 0.15 < smaller.feasible_share(band) < 0.4
        monkeypatch.setattr(module, "LEAST_FEASIBLE", 0.6)
        assert 0.5 < one_round(unequal, band).feasible_share(band) < 0.9

    def only_the_middle_does_not_harm(self, rows):
        return price_of_width(rows) + 5.0 * (rows[:, 3] != 4)

    def test_the_widest_stays(self, band, monkeypatch):
        monkeypatch.setattr(module, "LEAST_FEASIBLE", 0.0)
        gone = left(one_round(self.only_the_middle_does_not_harm, band))
        assert len(gone) >= 4
        assert {m for m, _ in gone} == {3}
        assert (3, WIDEST) not in gone

    def test_so_many_options_stay(self, band, monkeypatch):
        assert module.FEWEST_OPTIONS == 2
        monkeypatch.setattr(module, "LEAST_FEASIBLE", 0.0)
        monkeypatch.setattr(module, "FEWEST_OPTIONS", 7)
        smaller = one_round(self.only_the_middle_does_not_harm, band)
        assert len(smaller.allowed[3]) == 7

    def test_what_one_of_the_best_uses_stays(self, band):
        """It is good in one company, and harms in most."""
        lucky = band[band[:, 3] == 4][:1]

        def loss(rows):
            return harmful(rows) - 10.0 * (rows == lucky).all(1)

        measured = np.concatenate([band[:99], lucky])
        assert (3, 4) in left(one_round(harmful, measured))
        smaller = one_round(loss, measured)
        assert (3, 4) not in left(smaller)
        assert smaller.admits(tuple(lucky[0].tolist()))

    @pytest.mark.parametrize(("near", "leaves"), [(4, False), (5, True)])
    def test_it_takes_five_measured_with_the_level_or_the_one_beside_it(self, band, near, leaves):
        beside = np.abs(band[:, 3] - 4) <= 1
        measured = np.concatenate([band[beside & (band[:, 3] != 4)][:near], band[~beside][:60]])
        assert ((3, 4) in left(one_round(harmful, measured))) == leaves

    def test_a_level_that_is_hardly_drawn_stays(self, band, monkeypatch):
        monkeypatch.setattr(module, "FEWEST_SAMPLES", 300)
        assert left(one_round(harmful, band)) == set()

    def test_a_predictor_that_was_wrong_where_it_was_measured_takes_nothing_out(self, band):
        measured = band[:100]
        noise = np.random.default_rng(0).normal(size=100)
        kl = np.exp(harmful(measured) + 3 * noise)
        assert shrink(SPACE, BUDGET, harmful, measured, kl, WHOLE, 1, seed=0) == WHOLE

    def test_an_effect_too_small_to_matter_takes_nothing_out(self, band):
        assert one_round(lambda rows: price_of_width(rows) + 0.004 * (rows[:, 3] == 4), band) == WHOLE

    def test_with_too_few_measurements_nothing_leaves(self, band):
        assert one_round(harmful, band[:4]) == WHOLE


class TestPrice:
    def test_it_is_what_most_pay(self):
        cost = np.random.default_rng(0).normal(size=(50, 8))
        loss = -2.0 * cost
        loss[:, 0] += 5.0
        price, effects = priced(loss, cost)
        assert price == pytest.approx(2.0)
        np.testing.assert_allclose(effects[:, 1:], 0, atol=1e-12)
        np.testing.assert_allclose(effects[:, 0], 5.0)

    def test_it_is_never_negative(self):
        cost = np.random.default_rng(0).normal(size=(50, 8))
        assert priced(3.0 * cost, cost)[0] == 0

    def test_where_nothing_costs_anything_it_is_zero(self):
        price, effects = priced(np.ones((4, 2)), np.zeros((4, 2)))
        assert price == 0
        assert np.array_equal(effects, np.ones((4, 2)))


def test_an_offset_of_the_predictor_is_no_error():
    measured = np.array([0.1, 0.5, 0.9])
    assert residual_deviation(measured + 7, measured) == pytest.approx(0)
    assert residual_deviation(measured + np.array([1, -1, 0]), measured) == pytest.approx(np.std([1, -1, 0]))


def test_the_seed_and_the_round_decide(band):
    one, same = (one_round(unequal, band[:100]) for _ in range(2))
    other_seed = one_round(unequal, band[:100], seed=1)
    assert one == same
    assert [each.low for each in one.removed] != [each.low for each in other_seed.removed]
