"""A mixture of experts, rewritten as one wide MLP: the same function, and the stock module back."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from secateur.errors import ModelError
from secateur.model.families import FAMILIES, with_experts
from secateur.model.mixture import ExpertLayout, every_expert
from secateur.model.separate import joined_state, separate

MIXTURES = [name for name, family in FAMILIES.items() if family.mlp.experts is not None]


@pytest.fixture(params=[(name, experts) for name in MIXTURES for experts in ("widths", "whole")], ids="-".join)
def both(request, make_model):
    """A model as transformers has it and the same rewritten, with the family that says how."""
    name, experts = request.param
    stock = make_model(name)
    rewritten, family = copy.deepcopy(stock), with_experts(FAMILIES[name], experts)
    separate(rewritten, family)
    return stock, rewritten, family


@torch.no_grad()
def test_it_gives_what_the_stock_module_gives(both):
    stock, rewritten, _ = both
    hidden = torch.randn(2, 7, 32)
    expected = stock.model.layers[1].mlp(hidden)
    mixture = rewritten.model.layers[1].mlp
    torch.testing.assert_close(mixture(hidden), expected, atol=1e-5, rtol=1e-4)
    with every_expert(rewritten):
        torch.testing.assert_close(mixture(hidden), expected, atol=1e-5, rtol=1e-4)
    assert not mixture.computes_every_expert
    torch.testing.assert_close(mixture.stock()(hidden), expected, atol=0, rtol=0)


def test_a_checkpoint_of_it_is_the_stock_models(both):
    stock, rewritten, family = both
    expected, found = stock.state_dict(), joined_state(rewritten.state_dict(), family)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert sum(p.numel() for p in rewritten.parameters()) == sum(p.numel() for p in stock.parameters())


@pytest.mark.parametrize("whole", [False, True])
def test_channels_lie_with_those_that_go_together(whole):
    layout = ExpertLayout(num_experts=2, width=3, whole=whole)
    channels = torch.arange(6)
    expected = [[0, 1, 2], [3, 4, 5]] if whole else [[0, 2, 4], [1, 3, 5]]
    assert layout.split(channels).tolist() == expected
    assert layout.num_groups == (2 if whole else 3)
    columns = torch.randn(4, 6)
    assert layout.split(columns, 1)[:, 1].equal(columns[:, expected[1]])
    assert layout.join(layout.split(columns, -1), 1).equal(columns)


@torch.no_grad()
def test_with_fewer_experts_the_router_chooses_among_those(make_dense):
    """As the stock router of so many rows does, whose probabilities are shares of what is left."""
    dense = make_dense("mixtral", experts="whole")
    mixture, hidden = dense.model.model.layers[0].mlp, torch.randn(5, 32)
    for kept in (3, 1):
        sizes = {"gate_proj": kept * 48, "up_proj": kept * 48, "router": kept}
        weights = {f"{name}.weight": mixture.get_submodule(name).weight[:rows] for name, rows in sizes.items()}
        weights["down_proj.weight"] = mixture.down_proj.weight[:, : kept * 48]
        found = functional_call(mixture, weights, (hidden,))
        stock = copy.deepcopy(mixture).stock()
        stock.gate.weight.data, stock.gate.top_k = stock.gate.weight[:kept], min(2, kept)
        stock.experts.config._experts_implementation = "eager"
        torch.testing.assert_close(found, stock(hidden[None])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_the_experts_that_a_token_goes_to_are_computed(make_dense):
    mixture, hidden = make_dense("qwen3_moe").model.model.layers[0].mlp, torch.randn(5, 32)
    assert ((mixture.routing(hidden) > 0).sum(-1) == 2).all()
    with FlopCounterMode(display=False) as chosen:
        mixture(hidden)
    with FlopCounterMode(display=False) as every, every_expert(mixture):
        mixture(hidden)
    router = 2 * 5 * 6 * 32
    assert every.get_total_flops() - router == 3 * (chosen.get_total_flops() - router)


def test_a_family_without_experts_has_none_to_cut_whole():
    with pytest.raises(ModelError, match=r"family 'llama' has none; families that have: mixtral, qwen2_moe, qwen3_moe"):
        with_experts(FAMILIES["llama"], "whole")
