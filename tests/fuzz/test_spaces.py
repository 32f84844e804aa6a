"""Shapes, spaces and budgets of any kind: what is proposed is in the space, in the budget, and counted right."""

import os
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import BudgetError
from secateur.model.shape import BlockShape, DenseShape
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import SearchSpace, level_grid

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None)
# Drawing into a band takes up to a thousand attempts.
drawn_for = settings(max_examples=max(EXAMPLES // 10, 20), deadline=None)


@st.composite
def shapes(draw: st.DrawFn) -> DenseShape:
    heads, width = draw(st.integers(1, 16)), draw(st.integers(1, 300))
    per_head, per_channel = draw(st.integers(1, 5_000)), draw(st.integers(1, 500))
    return DenseShape(
        hidden_size=draw(st.integers(1, 64)),
        num_layers=draw(st.integers(1, 6)),
        num_query_heads=heads,
        num_kv_heads=heads,
        head_dim=1,
        ffn_width=width,
        vocab_size=10,
        attention=BlockShape(heads, per_head, 0, per_head),
        mlp=BlockShape(width, per_channel, 0, per_channel),
        parameters_outside=draw(st.integers(0, 1_000)),
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    shape = draw(shapes())
    grids = [
        level_grid(groups, draw(st.integers(2, 12)), draw(st.sampled_from([1, 2, 8])))
        for groups in (shape.num_kv_heads, shape.ffn_width)
    ]
    return SearchSpace(shape=shape, options=tuple(tuple(grid) for grid in grids) * shape.num_layers)


BUDGETS = st.tuples(st.floats(0.02, 1.0), st.floats(0.0, 0.2))


def levels_of(space: SearchSpace, draw: Any) -> tuple[int, ...]:
    return tuple(draw(st.integers(0, len(options) - 1)) for options in space.options)


@fuzzed
@given(data=st.data(), space=spaces())
def test_an_architecture_is_the_same_as_levels_widths_and_text(data: st.DataObject, space: SearchSpace) -> None:
    levels = levels_of(space, data.draw)
    architecture = space.architecture(levels)
    assert space.levels(architecture) == levels
    assert Architecture.from_widths(architecture.widths) == architecture
    again = Architecture.model_validate_json(architecture.model_dump_json())
    assert again.key == architecture.key


@fuzzed
@given(data=st.data(), space=spaces())
def test_costs_are_sums_and_never_fall_with_a_width(data: st.DataObject, space: SearchSpace) -> None:
    levels = levels_of(space, data.draw)
    rows = np.array([levels])
    for name in ("decoder_parameters", "flops_per_token"):
        counted = cost_of(space.shape, space.architecture(levels))
        assert float(space.cost(name, rows)[0]) == getattr(counted, name)
    module = data.draw(st.integers(0, space.num_modules - 1))
    if levels[module] + 1 < len(space.options[module]):
        wider = (*levels[:module], levels[module] + 1, *levels[module + 1 :])
        assert space.decoder_parameters(wider) > space.decoder_parameters(levels)


@drawn_for
@given(space=spaces(), wanted=BUDGETS, seed=st.integers(0, 2**31 - 1))
def test_what_is_drawn_is_in_the_space_and_in_the_budget(
    space: SearchSpace, wanted: tuple[float, float], seed: int
) -> None:
    budget = Budget.from_keep(space.shape, *wanted)
    drawn = sample_architectures(space, budget, 5, seed)
    assert len({each.key for each in drawn}) == len(drawn) <= 5
    for architecture in drawn:
        assert budget.admits(*space.used(budget, space.levels(architecture)))
    assert drawn == sample_architectures(space, budget, 5, seed), "the seed says all"


@drawn_for
@given(data=st.data(), space=spaces(), wanted=BUDGETS, seed=st.integers(0, 2**31 - 1))
def test_what_is_repaired_or_mutated_is_in_the_budget_or_given_up(
    data: st.DataObject, space: SearchSpace, wanted: tuple[float, float], seed: int
) -> None:
    budget, rng = Budget.from_keep(space.shape, *wanted), np.random.default_rng(seed)
    levels = levels_of(space, data.draw)
    for found in (repair(space, levels, budget, rng), mutate(space, levels, budget, 2, rng)):
        if found is not None:
            assert len(found) == space.num_modules
            assert budget.admits(*space.used(budget, found))


@fuzzed
@given(shape=shapes(), keep=st.floats(allow_nan=True, allow_infinity=True), band=st.floats(0, 1))
def test_a_share_is_a_share_or_refused(shape: DenseShape, keep: float, band: float) -> None:
    try:
        budget = Budget.from_keep(shape, keep, band)
    except BudgetError:
        assert not 0 < keep <= 1
        return
    assert 0 < keep <= 1
    assert 0 <= budget.ceiling <= shape.decoder_parameters
    assert budget.floor >= 1 or budget.ceiling == 0
