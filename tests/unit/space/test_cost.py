import dataclasses
import math

import pytest

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError
from secateur.model.shape import BlockKind, BlockShape
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, WORDS, Budget, Cost, Limit, cost_of, module_parameters


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


def test_every_cost_has_its_function_and_its_words():
    assert list(COSTS) == list(Cost.model_fields)
    assert set(COSTS) < set(WORDS)


def test_blocks_that_are_gone_leave_what_is_outside(prepared):
    shape = prepared.dense.shape
    nothing = Architecture.from_widths((0, 0) * 3)
    for name, cost in COSTS.items():
        assert cost.of(shape, nothing) == (shape.parameters_outside if name == "total_parameters" else 0)


class TestALimit:
    def test_of_a_count_has_a_whole_floor_and_of_a_time_has_not(self):
        assert Limit.below(COSTS["flops_per_token"], 1001, 0.1).floor == 901
        assert Limit.below(COSTS["flops_per_token"], 10.0, 0.25).floor == 7.5

    def test_that_the_dense_model_meets_is_never_used_up(self):
        slack = Limit(COSTS["flops_per_token"], 1000, math.inf)
        assert slack.widened(900) == slack


class TestABudgetOfSeveralLimits:
    """Of the tiny decoder: 32,448 decoder parameters, 38,624 in all, 384 bytes of KV cache per token."""

    @pytest.fixture
    def make(self, prepared):
        return lambda band=0.1, **limits: Budget.from_config(prepared.dense.shape, BudgetConfig(band=band, **limits))

    def test_keep_alone_is_the_budget_that_it_always_was(self, make, prepared):
        assert make(keep=0.6) == Budget.from_keep(prepared.dense.shape, 0.6, 0.1)
        assert make() == Budget.from_keep(prepared.dense.shape, 0.75, 0.1)

    def test_admits_what_exceeds_no_limit_and_uses_one_up(self, make):
        budget = make(max_params=20_000, max_kv_cache_bytes=200)
        assert budget.admits(19_000, 100)
        assert budget.admits(10_000, 190)
        assert not budget.admits(10_000, 100), "neither is used up"
        assert budget.allows(10_000, 100)
        assert not budget.admits(20_001, 190)
        assert not budget.admits(20_000, 201)

    def test_a_limit_that_the_dense_model_meets_holds_and_is_no_reason_to_stop(self, make, prepared):
        budget = make(keep=0.5, max_kv_cache_bytes=384)
        ceiling = prepared.dense.shape.decoder_parameters // 2
        assert budget.admits(ceiling, 384)
        assert not budget.admits(ceiling // 2, 384), "all heads are there, and half of the budget is unused"

    def test_that_the_dense_model_meets_has_nothing_to_prune(self, make, prepared):
        dense = cost_of(prepared.dense.shape, Architecture.dense(prepared.dense.shape))
        words = f"the dense model has {dense.total_parameters:,} parameters, .*lower --max-params"
        with pytest.raises(BudgetError, match=words):
            make(max_params=dense.total_parameters)
        assert make(max_params=dense.total_parameters - 1)

    def test_says_itself_with_units(self, make):
        budget = make(keep=0.5, max_kv_cache_bytes=200)
        assert str(budget).endswith("decoder parameters and 200 bytes of KV cache per token")
        assert budget.options == "--keep or --max-kv-cache-bytes"

    def test_is_widened_limit_by_limit(self, make):
        wide = make(max_params=20_000, max_kv_cache_bytes=200).widened(5_000, 1)
        assert [limit.floor for limit in wide.limits] == [15_000, 180]
        assert [limit.ceiling for limit in wide.limits] == [20_000, 200]
