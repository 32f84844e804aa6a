"""An architecture evaluated by slicing the weight bank equals the physically pruned model."""

import copy

import pytest
import torch
from torch import nn

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.model.shape import decoder_layers, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank, expand_groups
from secateur.pruning.calibration import calibrate
from secateur.pruning.orders import IMPORTANCE
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

# On every architecture; tests/contracts/test_families.py has every family, ratio and tie on some.
VARIANTS = [
    pytest.param((family, ratio, tied), id=f"{family}-gqa{ratio}-{'tied' if tied else 'untied'}")
    for family, ratio, tied in (
        ("llama", 1, False),
        ("qwen2", 4, True),
        ("gemma3_text", 2, False),
        ("gpt_neox", 1, True),
        ("gpt2", 1, False),
    )
]
GONE = Architecture.from_widths((0, 40, 2, 16, 4, 0))


def own_logits(model, tokens):
    """Logits by the model's own forward pass."""
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def walked_logits(walk, tokens, weights_of=lambda _index: None):
    """Logits block by block; `weights_of` gives a module's stand-ins, or False where it is gone."""
    state = walk.embed(tokens)
    for index in range(2 * len(walk.layers)):
        layer, kind = module_of(index)
        weights = weights_of(index)
        state = walk.add(kind, state, None) if weights is False else walk.block(layer, kind, state, weights)
    return walk.logits(walk.final_norm(state))


def sliced_logits(walk, tokens, bank, architecture):
    """Logits block by block through the dense model's modules, with slices of the bank in them."""
    widths = architecture.widths
    return walked_logits(walk, tokens, lambda index: bank.slices(index, widths[index]) if widths[index] else False)


def output_projections(model, family):
    """The projection out of the groups of every module, with its kind."""
    for layer in decoder_layers(model, family):
        for _, kind in map(module_of, (0, 1)):
            yield kind, projection_out(group_tensors(layer, family, kind))


def masked(dense, bank, architecture, means=None):
    """The dense model itself, with the columns of its output projections that are gone set to zero.

    Given the means of their inputs, what the columns add on average stays as a bias, in blocks that are not gone whole.
    """
    model = copy.deepcopy(dense.model)
    for index, (kind, output) in enumerate(output_projections(model, dense.family)):
        width = architecture.widths[index]
        gone = expand_groups(bank.modules[index].order[width:], dense.shape.group_size(kind))
        if means is not None and width > 0:
            bias = output.weight[:, gone] @ means[index][gone]
            output.bias = torch.nn.Parameter(bias if output.bias is None else output.bias + bias)
        output.weight[:, gone] = 0
        if width == 0 and output.bias is not None:
            output.bias[:] = 0
    return model


def mean_inputs(dense, tokens):
    """Mean over all tokens of what goes into each output projection of the dense model."""
    means = []
    handles = [
        output.register_forward_pre_hook(lambda _module, inputs: means.append(inputs[0].flatten(0, -2).mean(0)))
        for _, output in output_projections(dense.model, dense.family)
    ]
    own_logits(dense.model, tokens)
    for handle in handles:
        handle.remove()
    return means


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_slices_are_those_of_the_pruned_model(prepare, variant, architecture):
    prepared = prepare(*variant)
    tokens = prepared.selection.tokens
    pruned = prune(prepared.dense, prepared.bank, architecture)
    expected = own_logits(pruned, tokens)
    assert expected.std() > 0.5, "logits near a constant would agree whatever is done"
    sliced = sliced_logits(prepared.walk, tokens, prepared.bank, architecture)
    torch.testing.assert_close(sliced, expected, atol=1e-4, rtol=0)
    own_walk = DecoderWalk(pruned, prepared.dense.family, source=prepared.walk)
    torch.testing.assert_close(walked_logits(own_walk, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "reconstruction"), [("llama", "bias"), ("gpt_neox", "least_squares")])
