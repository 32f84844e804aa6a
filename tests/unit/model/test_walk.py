import pytest
import torch

from secateur.model.families import FAMILIES
from secateur.model.shape import BlockKind, module_of
from secateur.model.walk import DecoderWalk


@pytest.mark.parametrize("family", FAMILIES)
def test_walking_block_by_block_is_the_forward_pass(make_dense, make_tokens, family):
    dense = make_dense(family)
    walk = DecoderWalk(dense.model, dense.family)
    for num_windows, length in ((1, 5), (3, 5), (2, 9)):
        tokens = make_tokens(num_windows=num_windows, length=length).tokens
        hidden = walk.embed(tokens)
        for index in range(dense.shape.num_modules):
            hidden = walk.block(*module_of(index), hidden)
        logits = walk.logits(walk.final_norm(hidden))
        torch.testing.assert_close(logits, dense.model(input_ids=tokens).logits, atol=1e-4, rtol=0)


def test_stand_in_weights_leave_the_module_untouched(prepared):
    walk, tokens = prepared.walk, prepared.selection.tokens
    hidden = walk.embed(tokens)
    before = {name: tensor.clone() for name, tensor in prepared.dense.model.state_dict().items()}
    smaller = walk.block(0, BlockKind.MLP, hidden, prepared.bank.slices(1, 8))
    assert not torch.allclose(smaller, walk.block(0, BlockKind.MLP, hidden))
    assert all(torch.equal(tensor, before[name]) for name, tensor in prepared.dense.model.state_dict().items())


def test_a_block_adds_to_the_stream(prepared):
    hidden = prepared.walk.embed(prepared.selection.tokens)
    silent = {name: torch.zeros_like(tensor) for name, tensor in prepared.bank.slices(0, 2).items()}
    assert torch.equal(prepared.walk.block(0, BlockKind.ATTENTION, hidden, silent), hidden)


def test_attention_is_causal(prepared):
    tokens = prepared.selection.tokens.clone()
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 96
    one, other = (prepared.walk.block(0, BlockKind.ATTENTION, prepared.walk.embed(t)) for t in (tokens, changed))
    assert torch.equal(one[:, :6], other[:, :6])
    assert not torch.allclose(one[:, 6:], other[:, 6:])
