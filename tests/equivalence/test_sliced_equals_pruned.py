"""An architecture evaluated by slicing the weight bank equals the physically pruned model."""

import copy

import pytest
import torch

from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.model.families import FAMILIES
from secateur.model.shape import BlockKind, decoder_layers, group_tensors, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import expand_groups
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

VARIANTS = [
    pytest.param((family, ratio, tied), id=f"{family}-gqa{ratio}-{'tied' if tied else 'untied'}")
    for family in FAMILIES
    for ratio in (1, 2, 4)
    for tied in (False, True)
]


def own_logits(model, tokens):
    """Logits by the model's own forward pass."""
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def walked_logits(walk, tokens, weights_of=lambda _index: None):
    """Logits block by block; `weights_of` gives a module's stand-ins, or False where it is gone."""
    hidden = walk.embed(tokens)
    for index in range(2 * len(walk.layers)):
        weights = weights_of(index)
        if weights is not False:
            hidden = walk.block(*module_of(index), hidden, weights)
    return walk.logits(walk.final_norm(hidden))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_slices_are_those_of_the_pruned_model(prepare, variant, architecture):
    prepared = prepare(*variant)
    tokens = prepared.selection.tokens
    pruned = prune(prepared.dense, prepared.bank, architecture)

    def slices(index):
        width = architecture.widths[index]
        return prepared.bank.slices(index, width) if width else False

    expected = own_logits(pruned, tokens)
    assert expected.std() > 0.5, "logits near a constant would agree whatever is done"
    torch.testing.assert_close(walked_logits(prepared.walk, tokens, slices), expected, atol=1e-4, rtol=0)
    own_walk = DecoderWalk(pruned, prepared.dense.family, source=prepared.walk)
    torch.testing.assert_close(walked_logits(own_walk, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_slices_are_those_of_the_pruned_model(prepare, family, architecture):
    prepared = prepare(family)
    reference = DenseReference(prepared.walk, prepared.selection, batch_windows=3)
    stitched = StitchedModel(prepared.walk, prepared.bank, reference, cache_bytes=1 << 20).score(architecture)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    scored = score_model(pruned, prepared.dense.family, prepared.walk, reference)
    torch.testing.assert_close(stitched.loss, scored.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(stitched.kl, scored.kl, atol=1e-5, rtol=0)

    log_q = own_logits(pruned, prepared.selection.tokens)[:, :-1].log_softmax(-1)
    log_p = own_logits(prepared.dense.model, prepared.selection.tokens)[:, :-1].log_softmax(-1)
    torch.testing.assert_close(scored.kl, (log_p.exp() * (log_p - log_q)).sum(-1).mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_reconstruction_pruning_zeroes_the_columns_that_are_gone(prepare, variant, architecture):
    """The oracle is the dense model itself, with columns of `o_proj` and `down_proj` set to zero."""
    prepared = prepare(*variant, refit=False)
    dense, family = prepared.dense, prepared.dense.family
    masked = copy.deepcopy(dense.model)
    for index, width in enumerate(architecture.widths):
        layer, kind = module_of(index)
        tensors = group_tensors(decoder_layers(masked, family)[layer], family, kind)
        output = tensors[family.attention.output if kind is BlockKind.ATTENTION else family.mlp.output][0]
        gone = prepared.bank.modules[index].order[width:]
        output.weight[:, expand_groups(gone, dense.shape.group_size(kind))] = 0
    pruned = prune(dense, prepared.bank, architecture)
    tokens = prepared.selection.tokens
    torch.testing.assert_close(own_logits(pruned, tokens), own_logits(masked, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "window"), [("mistral", 4), ("qwen2", 4)])
def test_sliding_windows_are_the_dense_models(prepare, make_dense, family, window):
    """Windows are shorter than the text, and in Qwen2 the last layer alone slides."""
    overrides = {"use_sliding_window": True, "max_window_layers": 2} if family == "qwen2" else {}
    dense = make_dense(family, sliding_window=window, **overrides)
    base = prepare(family)
    tokens = base.selection.tokens
    walk = DecoderWalk(dense.model, dense.family)
    expected = own_logits(dense.model, tokens)
    torch.testing.assert_close(walked_logits(walk, tokens), expected, atol=1e-4, rtol=0)
    assert (expected - own_logits(base.dense.model, tokens)).abs().max() > 0.1, "the window must matter"
    assert dense.shape.mixed_attention is (family == "qwen2")


def test_pruning_leaves_the_dense_model_as_it_was(prepared, architecture):
    before = {name: tensor.clone() for name, tensor in prepared.dense.model.state_dict().items()}
    pruned = prune(prepared.dense, prepared.bank, architecture)
    for parameter in pruned.parameters():
        parameter.data.add_(1)
    after = prepared.dense.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_keeping_everything_gives_the_dense_logits(prepare):
    prepared = prepare("qwen2", 4, True)
    tokens = prepared.selection.tokens
    pruned = prune(prepared.dense, prepared.bank, Architecture.dense(prepared.dense.shape))
    torch.testing.assert_close(own_logits(pruned, tokens), own_logits(prepared.dense.model, tokens), atol=1e-4, rtol=0)
