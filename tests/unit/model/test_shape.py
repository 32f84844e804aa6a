import pytest
from torch import nn

from secateur.errors import ModelError
from secateur.model.families import FAMILIES
from secateur.model.shape import BlockKind, module_of, read_shape


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_counts_are_those_of_the_tensors(make_dense, family, ratio, tied):
    dense = make_dense(family, ratio, tied)
    shape, layers = dense.shape, dense.model.model.layers
    assert (shape.num_query_heads, shape.num_kv_heads, shape.queries_per_group) == (4 * ratio, 4, ratio)
    assert (shape.head_dim, shape.hidden_size, shape.ffn_width, shape.vocab_size) == (8, 32, 48, 96)
    assert (shape.num_layers, shape.num_modules) == (3, 6)
    assert shape.decoder_parameters == sum(p.numel() for p in layers.parameters())
    assert shape.decoder_parameters + shape.parameters_outside == sum(p.numel() for p in dense.model.parameters())
    assert shape.group_size(BlockKind.ATTENTION) == layers[0].self_attn.o_proj.in_features // 4
    assert shape.group_size(BlockKind.MLP) == 1
    assert not shape.mixed_attention


def test_biases_go_with_their_group_and_head_norms_with_the_block(make_dense):
    llama, qwen2, qwen3 = (make_dense(name).shape.attention for name in ("llama", "qwen2", "qwen3"))
    assert qwen2.parameters_per_group == llama.parameters_per_group + (2 + 1 + 1) * 8
    assert qwen2.parameters_constant == llama.parameters_constant == 32
    assert qwen3.parameters_per_group == llama.parameters_per_group
    assert qwen3.parameters_constant == llama.parameters_constant + 2 * 8
    assert llama.weights_per_group == qwen2.weights_per_group == llama.parameters_per_group


def test_an_output_bias_goes_with_the_block(make_dense):
    shape = make_dense("llama", attention_bias=True, mlp_bias=True).shape
    assert shape.attention.parameters_constant == 32 + 32
    assert shape.mlp.parameters_constant == 32 + 32
    assert shape.mlp.parameters_per_group == 3 * 32 + 2


@pytest.mark.parametrize("biases", [{}, {"attention_bias": True}, {"mlp_bias": True}])
def test_narrowed_blocks_gain_an_output_bias_where_the_dense_one_has_none(make_dense, biases):
    dense = make_dense("llama", **biases).shape
    shape = dense.with_output_bias()
    for kind, name in ((BlockKind.ATTENTION, "attention_bias"), (BlockKind.MLP, "mlp_bias")):
        assert dense.block(kind).output_bias == (name in biases)
        assert shape.block(kind).added_at(1) == (0 if name in biases else 32)
        assert dense.block(kind).added_at(1) == 0
    assert shape.decoder_parameters == dense.decoder_parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_into_the_groups_are_no_output_bias(make_dense, family):
    """Qwen2 has them on the queries, keys and values alone."""
    shape = make_dense(family).shape
    assert not shape.attention.output_bias
    assert not shape.mlp.output_bias


def test_layers_that_differ_are_refused(make_dense):
    dense = make_dense()
    dense.model.model.layers[1].mlp.up_proj = nn.Linear(32, 40, bias=False)
    with pytest.raises(ModelError, match="layers of the model differ in size"):
        read_shape(dense.model, dense.family)


def test_modules_are_numbered_as_a_token_meets_them():
    assert [module_of(index) for index in range(4)] == [
        (0, BlockKind.ATTENTION),
        (0, BlockKind.MLP),
        (1, BlockKind.ATTENTION),
        (1, BlockKind.MLP),
    ]
