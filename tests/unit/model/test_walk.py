import pytest
import torch

from secateur.model.heads import head_attributes
from secateur.model.shape import BlockKind, block_names, decoder_layers, module_of
from secateur.model.walk import DecoderWalk
from tiny import REPRESENTATIVES


def walked(walk, tokens):
    """The state before the first block and after each."""
    states = [walk.embed(tokens)]
    for index in range(2 * len(walk.layers)):
        states.append(walk.block(*module_of(index), states[-1]))
    return states


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        *((family, {}) for family in REPRESENTATIVES),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 2.0}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("gemma3_text", {"sliding_window": 3, "final_logit_softcapping": 2.0}),
    ],
)
def test_walking_block_by_block_is_the_forward_pass(make_dense, make_tokens, family, overrides):
    dense = make_dense(family, **overrides)
    walk = DecoderWalk(dense.model, dense.family)
    for num_windows, length in ((1, 5), (3, 5), (2, 9)):
        tokens = make_tokens(num_windows=num_windows, length=length).tokens
        logits = walk.logits(walk.final_norm(walked(walk, tokens)[-1]))
        torch.testing.assert_close(logits, dense.model(input_ids=tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_a_state_holds_the_stream_that_layers_hand_on(prepare, family):
    walk, tokens = prepare(family).walk, prepare(family).selection.tokens
    handed_on = []
    handles = [
        layer.register_forward_hook(
            lambda _module, _args, output: handed_on.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in walk.layers
    ]
    walk.model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    for state, expected in zip(walked(walk, tokens)[2::2], handed_on, strict=True):
        torch.testing.assert_close(walk.stream(state), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(BlockKind))
@pytest.mark.parametrize("family", ["llama", "olmo2", "phi3", "gpt2"])
def test_stand_in_weights_leave_the_module_untouched(prepare, family, kind):
    """Also the numbers of heads that some attention modules keep beside their weights."""
    prepared = prepare(family)
    walk, dense = prepared.walk, prepared.dense
    hidden = walk.embed(prepared.selection.tokens)
    attention = decoder_layers(dense.model, dense.family)[0].get_submodule(dense.family.attention.module)
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    heads = head_attributes(attention, dense.family, 4, 4)
    module, width = (0, 2) if kind is BlockKind.ATTENTION else (1, 8)
    smaller = walk.block(0, kind, hidden, prepared.bank.slices(module, width))
    assert not torch.allclose(smaller, walk.block(0, kind, hidden))
    assert head_attributes(attention, dense.family, 4, 4) == heads
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.model.state_dict().items())


def test_a_block_adds_to_the_stream(prepared):
    hidden = prepared.walk.embed(prepared.selection.tokens)
    silent = {name: torch.zeros_like(tensor) for name, tensor in prepared.bank.slices(0, 2).items()}
    assert torch.equal(prepared.walk.block(0, BlockKind.ATTENTION, hidden, silent), hidden)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_a_block_that_is_gone_adds_nothing(prepare, family):
    """Where the residual is parallel, the layer behind it still reads what it left."""
    walk, tokens = prepare(family).walk, prepare(family).selection.tokens
    state = walk.embed(tokens)
    for kind in BlockKind:
        state = walk.add(kind, state, None)
    assert torch.equal(state, walk.embed(tokens))
    state = walk.block(0, BlockKind.ATTENTION, state)
    left = walk.add(BlockKind.MLP, state, None)
    assert torch.equal(walk.stream(left), walk.stream(state))
    for kind in BlockKind:
        norm = walk.layers[1].get_submodule(block_names(walk.family, kind).norm)
        assert torch.equal(walk.normed_input(1, kind, left), norm(walk.stream(state)))


def test_attention_is_causal(prepared):
    tokens = prepared.selection.tokens.clone()
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 96
    one, other = (prepared.walk.block(0, BlockKind.ATTENTION, prepared.walk.embed(t)) for t in (tokens, changed))
    assert torch.equal(one[:, :6], other[:, :6])
    assert not torch.allclose(one[:, 6:], other[:, 6:])
