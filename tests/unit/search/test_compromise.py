"""The price of less disparity is paid on models that were made, and these differ from what was searched."""

import pytest

from secateur.search.compromise import least_disparity_made

# Mean log ratio and disparity as searched; the last two are behind the front.
SEARCHED = [(0.100, 0.20), (0.104, 0.16), (0.110, 0.10), (0.116, 0.06), (0.130, 0.02), (0.105, 0.19), (0.120, 0.08)]
POINTS = [{"quality": quality, "disparity": disparity} for quality, disparity in SEARCHED]


def choose(dearer=lambda price: price, within=0.02, most=4):
    """Make points whose price over the best quality is what `dearer` makes of the price as searched."""
    order = []

    def make(index):
        order.append(index)
        quality, disparity = SEARCHED[index]
        return {"quality": 0.09 + dearer(quality - 0.1), "disparity": disparity}

    chosen, made = least_disparity_made(POINTS, make, within, most)
    assert order == list(made)
    return chosen, order


def test_what_keeps_its_price_is_made_once():
    assert choose() == (3, [0, 3])


def test_where_models_that_are_made_cost_more_a_dearer_point_is_given_up():
    chosen, order = choose(lambda price: 2 * price)
    assert order == [0, 3, 1]
    assert chosen == 1


def test_where_they_cost_less_more_is_taken():
    assert choose(lambda price: price / 2)[0] == 4


def test_where_nothing_holds_its_price_the_best_quality_is_taken():
    assert choose(lambda price: price + 0.05 * (price > 0))[0] == 0


@pytest.mark.parametrize("most", [2, 3, 4])
def test_no_more_are_made_than_was_said(most):
    assert len(choose(lambda price: 3 * price, most=most)[1]) <= most


def test_a_disparity_that_making_makes_worse_is_not_taken_for_less():
    def make(index):
        return {"quality": POINTS[index]["quality"], "disparity": 0.3 if index else 0.2}

    chosen, _ = least_disparity_made(POINTS, make, 0.02, 4)
    assert chosen == 0
