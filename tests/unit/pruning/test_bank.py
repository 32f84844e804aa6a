"""The weight bank: orders, prefixes, and the file it survives in."""

import pytest
import torch

from secateur.data import Role
from secateur.errors import ConfigError
from secateur.model.shape import module_of
from secateur.pruning.bank import build_bank, expand_groups, load_bank, output_projection
from secateur.pruning.calibration import calibrate
from secateur.pruning.orders import IMPORTANCE
from secateur.pruning.reconstruction import RECONSTRUCTIONS
from tiny import REPRESENTATIVES


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


def test_an_unknown_reconstruction_is_refused(prepared):
    with pytest.raises(ConfigError, match="reconstruction 'biased' is unknown"):
        build_bank(prepared.dense, prepared.statistics, prepared.space.options, reconstruction="biased")


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_losing_everything_costs_most_and_losing_nothing_costs_nothing(prepare, family, reconstruction):
    bank = prepare(family, reconstruction=reconstruction).bank
    for module in range(len(bank.modules)):
        errors = [bank.errors(module)[width] for width in sorted(bank.errors(module))]
        assert errors[0] == max(errors) > 0
        assert errors[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_errors_of_least_squares_never_grow_with_width(prepare, family):
    """Without a refit they may: of two groups that cancel each other, losing one costs more than losing both."""
    bank = prepare(family).bank
    for module in range(len(bank.modules)):
        errors = [bank.errors(module)[width] for width in sorted(bank.errors(module))]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("reconstruction", ["bias", "least_squares"])
def test_reconstruction_leaves_smaller_errors_than_cutting(prepare, reconstruction):
    reconstructed, cut = prepare(reconstruction=reconstruction).bank, prepare(reconstruction="none").bank
    for module in range(len(cut.modules)):
        errors = reconstructed.errors(module)
        for width, error in errors.items():
            assert error <= cut.errors(module)[width] * (1 + 1e-6)
        assert errors[0] == pytest.approx(cut.errors(module)[0]), "nothing is left to make up for a block that is gone"


@pytest.mark.parametrize(("family", "ratio"), [("llama", 1), ("llama", 2), ("gpt_neox", 1), ("gpt2", 1)])
def test_a_bias_is_what_cutting_takes_from_the_mean_output(prepare, family, ratio):
    """On the calibration set and the dense model's own stream, module by module and width by width."""
    prepared, cut = prepare(family, ratio, reconstruction="bias"), prepare(family, ratio, reconstruction="none")
    state = prepared.walk.embed(prepared.calibration.tokens)
    for index, options in enumerate(prepared.space.options):
        layer, kind = module_of(index)

        def mean_output(weights, state=state, layer=layer, kind=kind):
            return prepared.walk.branch(layer, kind, state, weights).flatten(0, -2).mean(0)

        dense = mean_output(None)
        own = output_projection(prepared.dense, index).bias
        for width in options[1:-1]:
            slices = prepared.bank.slices(index, width)
            without = mean_output(cut.bank.slices(index, width))
            bias = slices[f"{prepared.bank.output_names[index % 2]}.bias"]
            gained = bias if own is None else bias - own
            torch.testing.assert_close(gained, dense - without, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mean_output(slices), dense, atol=1e-5, rtol=1e-4)
            assert (dense - without).abs().max() > 1e-2, "with no change of the mean nothing would be shown"
        state = prepared.walk.block(layer, kind, state)


def test_only_blocks_that_are_narrowed_have_a_bias(prepare):
    bank = prepare(reconstruction="bias").bank
    for index, options in enumerate(prepare().space.options):
        assert sorted(bank.modules[index].biases) == list(options[1:-1])
    assert "o_proj.bias" not in bank.slices(0, 4)
    assert not any(module.biases for module in prepare(reconstruction="least_squares").bank.modules)


def test_a_bias_adds_to_the_one_that_is_there(make_dense, make_tokens):
    dense = make_dense("llama", mlp_bias=True)
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{16}] * 6, "l1", reconstruction="bias")
    down, gone = dense.model.model.layers[1].mlp.down_proj, bank.modules[3].order[16:]
    before = down.bias.clone()
    expected = before + down.weight[:, gone] @ statistics[3].mean[gone]
    torch.testing.assert_close(bank.slices(3, 16)["down_proj.bias"], expected)
    assert torch.equal(down.bias, before), "the dense model is left as it was"


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


def test_norms_over_all_heads_are_permuted_with_them(prepare):
    prepared = prepare("olmo2")
    attention = prepared.walk.layers[1].self_attn
    order = prepared.bank.modules[2].order
    slices = prepared.bank.slices(2, 3)
    assert torch.equal(slices["q_norm.weight"], attention.q_norm.weight[expand_groups(order[:3], 2 * 8)])
    assert torch.equal(slices["k_norm.weight"], attention.k_norm.weight[expand_groups(order[:3], 8)])


def test_a_width_that_was_not_asked_for_is_refused(prepared):
    with pytest.raises(KeyError):
        prepared.bank.slices(1, 7)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_full_width_is_the_dense_projection(prepare, family):
    prepared = prepare(family)
    order = prepared.bank.modules[3].order
    weight = output_projection(prepared.dense, 3).weight
    assert torch.equal(prepared.bank.slices(3, 48)[f"{prepared.dense.family.mlp.output}.weight"], weight[:, order])


@pytest.mark.parametrize(
    ("family", "reconstruction"),
    [*(("llama", name) for name in RECONSTRUCTIONS), ("olmo2", "least_squares"), ("gpt2", "bias")],
)
def test_a_bank_read_from_disk_is_the_one_written(prepare, family, reconstruction, tmp_path):
    prepared = prepare(family, reconstruction=reconstruction)
    options = prepared.space.options
    build_bank(prepared.dense, prepared.statistics, options, "obs", reconstruction, folder=tmp_path / "bank")
    read = load_bank(prepared.dense, tmp_path / "bank")
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
