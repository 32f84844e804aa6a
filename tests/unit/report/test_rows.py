"""The share of a baseline's damage that the result still has."""

import math

import pytest

from secateur.report.rows import excess_log_perplexity_left


def rows_with(report, **perplexities):
    return [
        row.model_copy(update={"perplexity": row.perplexity.model_copy(update={"value": perplexities[row.name]})})
        for row in report.rows
        if row.name in perplexities
    ]


def test_half_of_the_damage_in_logarithms_is_half(report):
    rows = rows_with(report, dense=4.0, uniform=16.0, secateur=8.0)
    assert excess_log_perplexity_left(rows) == {"uniform": pytest.approx(math.log(2) / math.log(4))}


def test_a_baseline_without_damage_gives_no_share(report):
    assert excess_log_perplexity_left(rows_with(report, dense=4.0, uniform=3.9, secateur=4.1)) == {"uniform": None}
