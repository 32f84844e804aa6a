"""Fronts and choices on points made by hand; less is better in every column."""

import math

import numpy as np
import pytest

from secateur.search.pareto import choose_point, front_after_front, knee, least_disparity_within, pareto_front, spread

# 0, 1 and 2 are the front, 3 is behind 1, 4 behind everything, 5 equal to 2.
POINTS = np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0], [2.0, 2.0], [5.0, 5.0], [4.0, 0.0]])


def test_the_front_is_what_nothing_else_beats_and_equals_are_both_on_it():
    assert pareto_front(POINTS) == [0, 1, 2, 5]
    assert pareto_front(np.empty((0, 2))) == []


def test_one_objective_has_its_best_as_the_front():
    assert pareto_front(np.array([[3.0], [1.0], [2.0]])) == [1]


def test_three_objectives_keep_what_is_best_in_any():
    assert pareto_front(np.array([[0.0, 9, 9], [9, 0, 9], [9, 9, 0], [9, 9, 9]])) == [0, 1, 2]


def test_points_are_ordered_by_the_fronts_before_them():
    order = front_after_front(POINTS)
    assert sorted(order[:4]) == [0, 1, 2, 5]
    assert order[4:] == [3, 4]
    assert front_after_front(np.empty((0, 2))) == []


def test_a_spread_has_the_ends_and_leaves_out_the_crowded():
    line = np.array([[x, 1 - x] for x in (0.0, 0.5, 0.98, 0.99, 1.0)])
    assert spread(line, 3) == [0, 1, 4]
    assert spread(line, 9) == [0, 1, 2, 3, 4]
    assert spread(line, 0) == []


def test_what_is_behind_the_front_is_taken_only_where_the_front_is_too_small():
    assert set(spread(POINTS[:5], 3)) == {0, 1, 2}
    assert set(spread(POINTS[:5], 4)) == {0, 1, 2, 3}


def test_the_knee_is_where_the_front_bends_whatever_the_units():
    bent = np.array([[0.0, 10.0], [1.0, 2.0], [3.0, 1.5], [10.0, 0.0], [2.0, 9.0]])
    assert knee(bent) == 1
    assert knee(bent * np.array([1e6, 1e-3])) == 1


def test_a_front_of_one_point_has_its_knee_there():
    assert knee(np.array([[1.0, 1.0], [2.0, 2.0]])) == 0


QUALITY = np.array([0.50, 0.51, 0.519, 0.53, 0.9])
DISPARITY = np.array([0.40, 0.30, 0.20, 0.10, 0.0])


def test_the_least_disparity_is_looked_for_among_what_costs_no_more_than_allowed():
    """log(1.02) is 0.0198: the third costs 1.9 %, the fourth 3 %."""
    assert least_disparity_within(QUALITY, DISPARITY, 0.02) == 2
    assert least_disparity_within(QUALITY, DISPARITY, math.expm1(0.0301)) == 3
    assert least_disparity_within(QUALITY, DISPARITY, 0.0) == 0


def test_of_equal_disparities_the_better_quality_is_taken():
    assert least_disparity_within(np.array([0.51, 0.50]), np.array([0.2, 0.2]), 0.02) == 1


@pytest.mark.parametrize(("how", "expected"), [("best_quality", 0), ("least_disparity", 2), ("knee", 3)])
def test_rules_by_name(how, expected):
    points = [{"quality": q, "disparity": d} for q, d in zip(QUALITY, DISPARITY, strict=True)]
    assert choose_point(how, points, 0.02) == expected
