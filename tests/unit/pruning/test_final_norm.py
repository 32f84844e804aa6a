import copy

import pytest
import torch
from torch import nn

from secateur.model.families import find_family
from secateur.model.walk import DecoderWalk
from secateur.pruning.final_norm import LEAST_GAIN, MOST_GAIN, ROWS, DenseDistribution, match_final_norm, scale_output
from tiny import REPRESENTATIVES


@pytest.fixture
def make_walks(prepare):
    """Walks of a dense model and of a copy whose norm may be changed, and the stream after the last block."""

    def make(family="llama", **settings):
        prepared = prepare(family)
        vars(prepared.dense.model.config).update(settings)
        copied = copy.deepcopy(prepared.dense.model)
        streams = prepared.walk.last_states(prepared.calibration.tokens.split(5))
        return prepared.walk, DecoderWalk(copied, prepared.dense.family, source=prepared.walk), streams

    return make


def match(walk, pruned_walk, dense_streams, pruned_streams):
    return match_final_norm(pruned_walk, DenseDistribution(walk, dense_streams, 1 << 30), pruned_streams)


def final_norm(walk):
    return walk.model.get_submodule(walk.family.final_norm)


def noisy(streams, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [s + size * s.square().mean().sqrt() * torch.randn(s.shape, generator=generator) for s in streams]


def divergence(walk, pruned_walk, dense_streams, pruned_streams, gain=1.0):
    """Mean KL(dense || pruned) with the pruned model's final norm scaled by `gain` more."""
    total = []
    for dense, pruned in zip(dense_streams, pruned_streams, strict=True):
        log_p = walk.logits(walk.final_norm(dense)).log_softmax(-1)
        log_q = pruned_walk.logits(gain * pruned_walk.final_norm(pruned)).log_softmax(-1)
        total.append((log_p.exp() * (log_p - log_q)).sum(-1).flatten())
    return float(torch.cat(total).mean())


@pytest.mark.parametrize("family", [*REPRESENTATIVES, "olmo2"])
def test_scaling_a_norm_or_a_projection_scales_what_it_gives(make_dense, family):
    """Its bias too, and where a norm multiplies by one plus its weight, the one as well."""
    model, names = make_dense(family).model, find_family(family)
    layer = model.get_submodule(names.layers)[1]
    attention = layer.get_submodule(names.attention.module)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    norms = (model.get_submodule(names.final_norm), layer.get_submodule(names.mlp.post_norm or names.mlp.norm))
    for module in (*norms, attention.get_submodule(names.attention.output)):
        probe = hidden.repeat(1, 2)[:, : module.in_features] if isinstance(module, nn.Linear) else hidden
        before = module(probe)
        scale_output(module, 0.7, names)
        torch.testing.assert_close(module(probe), 0.7 * before, atol=1e-6, rtol=1e-5)
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_a_gain_that_was_planted_is_taken_back(make_walks, family):
    walk, pruned_walk, streams = make_walks(family)
    wanted = pruned_walk.final_norm(streams[0])
    scale_output(final_norm(pruned_walk), 1 / 0.8, pruned_walk.family)
    gain = match(walk, pruned_walk, streams, streams)
    assert gain == pytest.approx(0.8, abs=0.01)
    torch.testing.assert_close(pruned_walk.final_norm(streams[0]), wanted, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("granite", {"logits_scaling": 3.0}), ("gemma2", {"final_logit_softcapping": 0.5})],
)
def test_a_stream_with_errors_is_made_less_sure(make_walks, family, settings):
    """No gain of a fine grid does better than the one that was found, whatever stands between norm and logits."""
    walk, pruned_walk, streams = make_walks(family, **settings)
    for each in (walk, pruned_walk):
        scale_output(final_norm(each), 2.0, each.family)
    pruned = noisy(streams, 0.5)
    before = [divergence(walk, pruned_walk, streams, pruned, gain) for gain in torch.linspace(0.5, 1.2, 71).tolist()]
    gain = match(walk, pruned_walk, streams, pruned)
    assert LEAST_GAIN <= gain < 1
    assert divergence(walk, pruned_walk, streams, pruned) <= min(before) * (1 + 1e-5)


