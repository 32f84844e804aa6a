"""Gains bring back what the scale of a module's output lost, as far as the dense model's distribution shows it."""

import itertools

import pytest
import torch

from secateur.model.shape import BlockKind, block_names, decoder_layers, group_tensors, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.gains import MOST_EVALUATIONS, match_gains, scaled_by
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

CUT = Architecture.from_widths((2, 24, 0, 16, 2, 0))


@torch.no_grad()
def divergence(prepared, model):
    tokens = prepared.calibration.tokens
    log_p, log_q = (m(tokens, use_cache=False).logits.log_softmax(-1) for m in (prepared.dense.model, model))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def matched(prepared, model, architecture, advance=lambda: None):
    walk = DecoderWalk(model, prepared.dense.family, source=prepared.walk)
    return match_gains(prepared.walk, walk, architecture, prepared.calibration.tokens.split(5), advance)


def module_names(model, gains):
    return {name for name, module in model.named_modules() if module in gains}


def last_of(model, family, index, kind):
    """What a block's output comes out of: the projection out of the groups, or the norm behind it."""
    layer = decoder_layers(model, family)[index]
    post_norm = block_names(family, kind).post_norm
    return layer.get_submodule(post_norm) if post_norm else projection_out(group_tensors(layer, family, kind))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_planted_gains_are_found(prepare, name):
    prepared = prepare(name)
    architecture, family = Architecture.dense(prepared.dense.shape), prepared.dense.family
    model = prune(prepared.dense, prepared.bank, architecture)
    planted = {
        last_of(model, family, 0, BlockKind.MLP): 0.8,
        last_of(model, family, 1, BlockKind.ATTENTION): 1.25,
        model.get_submodule(family.final_norm): 1.1,
    }
    scaled_by(planted, family)
    before = divergence(prepared, model)
    gains = matched(prepared, model, architecture)
    for module, size in planted.items():
        assert gains[module] == pytest.approx(1 / size, abs=0.08)
    scaled_by(gains, family)
    assert divergence(prepared, model) < 0.1 * before


def test_a_cut_model_comes_closer_and_no_single_gain_is_better(prepared):
    architecture = Architecture.from_widths((4, 32, 3, 24, 4, 24))
    model = prune(prepared.dense, prepared.bank, architecture)
    before = divergence(prepared, model)
    gains = matched(prepared, model, architecture)
    scaled_by(gains, prepared.dense.family)
    after = divergence(prepared, model)
    assert after < 0.99 * before
    for module, factor in itertools.product(gains, (0.9, 1.1)):
        take_back = scaled_by({module: factor}, prepared.dense.family)
        assert divergence(prepared, model) > after * 0.999
        take_back()


def test_the_modules_that_are_left_and_the_final_norm_have_a_gain_each(prepared):
    model = prune(prepared.dense, prepared.bank, CUT)
    assert module_names(model, matched(prepared, model, CUT)) == {
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.2.self_attn.o_proj",
        "model.norm",
    }


def test_norms_behind_the_modules_have_the_gain_in_their_place(prepare):
    """They would undo what scales a projection."""
    prepared = prepare("gemma3_text")
    model = prune(prepared.dense, prepared.bank, CUT)
    assert module_names(model, matched(prepared, model, CUT)) == {
        "model.layers.0.post_attention_layernorm",
        "model.layers.0.post_feedforward_layernorm",
        "model.layers.1.post_feedforward_layernorm",
        "model.layers.2.post_attention_layernorm",
        "model.norm",
    }


def test_the_dense_model_has_nothing_to_match(prepared):
    architecture = Architecture.dense(prepared.dense.shape)
    model = prune(prepared.dense, prepared.bank, architecture)
    gains = matched(prepared, model, architecture)
    assert list(gains.values()) == pytest.approx([1.0] * len(gains), abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_finding_changes_nothing_and_scaling_can_be_taken_back(prepare, family):
    prepared = prepare(family)
    model = prune(prepared.dense, prepared.bank, CUT)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    gains = matched(prepared, model, CUT)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    take_back = scaled_by(gains, prepared.dense.family)
    scaled = module_names(model, gains)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name.rpartition(".")[0] not in scaled), name
    take_back()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_the_size_of_batches_does_not_matter(prepared):
    model = prune(prepared.dense, prepared.bank, CUT)
    walk = DecoderWalk(model, prepared.dense.family, source=prepared.walk)
    first, second = (match_gains(prepared.walk, walk, CUT, prepared.calibration.tokens.split(size)) for size in (2, 7))
    assert list(first.values()) == pytest.approx(list(second.values()), abs=1e-3)


def test_activations_that_do_not_fit_are_made_again_with_the_same_gains(prepared, monkeypatch):
    """Blocks run once per evaluation where they fit, and twice where not even one window does."""
    model = prune(prepared.dense, prepared.bank, CUT)
    runs, found = [], []
    for most_bytes in (1 << 30, 1):
        monkeypatch.setattr("secateur.pruning.gains.KEPT_BYTES", most_bytes)
        rows = []
        handle = model.model.layers[0].mlp.register_forward_hook(
            lambda _m, args, _o, rows=rows: rows.append(len(args[0]))
        )
        found.append(list(matched(prepared, model, CUT).values()))
        handle.remove()
        runs.append(sum(rows) - 1)  # one window says how much is kept
    windows = len(prepared.calibration.tokens)
    assert runs[0] % windows == 0
    assert runs[1] == 2 * runs[0]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_batches_are_as_small_as_their_activations_must_be(prepared, monkeypatch):
    """Smaller ones rather than to make activations again."""
    model = prune(prepared.dense, prepared.bank, CUT)
    monkeypatch.setattr("secateur.pruning.gains.KEPT_BYTES", 150_000)
    rows = []
    model.model.layers[0].mlp.register_forward_hook(lambda _m, args, _o: rows.append(len(args[0])))
    matched(prepared, model, CUT)
    assert 1 < max(rows) < 5


def test_progress_has_as_many_steps_as_were_announced(prepared):
    steps = []
    matched(prepared, prune(prepared.dense, prepared.bank, CUT), CUT, lambda: steps.append(1))
    assert len(steps) == MOST_EVALUATIONS
