import dataclasses
import itertools

import numpy as np
import pytest

from secateur.model.shape import BlockShape, DenseShape
from secateur.search.heuristics import additive_optimum, nearest_levels, uniform_architectures
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of
from secateur.space.search_space import SearchSpace, define_space


def llama_like(num_kv_heads, num_layers=4, ffn_width=100, attention_per_head=100, mlp_per_channel=10):
    """A shape with round numbers; a budget that is a share of it is easily written down."""
    return DenseShape(
        hidden_size=1,
        num_layers=num_layers,
        num_query_heads=num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=1,
        ffn_width=ffn_width,
        vocab_size=10,
        attention=BlockShape(num_kv_heads, attention_per_head, 0, attention_per_head),
        mlp=BlockShape(ffn_width, mlp_per_channel, 0, mlp_per_channel),
        parameters_outside=20,
        mixed_attention=False,
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_additive_optimum_is_that_of_trying_everything(prepared, seed):
    space = SearchSpace(shape=prepared.dense.shape, options=((0, 1, 2, 4), (0, 16, 32, 48)) * 3)
    rng = np.random.default_rng(seed)
    losses = [
        {width: float(rng.random() * (1 - width / options[-1])) for width in options} for options in space.options
    ]
    budget = Budget.from_keep(space.shape, (0.3, 0.5, 0.7, 0.9)[seed % 4], 0.1)

    def loss(levels):
        return sum(losses[m][space.options[m][level]] for m, level in enumerate(levels))

    inside = [
        levels
        for levels in itertools.product(*(range(len(options)) for options in space.options))
        if budget.admits(space.decoder_parameters(levels))
    ]
    found = additive_optimum(space, budget, losses)
    assert budget.admits(space.decoder_parameters(found))
    assert loss(found) == pytest.approx(min(map(loss, inside)), rel=1e-3)


def test_there_is_no_additive_optimum_where_nothing_is_inside_the_band(prepared):
    space = define_space(prepared.dense.shape, 2, 2)
    losses = [dict.fromkeys(options, 1.0) for options in space.options]
    assert additive_optimum(space, Budget(ceiling=100, floor=50), losses) is None


def test_losses_that_are_all_zero_are_no_trouble(prepared):
    losses = [dict.fromkeys(options, 0.0) for options in prepared.space.options]
    budget = Budget.from_keep(prepared.dense.shape, 0.5, 0.05)
    assert budget.admits(prepared.space.decoder_parameters(additive_optimum(prepared.space, budget, losses)))


class TestUniformArchitectures:
    @pytest.mark.parametrize(
        ("num_kv_heads", "keep", "kept_heads"),
        [
            (8, 0.75, [6, 5]),  # 8 * 0.25 is a whole number of heads
            (8, 0.8, [7, 6]),  # floor(8 * 0.2) = 1
            (8, 0.5, [4, 3]),
            (4, 0.8, [4, 3]),  # floor(4 * 0.2) = 0: no head goes
            (32, 0.8, [26, 25]),  # floor(32 * 0.2) = 6
            (5, 0.8, [4, 3]),  # 5 * 0.2 is one head, though 1 - 0.8 is a little below 0.2 in floating point
            (40, 0.8, [32, 31]),  # Llama 13B has 40 heads: 8 go
            (10, 0.9, [9, 8]),
        ],
    )
    def test_heads_are_rounded_as_llm_pruner_does(self, num_kv_heads, keep, kept_heads):
        shape = llama_like(num_kv_heads)
        found = uniform_architectures(shape, Budget.from_keep(shape, keep, 0.01))
        assert [architecture.layers[0].kv_heads for architecture in found] == kept_heads

    @pytest.mark.parametrize("keep", [0.3, 0.5, 0.75, 0.8, 0.95])
    @pytest.mark.parametrize("num_kv_heads", [2, 4, 8, 32])
    def test_layers_are_alike_and_the_mlp_takes_what_is_left(self, num_kv_heads, keep):
        shape = llama_like(num_kv_heads, attention_per_head=800 // num_kv_heads)
        budget = Budget.from_keep(shape, keep, 0.01)
        for architecture in uniform_architectures(shape, budget):
            assert len(set(architecture.layers)) == 1
            used = cost_of(shape, architecture).decoder_parameters
            assert used <= budget.ceiling
            layer = architecture.layers[0]
            if layer.ffn_width < shape.ffn_width:
                wider = Architecture.from_widths((layer.kv_heads, layer.ffn_width + 1) * shape.num_layers)
                assert cost_of(shape, wider).decoder_parameters > budget.ceiling

    def test_a_budget_too_small_for_any_head_gives_none(self):
        shape = llama_like(4)
        assert uniform_architectures(shape, Budget(ceiling=4, floor=1)) == []

    def test_norms_are_paid_for(self, prepared):
        shape = prepared.dense.shape
        heavy = dataclasses.replace(shape, mlp=dataclasses.replace(shape.mlp, parameters_constant=1_000))
        budget = Budget.from_keep(heavy, 0.7, 0.02)
        used = cost_of(heavy, uniform_architectures(heavy, budget)[0]).decoder_parameters
        assert budget.ceiling - 3 * heavy.mlp.parameters_per_group < used <= budget.ceiling


def test_an_architecture_is_rounded_module_by_module(prepared):
    assert nearest_levels(prepared.space, Architecture.from_widths((3, 45, 0, 3, 1, 21))) == (3, 6, 0, 0, 1, 3)