def test_the_dense_model_itself_is_left_as_it_is(make_walks):
    walk, pruned_walk, streams = make_walks()
    norm = final_norm(pruned_walk)
    before = norm.weight.clone()
    assert match(walk, pruned_walk, streams, streams) == 1.0
    assert torch.equal(norm.weight, before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_the_pruned_models_final_norm_changes(make_walks, family):
    walk, pruned_walk, streams = make_walks(family)
    before = {name: parameter.clone() for name, parameter in pruned_walk.model.named_parameters()}
    dense = {name: parameter.clone() for name, parameter in walk.model.named_parameters()}
    assert match(walk, pruned_walk, streams, noisy(streams, 0.5)) != 1
    for name, parameter in pruned_walk.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not name.startswith(pruned_walk.family.final_norm)), name
        assert not parameter.requires_grad
    assert all(torch.equal(parameter, dense[name]) for name, parameter in walk.model.named_parameters())


def test_the_gain_stays_within_its_bounds(make_walks):
    """A stream of nothing but noise asks for no gain at all."""
    walk, pruned_walk, streams = make_walks()
    gain = match(walk, pruned_walk, streams, noisy(streams, 100.0))
    assert LEAST_GAIN <= gain <= MOST_GAIN


def test_it_does_not_depend_on_how_the_stream_is_batched(make_walks):
    gains = []
    for batches in (1, 16):
        walk, pruned_walk, streams = make_walks()
        pruned = noisy(streams, 0.5)
        whole = [torch.cat(parts).split(16 // batches) for parts in (streams, pruned)]
        gains.append(match(walk, pruned_walk, *whole))
    assert gains[0] == pytest.approx(gains[1], abs=1e-6)


@pytest.mark.parametrize(("family", "cap"), [("llama", None), ("gemma2", 0.5)])
def test_logits_of_a_gain_come_with_their_derivative(make_walks, family, cap):
    walk, _, streams = make_walks(family, **({"final_logit_softcapping": cap} if cap else {}))
    normed = 5 * walk.final_norm(streams[0])
    logits, rise = walk.gained_logits(normed, 0.8)
    torch.testing.assert_close(logits, walk.logits(0.8 * normed), atol=1e-4, rtol=1e-5)
    difference = walk.logits(0.81 * normed) - walk.logits(0.79 * normed)
    torch.testing.assert_close(rise, difference / 0.02, atol=5e-3, rtol=1e-3)


class TestDenseDistribution:
    """One for all candidates, on the first rows of the stream after the last block."""

    def test_is_computed_once_where_it_fits(self, make_walks):
        walk, _, streams = make_walks()
        vocabulary = walk.model.config.vocab_size
        tokens = sum(stream[..., 0].numel() for stream in streams)
        expected = walk.logits(walk.final_norm(torch.cat(streams))).flatten(0, 1).softmax(-1)
        for most_bytes in (tokens * vocabulary * 4, tokens * vocabulary * 4 - 1):
            distribution = DenseDistribution(walk, streams, most_bytes)
            first, second = list(distribution), list(distribution)
            assert distribution.fits == (first[0] is second[0])
            for given in (first, second):
                torch.testing.assert_close(torch.cat(given), expected, atol=1e-6, rtol=1e-5)

    def test_gives_few_rows_at_a_time(self, make_walks):
        walk, _, streams = make_walks()
        many = torch.cat([*streams, *streams] * 5)
        rows = [len(part) for part in DenseDistribution(walk, [many], 1 << 30)]
        assert len(rows) > 1
        assert max(rows) == ROWS
        assert sum(rows) == many[..., 0].numel()
