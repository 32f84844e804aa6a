import copy

import pytest
import torch

from secateur.model.families import FAMILIES
from secateur.model.walk import DecoderWalk
from secateur.pruning.final_norm import LEAST_GAIN, MOST_GAIN, match_final_norm


@pytest.fixture
def make_walks(prepare):
    """Walks of a dense model and of a copy whose norm may be changed, and the stream after the last block."""

    def make(family="llama"):
        prepared = prepare(family)
        copied = copy.deepcopy(prepared.dense.model)
        streams = []
        handle = prepared.dense.model.model.norm.register_forward_pre_hook(
            lambda _module, args: streams.append(args[0])
        )
        for batch in prepared.calibration.tokens.split(5):
            prepared.dense.model(batch, use_cache=False)
        handle.remove()
        return prepared.walk, DecoderWalk(copied, prepared.dense.family, source=prepared.walk), streams

    return make


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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gain_that_was_planted_is_taken_back(make_walks, family):
    walk, pruned_walk, streams = make_walks(family)
    norm = pruned_walk.model.model.norm
    wanted = norm.weight.clone()
    norm.weight.mul_(1 / 0.8)
    gain = match_final_norm(walk, pruned_walk, streams, streams)
    assert gain == pytest.approx(0.8, abs=0.01)
    torch.testing.assert_close(norm.weight.detach(), wanted, rtol=0.02, atol=0)


def test_a_stream_with_errors_is_made_less_sure(make_walks):
    """No gain of a fine grid does better than the one that was found."""
    walk, pruned_walk, streams = make_walks()
    pruned = noisy(streams, 0.5)
    before = [divergence(walk, pruned_walk, streams, pruned, gain) for gain in torch.linspace(0.5, 1.2, 71).tolist()]
    gain = match_final_norm(walk, pruned_walk, streams, pruned)
    assert LEAST_GAIN <= gain < 1
    assert divergence(walk, pruned_walk, streams, pruned) <= min(before) * 1.001


def test_the_dense_model_itself_is_left_as_it_is(make_walks):
    walk, pruned_walk, streams = make_walks()
    norm = pruned_walk.model.model.norm
    before = norm.weight.clone()
    assert match_final_norm(walk, pruned_walk, streams, streams) == 1.0
    assert torch.equal(norm.weight, before)


def test_only_the_pruned_models_final_norm_changes(make_walks):
    walk, pruned_walk, streams = make_walks()
    before = {name: parameter.clone() for name, parameter in pruned_walk.model.named_parameters()}
    dense = {name: parameter.clone() for name, parameter in walk.model.named_parameters()}
    assert match_final_norm(walk, pruned_walk, streams, noisy(streams, 0.5)) != 1
    for name, parameter in pruned_walk.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name != "model.norm.weight"), name
        assert not parameter.requires_grad
    assert all(torch.equal(parameter, dense[name]) for name, parameter in walk.model.named_parameters())


def test_the_gain_stays_within_its_bounds(make_walks):
    """A stream of nothing but noise asks for no gain at all."""
    walk, pruned_walk, streams = make_walks()
    gain = match_final_norm(walk, pruned_walk, streams, noisy(streams, 100.0))
    assert LEAST_GAIN <= gain <= MOST_GAIN


def test_it_does_not_depend_on_how_the_stream_is_batched(make_walks):
    gains = []
    for batches in (1, 16):
        walk, pruned_walk, streams = make_walks()
        pruned = noisy(streams, 0.5)
        whole = [torch.cat(parts).split(16 // batches) for parts in (streams, pruned)]
        gains.append(match_final_norm(walk, pruned_walk, *whole))
    assert gains[0] == pytest.approx(gains[1], abs=1e-6)
