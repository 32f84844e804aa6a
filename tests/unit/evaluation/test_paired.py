"""Paired intervals and tests on differences whose answer is known."""

import itertools

import pytest
import torch

from secateur.evaluation.paired import compare_paired
from secateur.evaluation.resampling import sign_flip_p_value


def test_few_differences_are_flipped_in_all_ways():
    """Of 2 ** 5 ways to flip 1, 2, 3, 4, 5 and no sign, two are as far from 0 as all together."""
    assert sign_flip_p_value(torch.arange(1.0, 6.0), seed=0) == 2 / 32
    values = torch.tensor([3.0, -1.0, 2.0, 0.5])
    ways = [abs(float((values * torch.tensor(way)).sum())) for way in itertools.product((1, -1), repeat=4)]
    seen = abs(float(values.sum()))
    assert sign_flip_p_value(values, seed=0) == sum(way >= seen for way in ways) / 16


def test_models_that_do_not_differ_have_a_p_value_of_one():
    assert sign_flip_p_value(torch.zeros(40), seed=0) == 1.0


def test_under_no_difference_small_p_values_are_as_rare_as_they_say():
    noise = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    small = sum(sign_flip_p_value(row, seed) < 0.1 for seed, row in enumerate(noise))
    assert 8 <= small <= 34, "20 are expected, 4.2 is the deviation"


def test_a_plain_difference_has_the_least_p_value_that_flips_can_give():
    assert sign_flip_p_value(torch.rand(40) + 1, seed=0) == pytest.approx(1 / 10_001)


def test_the_mean_weighs_windows_by_their_tokens_and_lies_in_the_interval():
    differences = torch.tensor([2.0, -1.0, 6.0, 3.0])
    weights = torch.tensor([4, 2, 4, 2])
    result = compare_paired("a", "b", "ppl-4", differences, weights, seed=0)
    assert result.difference == pytest.approx(10 / 12)
    assert -0.5 <= result.low < result.difference < result.high <= 1.5
    mirrored = compare_paired("b", "a", "ppl-4", -differences, weights, seed=0)
    assert (mirrored.difference, mirrored.low) == (-result.difference, pytest.approx(-result.high))
    assert mirrored.p_value == result.p_value