def test_scores_of_slices_are_those_of_the_pruned_model(prepare, family, reconstruction, architecture):
    prepared = prepare(family, reconstruction=reconstruction)
    reference = DenseReference(prepared.walk, prepared.selection, batch_windows=3)
    stitched = StitchedModel(prepared.walk, prepared.bank, reference).score(architecture)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    scored = score_model(pruned, prepared.dense.family, prepared.walk, reference)
    torch.testing.assert_close(stitched.loss, scored.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(stitched.kl, scored.kl, atol=1e-5, rtol=0)

    log_q = own_logits(pruned, prepared.selection.tokens)[:, :-1].log_softmax(-1)
    log_p = own_logits(prepared.dense.model, prepared.selection.tokens)[:, :-1].log_softmax(-1)
    torch.testing.assert_close(scored.kl, (log_p.exp() * (log_p - log_q)).sum(-1).mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_reconstruction_pruning_zeroes_the_columns_that_are_gone(prepare, variant, architecture):
    prepared = prepare(*variant, reconstruction="none")
    dense, tokens = prepared.dense, prepared.selection.tokens
    pruned = prune(dense, prepared.bank, architecture)
    expected = own_logits(masked(dense, prepared.bank, architecture), tokens)
    torch.testing.assert_close(own_logits(pruned, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "ratio"), [("llama", 4), ("gpt_neox", 1)])
@pytest.mark.parametrize("importance", IMPORTANCE)
def test_whatever_the_importance_groups_that_go_take_their_own_query_heads_with_them(
    prepare, importance, family, ratio
):
    prepared = prepare(family, ratio)
    dense, tokens = prepared.dense, prepared.selection.tokens
    bank = build_bank(dense, prepared.statistics, prepared.space.options, importance, "none")
    for widths in ((3, 32, 1, 48, 4, 16), (2, 40, 2, 40, 2, 40), (1, 48, 3, 0, 0, 8)):
        architecture = Architecture.from_widths(widths)
        expected = own_logits(masked(dense, bank, architecture), tokens)
        sliced = sliced_logits(prepared.walk, tokens, bank, architecture)
        torch.testing.assert_close(sliced, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "ratio"), [("llama", 4), ("gpt2", 1)])
def test_with_a_bias_what_is_gone_still_adds_its_mean(prepare, family, ratio, architecture):
    prepared = prepare(family, ratio, reconstruction="bias")
    dense, tokens = prepared.dense, prepared.selection.tokens
    means = mean_inputs(dense, prepared.calibration.tokens)
    expected = own_logits(masked(dense, prepared.bank, architecture, means), tokens)
    pruned = own_logits(prune(dense, prepared.bank, architecture), tokens)
    sliced = sliced_logits(prepared.walk, tokens, prepared.bank, architecture)
    torch.testing.assert_close(pruned, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(sliced, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}], ids=["attention", "mlp"])
def test_a_bias_that_the_dense_model_has_is_kept_and_added_to(make_dense, make_tokens, biases):
    dense, architecture = make_dense("llama", **biases), GONE
    calibration, tokens = make_tokens(Role.CALIBRATION), make_tokens().tokens
    statistics = calibrate(dense, calibration, batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{width} for width in architecture.widths], reconstruction="bias")
    expected = own_logits(masked(dense, bank, architecture, mean_inputs(dense, calibration.tokens)), tokens)
    pruned = own_logits(prune(dense, bank, architecture), tokens)
    sliced = sliced_logits(DecoderWalk(dense.model, dense.family), tokens, bank, architecture)
    torch.testing.assert_close(pruned, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(sliced, expected, atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("family", ["llama", "olmo2", "phi3", "gpt2"])
def test_pruning_leaves_the_dense_model_as_it_was(prepare, family):
    """Its weights, and what counts heads beside them. What lies outside of the layers is shared, and only replaced."""
    dense, bank, tokens = prepare(family).dense, prepare(family).bank, prepare(family).selection.tokens
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    logits, config = own_logits(dense.model, tokens), dense.model.config.to_dict()
    pruned = prune(dense, bank, GONE)
    for parameter in decoder_layers(pruned, dense.family).parameters():
        parameter.data.add_(1)
    for name, parameter in list(pruned.named_parameters()):
        module, _, entry = name.rpartition(".")
        setattr(pruned.get_submodule(module), entry, nn.Parameter(parameter + 1, requires_grad=False))
    after = dense.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(own_logits(dense.model, tokens), logits)
    assert dense.model.config.to_dict() == config


def test_keeping_everything_gives_the_dense_logits(prepare):
    prepared = prepare("qwen2", 4, True)
    tokens = prepared.selection.tokens
    pruned = prune(prepared.dense, prepared.bank, Architecture.dense(prepared.dense.shape))
    torch.testing.assert_close(own_logits(pruned, tokens), own_logits(prepared.dense.model, tokens), atol=1e-4, rtol=0)
