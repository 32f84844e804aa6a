import dataclasses

import pytest

from secateur.errors import BudgetError
from secateur.model.shape import BlockShape, DenseShape
from secateur.search.uniform import (
    nearest_levels,
    uniform_architectures,
    uniform_middle_architecture,
    widest_ffn,
)
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of


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
    )


def left_over(shape, budget, architecture):
    return budget.ceiling - cost_of(shape, architecture).decoder_parameters


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

    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
    @pytest.mark.parametrize("keep", [0.3, 0.5, 0.75, 0.8, 0.83, 0.95])
    @pytest.mark.parametrize("num_kv_heads", [2, 4, 8, 32])
    def test_layers_are_alike_and_the_mlp_takes_what_is_left(self, num_kv_heads, keep, bias):
        """Alike to within one channel: the first layers take what is left where it does not divide."""
        shape = llama_like(num_kv_heads, attention_per_head=800 // num_kv_heads)
        shape = shape.with_output_bias() if bias else shape
        budget = Budget.from_keep(shape, keep, 0.01)
        for architecture in uniform_architectures(shape, budget):
            widths = architecture.widths[1::2]
            assert len(set(architecture.widths[::2])) == 1
            assert list(widths) == sorted(widths, reverse=True)
            assert widths[0] - widths[-1] <= 1
            left = left_over(shape, budget, architecture)
            assert left >= 0
            assert left < shape.mlp.parameters_per_group or set(widths) == {shape.ffn_width}

    def test_a_budget_too_small_for_any_head_gives_none(self):
        shape = llama_like(4)
        assert uniform_architectures(shape, Budget.of_decoder_parameters(ceiling=4, floor=1)) == []

    def test_norms_are_paid_for(self, prepared):
        shape = prepared.dense.shape
        heavy = dataclasses.replace(shape, mlp=dataclasses.replace(shape.mlp, parameters_constant=1_000))
        budget = Budget.from_keep(heavy, 0.7, 0.02)
        left = left_over(heavy, budget, uniform_architectures(heavy, budget)[0])
        assert 0 <= left < heavy.mlp.parameters_per_group

    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
    def test_a_budget_of_everything_keeps_everything(self, prepared, bias):
        shape = prepared.dense.shape.with_output_bias() if bias else prepared.dense.shape
        found = uniform_architectures(shape, Budget.from_keep(shape, 1.0, 0.01))
        assert found[0] == Architecture.dense(shape)


class TestUniformMiddleArchitecture:
    @pytest.mark.parametrize(
        ("num_layers", "pruned"),
        [
            (32, range(4, 30)),  # as published
            (12, range(2, 11)),
            (5, range(1, 5)),
            (1, range(1)),
        ],
    )
    def test_the_first_and_last_layers_stay_dense(self, num_layers, pruned):
        shape = llama_like(8, num_layers)
        architecture = uniform_middle_architecture(shape, Budget.from_keep(shape, 0.7, 0.01))
        narrowed = [
            index
            for index, layer in enumerate(architecture.layers)
            if (layer.kv_heads, layer.ffn_width) != (shape.num_kv_heads, shape.ffn_width)
        ]
        assert narrowed == list(pruned)

    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
    @pytest.mark.parametrize("keep", [0.4, 0.5, 0.8, 0.83, 0.95])
    def test_the_layers_between_fill_the_budget_alike(self, keep, bias):
        shape = llama_like(8, num_layers=12)
        shape = shape.with_output_bias() if bias else shape
        budget = Budget.from_keep(shape, keep, 0.01)
        architecture = uniform_middle_architecture(shape, budget)
        middle = architecture.layers[2:-1]
        widths = [layer.ffn_width for layer in middle]
        assert len({layer.kv_heads for layer in middle}) == 1
        assert max(widths) - min(widths) <= 1
        assert 0 <= left_over(shape, budget, architecture) < shape.mlp.parameters_per_group

    def test_heads_are_rounded_as_llm_pruner_does(self):
        """Of 32 layers 26 are narrowed, to 0.754 of their parameters where the whole keeps 0.8: 2 of 10 heads go."""
        shape = llama_like(10, num_layers=32)
        architecture = uniform_middle_architecture(shape, Budget.from_keep(shape, 0.8, 0.01))
        assert {layer.kv_heads for layer in architecture.layers[4:-2]} == {8}

    def test_protected_layers_that_are_more_than_the_budget_are_refused(self):
        """6 of 32 layers are 0.1875 of the whole."""
        shape = llama_like(8, num_layers=32)
        assert uniform_middle_architecture(shape, Budget.from_keep(shape, 0.25, 0.01))
        with pytest.raises(
            BudgetError,
            match=r"leaves 6 of 32 layers dense, which is more than 10,368 decoder parameters allow; raise --keep or",
        ):
            uniform_middle_architecture(shape, Budget.from_keep(shape, 0.18, 0.01))


class TestWidestFfn:
    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
    @pytest.mark.parametrize("kv_heads", [0, 1, 3, 4])
    def test_is_the_widest_that_a_layer_has_room_for(self, prepared, kv_heads, bias):
        shape = prepared.dense.shape.with_output_bias() if bias else prepared.dense.shape
        attention = shape.attention.parameters_at(kv_heads)
        for width in range(1, shape.ffn_width):
            room = float(attention + shape.mlp.parameters_at(width))
            assert widest_ffn(shape, kv_heads, room) == width
            assert widest_ffn(shape, kv_heads, room - 1) == width - 1

    def test_is_never_more_than_the_dense_one_nor_less_than_none(self, prepared):
        shape = prepared.dense.shape
        assert widest_ffn(shape, 1, 1e9) == shape.ffn_width
        assert widest_ffn(shape, 4, 10.0) == 0


def test_an_architecture_is_rounded_module_by_module(prepared):
    assert nearest_levels(prepared.space, Architecture.from_widths((3, 45, 0, 3, 1, 21))) == (3, 6, 0, 0, 1, 3)
