import pytest
from torch import nn

from secateur.errors import ModelError
from secateur.model.families import FAMILIES
from secateur.model.shape import BlockKind, decoder_layers, group_tensors, module_of, projection_out, read_shape

# Query heads per KV head, and whether the embeddings are tied; families without grouped queries have as many of both.
VARIANTS = [
    *((name, 1 if family.stock_heads == "dense" else 2, False) for name, family in FAMILIES.items()),
    ("llama", 1, False),
    ("llama", 4, False),
    ("llama", 2, True),
    ("gpt2", 1, True),
]


@pytest.mark.parametrize(("family", "ratio", "tied"), VARIANTS)
def test_sizes_and_counts_are_those_of_the_tensors(make_dense, family, ratio, tied):
    dense = make_dense(family, ratio, tied)
    shape, layers = dense.shape, decoder_layers(dense.model, dense.family)
    assert (shape.num_query_heads, shape.num_kv_heads, shape.queries_per_group) == (4 * ratio, 4, ratio)
    assert (shape.head_dim, shape.hidden_size, shape.ffn_width, shape.vocab_size) == (8, 32, 48, 96)
    assert (shape.num_layers, shape.num_modules) == (3, 6)
    assert shape.decoder_parameters == sum(p.numel() for p in layers.parameters())
    assert shape.decoder_parameters + shape.parameters_outside == sum(p.numel() for p in dense.model.parameters())
    columns = projection_out(group_tensors(layers[0], dense.family, BlockKind.ATTENTION)).in_features
    assert shape.group_size(BlockKind.ATTENTION) == columns // 4
    assert shape.group_size(BlockKind.MLP) == (1 if shape.experts is None else 6)


def test_a_token_meets_the_experts_that_it_goes_to(make_dense):
    """Two of six; with whole experts fewer where fewer are left, and a row of the router for each that is."""
    widths, whole = (make_dense("qwen2_moe", experts=experts).shape for experts in ("widths", "whole"))
    shared, router, channel = 3 * 24 * 32 + 32, 32, 3 * 32
    assert widths.mlp.weights_at(16) == 2 * 16 * channel + 6 * router + shared
    assert [whole.mlp.weights_at(kept) for kept in (0, 1, 2, 5)] == [
        0,
        *(min(kept, 2) * 48 * channel + kept * router + shared for kept in (1, 2, 5)),
    ]
    assert (whole.ffn_width, whole.group_size(BlockKind.MLP)) == (6, 48)
    assert whole.mlp.parameters == widths.mlp.parameters


def test_without_a_size_of_their_own_heads_share_the_hidden_size(make_dense):
    shape = make_dense("gpt2", num_attention_heads=8, num_key_value_heads=None).shape
    assert (shape.num_query_heads, shape.num_kv_heads, shape.head_dim) == (8, 8, 4)
    assert shape.group_size(BlockKind.ATTENTION) == 4


def test_biases_go_with_their_group_and_head_norms_with_the_block(make_dense):
    llama, qwen2, qwen3 = (make_dense(name).shape.attention for name in ("llama", "qwen2", "qwen3"))
    assert qwen2.parameters_per_group == llama.parameters_per_group + (2 + 1 + 1) * 8
    assert qwen2.parameters_constant == llama.parameters_constant == 32
    assert qwen3.parameters_per_group == llama.parameters_per_group
    assert qwen3.parameters_constant == llama.parameters_constant + 2 * 8
    assert llama.weights_per_group == qwen2.weights_per_group == llama.parameters_per_group


def test_norms_over_all_heads_go_with_their_groups_and_those_around_a_block_with_the_block(make_dense):
    """OLMo 2 has a norm behind each block, and q/k norms over all heads; Gemma 3 two around it, and one per head."""
    llama, olmo2, gemma3 = (make_dense(name).shape for name in ("llama", "olmo2", "gemma3_text"))
    assert olmo2.attention.parameters_per_group == llama.attention.parameters_per_group + (2 + 1) * 8
    assert olmo2.attention.parameters_constant == olmo2.mlp.parameters_constant == 32
    assert gemma3.attention.parameters_per_group == llama.attention.parameters_per_group
    assert gemma3.attention.parameters_constant == 2 * 32 + 2 * 8
    assert gemma3.mlp.parameters_constant == 2 * 32


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
    biased = family in {"starcoder2", "gpt_neox", "gpt2", "opt"}
    assert shape.attention.output_bias == shape.mlp.output_bias == biased


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
