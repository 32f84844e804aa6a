"""What calibration knows of a mixture is what the stock module's experts do."""

import pytest
import torch

from secateur.data import Role
from secateur.pruning.calibration import calibrate
from secateur.pruning.importance import fluctuation_scores
from secateur.pruning.mixture_statistics import MixtureStatistics
from secateur.runs.shelf import Shelf

LAYER = 1


@pytest.fixture(params=[("mixtral", "whole"), ("qwen2_moe", "widths")], ids="-".join)
def mixed(request, prepare):
    family, experts = request.param
    return prepare(family, experts=experts)


@torch.no_grad()
def weighted_channels(prepared) -> list[torch.Tensor]:
    """Per expert, what its projection out is given on the calibration set, by transformers' own router and experts."""
    mixture = prepared.dense.model.model.layers[LAYER].mlp
    seen = []
    handle = mixture.register_forward_pre_hook(lambda _module, args: seen.append(args[0].flatten(0, 1)))
    prepared.dense.model(prepared.calibration.tokens)
    handle.remove()
    stock, (hidden,) = mixture.stock(), seen
    _, weights, chosen = stock.gate(hidden)
    channels = []
    for expert, into in enumerate(stock.experts.gate_up_proj):
        gate, up = (hidden @ into.T).chunk(2, dim=-1)
        share = (weights * (chosen == expert)).sum(-1, keepdim=True)
        channels.append(share * stock.experts.act_fn(gate) * up)
    return channels


def test_the_gram_of_each_expert_is_what_its_own_tokens_say(mixed):
    statistics = mixed.statistics[2 * LAYER + 1]
    assert isinstance(statistics, MixtureStatistics)
    means = statistics.layout.split(statistics.mean)
    for expert, channels in enumerate(weighted_channels(mixed)):
        assert 0 < (channels.abs().sum(-1) > 0).float().mean() < 1, "some tokens go there, others do not"
        torch.testing.assert_close(statistics.gram[expert], channels.T @ channels / len(channels), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(means[expert], channels.mean(0), atol=1e-5, rtol=1e-3)
    squares = statistics.layout.split(statistics.square_mean)
    assert squares.equal(statistics.gram.diagonal(dim1=1, dim2=2))


def test_what_an_expert_costs_is_the_square_of_what_it_gives(mixed):
    statistics = mixed.statistics[2 * LAYER + 1]
    stock = mixed.dense.model.model.layers[LAYER].mlp.stock()
    weight = mixed.dense.model.model.layers[LAYER].mlp.down_proj.weight
    found = statistics.removal_errors(weight, torch.eye(32), ridge=1e-9)
    for error, channels, down in zip(found, weighted_channels(mixed), stock.experts.down_proj, strict=True):
        assert float(error) == pytest.approx(float(0.5 * (channels @ down.T).square().sum(-1).mean()), rel=1e-3)


@pytest.mark.parametrize("experts", ["widths", "whole"])
def test_statistics_come_back_from_files_as_they_were(make_dense, make_tokens, tmp_path, experts):
    dense, tokens = make_dense("qwen3_moe", experts=experts), make_tokens(Role.CALIBRATION, num_windows=5)
    kept = calibrate(dense, tokens, 24, seed=1, fisher=True)
    filed = calibrate(dense, tokens, 24, seed=1, fisher=True, shelf=Shelf(tmp_path))
    for left, right in zip(kept[1::2], filed[1::2], strict=True):
        assert left.layout == right.layout
        assert torch.equal(left.gram, right.gram)
        assert torch.equal(left.taylor, right.taylor)
        assert torch.equal(left.fisher, right.fisher)


def test_fluctuation_counts_the_best_channel_of_every_expert_first(prepare):
    prepared = prepare("qwen2_moe")
    statistics = prepared.statistics[1]
    weight = prepared.dense.model.model.layers[0].mlp.down_proj.weight
    scores = statistics.fluctuation(weight)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    channels = fluctuation_scores(weight, statistics.square_mean, statistics.mean, weight.shape[1])
    best = [channels[expert::6].max() for expert in range(6)]
    assert float(scores[0]) == pytest.approx(float(torch.stack(best).mean()))
