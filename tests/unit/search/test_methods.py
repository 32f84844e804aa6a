from typing import get_args

import pytest
import torch

from planted import Problem
from secateur.config import SearchConfig
from secateur.errors import BudgetError
from secateur.search.block_influence import block_influence, layer_dropping_architecture
from secateur.search.methods import (
    ALLOCATIONS,
    JI2023,
    METHODS,
    SEARCHES,
    AllocationInputs,
    measure_the_one,
    single_architecture_space,
)
from secateur.search.uniform import uniform_architectures, uniform_middle_architecture
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of


@pytest.fixture
def make_inputs(prepared):
    def make(shape=prepared.dense.shape, keep=0.6):
        return AllocationInputs(
            dense=prepared.dense,
            shape=shape,
            budget=Budget.from_keep(prepared.dense.shape, keep, 0.01),
            statistics=prepared.statistics,
            walk=prepared.walk,
            calibration=prepared.calibration,
            batch_tokens=96,
        )

    return make


def test_the_configuration_knows_exactly_these_methods():
    assert get_args(SearchConfig.model_fields["method"].annotation) == METHODS
    assert set(METHODS) == {*SEARCHES, JI2023, *ALLOCATIONS}
    assert len(set(METHODS)) == len(METHODS)


def test_the_configuration_says_which_of_them_measure_nothing():
    assert METHODS[-4:] == tuple(ALLOCATIONS)
    assert "the last four measure nothing" in SearchConfig.model_fields["method"].description


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("keep", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("method", ALLOCATIONS)
def test_every_allocation_fills_the_budget_and_exceeds_it_never(make_inputs, prepared, method, keep, bias):
    shape = prepared.dense.shape.with_output_bias() if bias else prepared.dense.shape
    inputs = make_inputs(shape, keep)
    left = inputs.budget.ceiling - cost_of(shape, ALLOCATIONS[method](inputs)).decoder_parameters
    assert 0 <= left < shape.mlp.parameters_at(1)


@pytest.mark.parametrize("method", ALLOCATIONS)
def test_every_allocation_gives_the_same_again(make_inputs, method):
    assert ALLOCATIONS[method](make_inputs()) == ALLOCATIONS[method](make_inputs())


def test_allocations_are_what_their_names_say(make_inputs):
    inputs = make_inputs()
    shape, budget = inputs.shape, inputs.budget
    influence = block_influence(inputs.walk, inputs.calibration, 96)
    assert ALLOCATIONS["uniform"](inputs) == uniform_architectures(shape, budget)[0]
    assert ALLOCATIONS["uniform_middle"](inputs) == uniform_middle_architecture(shape, budget)
    assert ALLOCATIONS["block_influence"](inputs) == layer_dropping_architecture(shape, budget, influence)


def test_a_budget_without_room_for_a_head_in_every_layer_is_refused_by_the_uniform_one(make_inputs):
    with pytest.raises(BudgetError, match=r"leaves no KV head or no FFN channel per layer at .*; raise --keep"):
        ALLOCATIONS["uniform"](make_inputs(keep=0.02))


def test_what_was_allocated_is_a_space_of_one_and_measured_once(prepared):
    architecture = Architecture.from_widths((3, 31, 0, 48, 1, 7))
    space = single_architecture_space(prepared.dense.shape, architecture)
    problem = Problem(lambda a: 0.5 if a == architecture else None, space, Budget.from_keep(space.shape, 0.6, 0.9))
    found = measure_the_one(problem.task(num_measurements=160))
    assert [measurement.architecture for measurement in found.measurements] == [architecture]
    assert found.best.kl == 0.5
    assert [candidate.origin for candidate in problem.candidates] == ["allocated"]


def test_calibration_statistics_are_left_as_they_were(make_inputs, prepared):
    before = [statistics.gram.clone() for statistics in prepared.statistics]
    for allocate in ALLOCATIONS.values():
        allocate(make_inputs())
    assert all(torch.equal(one.gram, other) for one, other in zip(prepared.statistics, before, strict=True))


@pytest.mark.parametrize("experts", ["widths", "whole"])
@pytest.mark.parametrize("method", ALLOCATIONS)
def test_mixtures_are_allocated_as_other_models(prepare, method, experts):
    prepared = prepare("qwen2_moe", experts=experts)
    shape = prepared.dense.shape
    budget = Budget.from_keep(shape, 0.7, 0.2)
    inputs = AllocationInputs(
        prepared.dense, shape, budget, prepared.statistics, prepared.walk, prepared.calibration, batch_tokens=96
    )
    used = budget.used(shape, ALLOCATIONS[method](inputs))
    assert budget.admits(*used)
