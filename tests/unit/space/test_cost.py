import dataclasses
import math

import pytest

from secateur.errors import BudgetError
from secateur.model.shape import BlockKind, BlockShape
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of, module_parameters


def test_a_block_that_is_gone_costs_nothing_not_even_its_norm(prepared):
    shape = prepared.dense.shape
    assert module_parameters(shape, BlockKind.MLP, 0) == 0
    assert module_parameters(shape, BlockKind.MLP, 1) == 3 * 32 + 32
    assert module_parameters(shape, BlockKind.MLP, 48) == shape.mlp.parameters


def test_a_bias_that_narrowing_brings_is_counted_between_nothing_and_everything(prepared):
    dense = prepared.dense.shape
    shape = dense.with_output_bias()
    for kind in BlockKind:
        whole = dense.block(kind).num_groups
        added = [module_parameters(shape, kind, w) - module_parameters(dense, kind, w) for w in range(whole + 1)]
        assert added == [0, *[32] * (whole - 1), 0]


def test_narrowing_makes_a_block_smaller_even_where_it_brings_a_bias(prepared):
    shape = prepared.dense.shape.with_output_bias()
    for kind in BlockKind:
        costs = [module_parameters(shape, kind, width) for width in range(shape.block(kind).num_groups + 1)]
        assert costs == sorted(set(costs))


def test_a_bias_that_narrowing_brings_comes_out_of_the_budget(prepared):
    dense = prepared.dense.shape
    assert Budget.from_keep(dense.with_output_bias(), 0.7, 0.01) == Budget.from_keep(dense, 0.7, 0.01)


def test_dense_costs_are_written_out_by_hand(prepared):
    """Three Llama layers: hidden 32, 8 query and 4 KV heads of size 8, FFN 48, vocabulary 96."""
    attention, mlp = 32 * (64 + 32 + 32 + 64), 3 * 32 * 48
    cost = cost_of(prepared.dense.shape, Architecture.dense(prepared.dense.shape))
    assert cost.decoder_parameters == 3 * (attention + mlp + 2 * 32)
    assert cost.total_parameters == cost.decoder_parameters + 2 * 96 * 32 + 32
    assert cost.flops_per_token == 2 * 3 * (attention + mlp)
    assert cost.kv_cache_bytes_per_token == 3 * 2 * 4 * 8 * 2


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.0001, 80.0, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(prepared, keep):
    with pytest.raises(BudgetError, match=r"--keep must be a share in \(0, 1\], got"):
        Budget.from_keep(prepared.dense.shape, keep, 0.01)


def test_the_band_is_a_share_of_the_budget_and_lies_below_the_ceiling(prepared):
    dense = prepared.dense.shape.decoder_parameters
    budget = Budget.from_keep(prepared.dense.shape, 0.5, 0.01)
    assert (budget.floor, budget.ceiling) == (math.ceil(dense * 0.5 * 0.99), int(dense * 0.5))
    assert budget.admits(budget.floor)
    assert budget.admits(budget.ceiling)
    assert not budget.admits(budget.ceiling + 1)
    assert not budget.admits(budget.floor - 1)


@pytest.mark.parametrize(("keep", "ceiling"), [(0.57, 1710), (0.29, 870), (0.58, 1740), (0.5, 1500), (1.0, 3000)])
def test_a_share_that_is_a_whole_number_of_parameters_admits_that_number(prepared, keep, ceiling):
    """In floating point, 0.57 of 3000 is a little below 1710."""
    block = BlockShape(num_groups=1, parameters_per_group=1500, parameters_constant=0, weights_per_group=1500)
    shape = dataclasses.replace(prepared.dense.shape, num_layers=1, attention=block, mlp=block)
    assert shape.decoder_parameters == 3000
    assert Budget.from_keep(shape, keep, 0.01).ceiling == ceiling


def test_a_budget_of_next_to_nothing_still_asks_for_something(prepared):
    budget = Budget.from_keep(prepared.dense.shape, 1e-6, 0.5)
    assert budget.ceiling == 0
    assert not budget.admits(0)


def test_a_band_is_widened_downwards_and_never_narrowed():
    budget = Budget.of_decoder_parameters(ceiling=1000, floor=990)
    assert budget.widened(50) == Budget.of_decoder_parameters(ceiling=1000, floor=950)
    assert budget.widened(5) == budget
    assert budget.widened(10_000) == Budget.of_decoder_parameters(ceiling=1000, floor=1)
