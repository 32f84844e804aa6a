"""Sequential reconstruction brings the residual stream back towards the dense one."""

import pytest
import torch

from secateur.model.families import FAMILIES
from secateur.pruning.sequence import reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

CUT = Architecture.from_widths((2, 24, 3, 16, 2, 24))


@torch.no_grad()
def final_stream(model, tokens):
    seen = []
    handle = model.model.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(input_ids=tokens, use_cache=False)
    handle.remove()
    return seen[0]


def reconstruct(prepared, pruned, architecture, ridge=0.1, batch_tokens=96):
    reconstruct_in_sequence(
        prepared.dense, prepared.walk, pruned, architecture, prepared.calibration, batch_tokens, ridge
    )
    return pruned


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_stream_comes_closer_to_the_dense_one(prepare, family, architecture):
    prepared = prepare(family)
    tokens = prepared.calibration.tokens
    dense = final_stream(prepared.dense.model, tokens)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    before = (final_stream(pruned, tokens) - dense).square().mean()
    after = (final_stream(reconstruct(prepared, pruned, architecture), tokens) - dense).square().mean()
    if architecture == Architecture.dense(prepared.dense.shape):
        assert after < 1e-8
    else:
        assert after < 0.95 * before


def test_the_first_module_solves_its_ridge_problem(prepared):
    """It still sees the dense stream, so its target is the dense attention's own output."""
    architecture = Architecture.from_widths((2, *Architecture.dense(prepared.dense.shape).widths[1:]))
    pruned = prune(prepared.dense, prepared.bank, architecture)
    start = pruned.model.layers[0].self_attn.o_proj.weight.double().clone()
    seen = {}

    def keep(name):
        return lambda _module, args, output: seen.update({name: (args[0].flatten(0, 1), output.flatten(0, 1))})

    handles = [
        model.model.layers[0].self_attn.o_proj.register_forward_hook(keep(name))
        for name, model in (("dense", prepared.dense.model), ("pruned", pruned))
    ]
    for model in (prepared.dense.model, pruned):
        model(input_ids=prepared.calibration.tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    x, target = seen["pruned"][0].double(), seen["dense"][1].double()
    gram = x.T @ x
    pull = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    expected = torch.linalg.solve(gram + pull, x.T @ target + pull @ start.T).T
    reconstruct(prepared, pruned, architecture)
    torch.testing.assert_close(pruned.model.layers[0].self_attn.o_proj.weight.double(), expected, atol=1e-4, rtol=1e-4)


def test_keeping_everything_changes_almost_nothing(prepared):
    architecture = Architecture.dense(prepared.dense.shape)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    before = {name: parameter.clone() for name, parameter in pruned.named_parameters()}
    reconstruct(prepared, pruned, architecture)
    for name, parameter in pruned.named_parameters():
        torch.testing.assert_close(parameter, before[name], atol=1e-3, rtol=0)


def test_only_output_projections_change(prepared):
    pruned = prune(prepared.dense, prepared.bank, CUT)
    before = {name: parameter.clone() for name, parameter in pruned.named_parameters()}
    reconstruct(prepared, pruned, CUT)
    changed = {name for name, parameter in pruned.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.endswith(("o_proj.weight", "down_proj.weight"))}


def test_batch_size_does_not_matter(prepared):
    one, other = (
        reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT, batch_tokens=size)
        for size in (12, 10_000)
    )
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_a_strong_ridge_holds_the_banks_solution(prepared):
    pruned = reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT, ridge=1e9)
    bank = prune(prepared.dense, prepared.bank, CUT)
    for left, right in zip(pruned.parameters(), bank.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
