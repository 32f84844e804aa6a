"""Latency as a cost that adds up over the blocks of a table."""

import pytest

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError
from secateur.model.shape import BlockKind
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, Budget
from secateur.space.latency_table import LatencyTable, PhaseLatency


@pytest.fixture
def table():
    return LatencyTable(
        device="a device",
        dtype="float32",
        prompt_tokens=512,
        batch=1,
        repeats=3,
        kv_heads=(2, 4),
        ffn_widths=(16, 48),
        prefill=PhaseLatency(attention=(10.0, 20.0), mlp=(4.0, 8.0), outside=100.0),
        decode=PhaseLatency(attention=(1.0, 1.5), mlp=(0.5, 0.75), outside=2.0),
        seconds=1.0,
    )


def test_the_latency_of_an_architecture_is_the_sum_of_its_blocks_and_what_is_outside(table, prepared):
    architecture = Architecture.from_widths((4, 48, 2, 16, 0, 48))
    costs = table.costs
    assert costs["prefill_ms"].of(prepared.dense.shape, architecture) == 20 + 8 + 10 + 4 + 0 + 8 + 100
    assert costs["decode_ms"].of(prepared.dense.shape, architecture) == 1.5 + 0.75 + 1 + 0.5 + 0 + 0.75 + 2


@pytest.mark.parametrize(("width", "expected"), [(0, 0.0), (1, 4.0), (16, 4.0), (24, 5.0), (48, 8.0)])
def test_between_timed_widths_it_is_linear_and_a_block_that_is_gone_takes_no_time(table, prepared, width, expected):
    """A narrow block takes as long as the narrowest that was timed: calling it costs what it costs."""
    block = table.costs["prefill_ms"].of_module
    assert block(prepared.dense.shape, BlockKind.MLP, width) == pytest.approx(expected)


def test_the_table_is_the_same_behind_the_database(table):
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table


def test_a_latency_that_the_dense_model_has_already_is_nothing_to_prune_for(table, prepared):
    costs = COSTS | table.costs
    with pytest.raises(BudgetError, match=r"the dense model has 8.75 ms per generated token.*--max-latency-ms decode"):
        Budget.from_config(prepared.dense.shape, BudgetConfig(max_decode_ms=8.75), costs)
    budget = Budget.from_config(prepared.dense.shape, BudgetConfig(max_decode_ms=8.0, band=0.25), costs)
    assert [(limit.ceiling, limit.floor) for limit in budget.limits] == [(8.0, 6.0)]
