"""The weight bank: orders, prefixes, and the file it survives in."""

import pytest
import torch

from secateur.errors import ConfigError
from secateur.model.families import FAMILIES
from secateur.model.shape import module_of
from secateur.pruning.bank import build_bank, expand_groups, load_bank, save_bank
from secateur.pruning.orders import IMPORTANCE


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_every_importance_orders_all_groups_once(prepared, importance):
    bank = build_bank(prepared.dense, prepared.statistics, prepared.space.options, importance)
    for index, module in enumerate(bank.modules):
        num_groups = prepared.dense.shape.block(module_of(index)[1]).num_groups
        assert sorted(module.order.tolist()) == list(range(num_groups))


def test_importances_differ(prepared):
    orders = [
        build_bank(prepared.dense, prepared.statistics, prepared.space.options, name).modules[1].order.tolist()
        for name in IMPORTANCE
    ]
    assert len({tuple(order) for order in orders}) == len(IMPORTANCE)


def test_an_unknown_importance_names_the_known_ones(prepared):
    with pytest.raises(ConfigError, match=r"'tailor' is unknown; known: l1, l2, obs, .*; did you mean 'taylor'"):
        build_bank(prepared.dense, prepared.statistics, prepared.space.options, "tailor")


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_never_grow_with_width(prepare, family):
    for refit in (True, False):
        bank = prepare(family, refit=refit).bank
        for module in range(len(bank.modules)):
            errors = [bank.errors(module)[width] for width in sorted(bank.errors(module))]
            assert errors == sorted(errors, reverse=True)
            assert errors[-1] == pytest.approx(0, abs=1e-9)
            assert errors[0] > 0


def test_reconstruction_leaves_smaller_errors_than_cutting(prepare):
    refitted, cut = prepare(refit=True).bank, prepare(refit=False).bank
    for module in range(len(cut.modules)):
        for width, error in refitted.errors(module).items():
            assert error <= cut.errors(module)[width] * (1 + 1e-6)


def test_slices_are_prefixes_of_one_order(prepared):
    """Group by group: what a width keeps are the rows of the dense projection in the bank's order."""
    layer = prepared.dense.model.model.layers[1]
    order = prepared.bank.modules[2].order
    slices = prepared.bank.slices(2, 2)
    rows = expand_groups(order[:2], 2 * 8)
    assert torch.equal(slices["q_proj.weight"], layer.self_attn.q_proj.weight[rows])
    assert torch.equal(slices["k_proj.weight"], layer.self_attn.k_proj.weight[expand_groups(order[:2], 8)])
    assert slices["o_proj.weight"].shape == (32, 2 * 16)
    assert slices["q_proj.weight"].data_ptr() == prepared.bank.modules[2].inputs["q_proj.weight"].data_ptr()


def test_a_width_that_was_not_asked_for_is_refused(prepared):
    with pytest.raises(KeyError):
        prepared.bank.slices(1, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_width_is_the_dense_projection(prepare, family):
    prepared = prepare(family)
    order = prepared.bank.modules[3].order
    weight = prepared.dense.model.model.layers[1].mlp.down_proj.weight
    assert torch.equal(prepared.bank.slices(3, 48)["down_proj.weight"], weight[:, order])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bank_read_from_disk_is_the_one_written(prepare, family, tmp_path):
    prepared = prepare(family)
    save_bank(prepared.bank, tmp_path / "bank.safetensors")
    read = load_bank(prepared.dense, tmp_path / "bank.safetensors")
    assert len(read.modules) == len(prepared.bank.modules)
    for index, options in enumerate(prepared.space.options):
        assert read.errors(index) == prepared.bank.errors(index)
        for width in options[1:]:
            written = prepared.bank.slices(index, width)
            assert read.slices(index, width).keys() == written.keys()
            for name, tensor in read.slices(index, width).items():
                assert torch.equal(tensor, written[name])


def test_group_indices_expand_to_their_columns():
    assert expand_groups(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]
