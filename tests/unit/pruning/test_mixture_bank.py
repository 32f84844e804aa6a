"""The bank of a mixture: every expert in an order of its own, or experts whole."""

import pytest
import torch

from secateur.pruning.bank import build_bank, load_bank
from secateur.pruning.mixture_bank import expert_statistics
from secateur.pruning.orders import IMPORTANCE
from secateur.pruning.reconstruction import Refitter
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

MLP = 3


@pytest.fixture(params=["widths", "whole"])
def mixed(request, prepare):
    return prepare("qwen2_moe", experts=request.param)


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_every_importance_orders_all_groups_once(mixed, importance):
    bank = build_bank(mixed.dense, mixed.statistics, mixed.space.options, importance)
    order = bank.modules[MLP].order
    for own in order.unbind(1) if order.ndim == 2 else [order]:
        assert sorted(own.tolist()) == list(range(mixed.dense.shape.ffn_width))


def test_a_random_order_is_another_one_for_every_expert(prepare):
    prepared = prepare("qwen2_moe")
    bank = build_bank(prepared.dense, prepared.statistics, prepared.space.options, "random")
    assert len({tuple(order.tolist()) for order in bank.modules[MLP].order.unbind(1)}) == 6


def test_errors_never_grow_with_width_and_no_refit_leaves_more_than_cutting(mixed):
    cut = build_bank(mixed.dense, mixed.statistics, mixed.space.options, reconstruction="none")
    for module in (1, 3, 5):
        errors = mixed.bank.errors(module)
        values = [errors[width] for width in sorted(errors)]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0
        assert values[-1] == pytest.approx(0, abs=1e-9)
        for width, error in errors.items():
            assert error <= cut.errors(module)[width] * (1 + 1e-6)


def test_each_expert_is_refitted_as_a_module_of_its_own(prepare):
    prepared = prepare("mixtral")
    bank, statistics = prepared.bank.modules[MLP], prepared.statistics[MLP]
    slices = prepared.bank.slices(MLP, 16)
    down = prepared.dense.model.model.layers[1].mlp.stock().experts.down_proj
    gate = prepared.dense.model.model.layers[1].mlp.stock().experts.gate_up_proj.chunk(2, dim=1)[0]
    orders = set()
    for expert in range(6):
        order, own = bank.order[:, expert], expert_statistics(statistics, expert)
        orders.add(tuple(order.tolist()))
        refitter = Refitter(own.gram[order][:, order], down[expert][:, order], own.gradient_moment, 1e-2)
        assert slices["down_proj.weight"][:, expert::6].equal(refitter.refit(16).weight)
        assert slices["gate_proj.weight"][expert::6].equal(gate[expert][order[:16]])
    assert len(orders) == 6


def test_whole_experts_go_by_what_they_cost_and_the_router_is_cut_to_match(prepare):
    prepared = prepare("mixtral", experts="whole")
    dense = prepared.dense.model.model.layers[1].mlp.stock()
    statistics = prepared.statistics[MLP]
    weight = prepared.dense.model.model.layers[1].mlp.down_proj.weight
    costs = statistics.removal_errors(weight, statistics.gradient_moment, 1e-2)
    order = prepared.bank.modules[MLP].order
    assert order.tolist() == costs.argsort(descending=True).tolist()
    for kept, per_token in ((4, 2), (1, 1)):
        pruned = prune(prepared.dense, prepared.bank, Architecture.from_widths((4, 6, 4, kept, 4, 6)))
        stock = pruned.model.layers[1].mlp.stock()
        assert stock.gate.weight.equal(dense.gate.weight[order[:kept]])
        assert stock.experts.gate_up_proj.equal(dense.experts.gate_up_proj[order[:kept]])
        assert stock.experts.down_proj.equal(dense.experts.down_proj[order[:kept]])
        assert (stock.gate.top_k, stock.gate.num_experts, stock.experts.num_experts) == (per_token, kept, kept)


def test_a_bank_survives_its_file(mixed, tmp_path):
    build_bank(mixed.dense, mixed.statistics, mixed.space.options, folder=tmp_path)
    read = load_bank(mixed.dense, tmp_path)
    for index, options in enumerate(mixed.space.options):
        assert read.errors(index) == mixed.bank.errors(index)
        for width in options[1:]:
            expected = mixed.bank.slices(index, width)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in read.slices(index, width).items())
