"""Channels of the residual stream go in every layer; what reads the stream makes up for them."""

import copy

import pytest
import torch

from secateur.data import Role
from secateur.errors import ModelError
from secateur.model.families import FAMILIES
from secateur.model.shape import block_names, decoder_layers, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.hidden import channel_importance, check_hidden, hidden_parameters, narrow_hidden
from secateur.pruning.sequence import DenseStreams

BOUND = {
    name
    for name, family in FAMILIES.items()
    if family.stock_heads == "dense" or family.norms_add_one or family.mlp.experts is not None
}
FREE = sorted(set(FAMILIES) - BOUND)
# A norm that subtracts the mean turns channels that are zero into ones that are not.
LIVE, WITH_DEAD_CHANNELS = 24, [name for name in FREE if name != "starcoder2"]


def silence(dense, live=LIVE):
    """Let nothing write to the channels behind the first `live`."""
    family = dense.family
    dense.model.get_submodule(family.embedding).weight.data[:, live:] = 0
    for index in range(dense.shape.num_modules):
        layer_index, kind = module_of(index)
        layer = decoder_layers(dense.model, family)[layer_index]
        output = projection_out(group_tensors(layer, family, kind))
        output.weight.data[live:] = 0
        if output.bias is not None:
            output.bias.data[live:] = 0
        if post_norm := block_names(family, kind).post_norm:
            layer.get_submodule(post_norm).weight.data[live:] = 0
    return dense


@pytest.fixture
def with_streams(make_dense, make_tokens):
    def make(family, *, dead=False, **settings):
        dense = make_dense(family, **settings)
        dense = silence(dense) if dead else dense
        walk = DecoderWalk(dense.model, dense.family)
        return dense, walk, DenseStreams(walk, make_tokens(Role.CALIBRATION, num_windows=32), 96, 10**6, 1 << 30)

    return make


def best(walk, streams, count):
    return channel_importance(walk, streams).argsort(descending=True)[:count].sort().values


@torch.no_grad()
def logits_of(dense, tokens):
    return dense.model(input_ids=tokens.tokens).logits


@pytest.mark.parametrize("family", WITH_DEAD_CHANNELS)
def test_channels_that_nothing_writes_to_are_the_least_important_and_free(with_streams, make_tokens, family):
    dense, walk, streams = with_streams(family, dead=True)
    channels = best(walk, streams, LIVE)
    assert channels.tolist() == list(range(LIVE))
    narrowed = narrow_hidden(dense, walk, streams, channels, 1e-6)
    tokens = make_tokens()
    torch.testing.assert_close(logits_of(narrowed, tokens), logits_of(dense, tokens), atol=3e-3, rtol=0)


@pytest.mark.parametrize("family", FREE)
@pytest.mark.parametrize("kept", [17, 32])
def test_counts_what_is_left(with_streams, family, kept):
    dense, walk, streams = with_streams(family)
    narrowed = narrow_hidden(dense, walk, streams, best(walk, streams, kept), 1e-2)
    in_layers = sum(p.numel() for layer in decoder_layers(narrowed.model, dense.family) for p in layer.parameters())
    assert hidden_parameters(dense, kept) == narrowed.shape.decoder_parameters == in_layers
    assert narrowed.shape.hidden_size == kept
    assert narrowed.shape.head_dim == dense.shape.head_dim


@pytest.mark.parametrize("family", FREE)
def test_nothing_changes_where_all_channels_stay(with_streams, make_tokens, family):
    dense, walk, streams = with_streams(family)
    narrowed = narrow_hidden(dense, walk, streams, torch.arange(32), 1e-6)
    tokens = make_tokens()
    torch.testing.assert_close(logits_of(narrowed, tokens), logits_of(dense, tokens), atol=1e-4, rtol=0)


def test_the_dense_model_is_left_as_it_was(with_streams):
    dense, walk, streams = with_streams("llama")
    before = copy.deepcopy(dense.model.state_dict())
    narrow_hidden(dense, walk, streams, best(walk, streams, 20), 1e-2)
    assert dense.model.config.hidden_size == 32
    for name, tensor in dense.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_tied_head_stays_tied(with_streams):
    dense, walk, streams = with_streams("llama", tie_word_embeddings=True)
    model = narrow_hidden(dense, walk, streams, best(walk, streams, 20), 1e-2).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight.shape[1] == 20


def test_what_reads_the_stream_makes_up_for_what_left(with_streams, make_tokens):
    """With an infinite ridge nothing is refitted but the norms."""
    dense, walk, streams = with_streams("llama")
    tokens, channels = make_tokens(), best(walk, streams, 28)

    def error(ridge):
        return (logits_of(narrow_hidden(dense, walk, streams, channels, ridge), tokens) - wanted).square().mean()

    wanted = logits_of(dense, tokens)
    assert error(1e-3) < 0.9 * error(1e9)


@pytest.mark.parametrize("family", sorted(BOUND))
def test_a_family_whose_hidden_size_is_bound_to_something_is_refused(family):
    with pytest.raises(ModelError, match=f"space.hidden=true cannot narrow family '{family}'"):
        check_hidden(FAMILIES[family])
