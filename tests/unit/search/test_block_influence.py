import itertools

import pytest
import torch

from secateur.data import Role
from secateur.model.walk import DecoderWalk
from secateur.search.block_influence import block_influence, layer_dropping_architecture
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of
from tiny import REPRESENTATIVES

INFLUENCE = torch.tensor([0.5, 0.1, 0.3])


class TestBlockInfluence:
    @pytest.mark.parametrize("family", REPRESENTATIVES)
    def test_is_one_minus_the_mean_cosine_of_the_hidden_states(self, prepare, family):
        prepared = prepare(family)
        states = []

        def keep(_module, args, kwargs):
            states.append(args[0] if args else kwargs["hidden_states"])

        model = prepared.dense.model
        # What goes into every layer and, behind the last one, into the final norm.
        readers = [*prepared.walk.layers, model.get_submodule(prepared.dense.family.final_norm)]
        handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in readers]
        model(prepared.calibration.tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        assert len(states) == 4
        expected = []
        for before, after in itertools.pairwise(states):
            product = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
            # Gemma embeds the padding token as zero, which has no direction.
            expected.append(1 - product.nan_to_num(0).mean())
        found = block_influence(prepared.walk, prepared.calibration, batch_tokens=96)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)

    def test_a_layer_that_adds_nothing_has_none(self, make_dense, make_tokens):
        dense = make_dense()
        for projection in (dense.model.model.layers[1].self_attn.o_proj, dense.model.model.layers[1].mlp.down_proj):
            projection.weight.zero_()
        found = block_influence(DecoderWalk(dense.model, dense.family), make_tokens(Role.CALIBRATION), 48)
        assert found[1] == pytest.approx(0, abs=1e-6)
        assert (found[[0, 2]] > 0.01).all()

    def test_batches_do_not_matter(self, prepared):
        one, other = (block_influence(prepared.walk, prepared.calibration, size) for size in (1, 10_000))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)

    def test_only_a_calibration_set_is_accepted(self, prepared):
        with pytest.raises(ValueError, match="a calibration set is expected here, got the selection set"):
            block_influence(prepared.walk, prepared.selection, 96)


@pytest.fixture(params=[False, True], ids=["plain", "bias"])
def shape(request, prepared):
    return prepared.dense.shape.with_output_bias() if request.param else prepared.dense.shape


class TestLayerDroppingArchitecture:
    @pytest.mark.parametrize("keep", [0.05, 0.2, 0.33, 0.4, 0.5, 0.6, 0.66, 0.7, 0.9, 0.99, 1.0])
    def test_layers_go_in_the_order_of_their_influence(self, shape, keep):
        """All that go before the one at the margin are gone, all after it are whole."""
        architecture = layer_dropping_architecture(shape, Budget.from_keep(shape, keep, 0.01), INFLUENCE)
        kept = [layer.kv_heads / 4 + layer.ffn_width / 48 for layer in architecture.layers]
        first, second, third = (kept[layer] for layer in (1, 2, 0))
        assert first == 0 or (second, third) == (2, 2)
        assert second == 0 or third == 2

    @pytest.mark.parametrize("keep", [0.02, 0.05, 0.1, 0.2, 0.33, 0.4, 0.5, 0.6, 0.7, 0.9, 0.99, 1.0])
    def test_the_layer_at_the_margin_fills_the_budget_to_within_a_channel(self, shape, keep):
        budget = Budget.from_keep(shape, keep, 0.01)
        architecture = layer_dropping_architecture(shape, budget, INFLUENCE)
        left = budget.ceiling - cost_of(shape, architecture).decoder_parameters
        assert 0 <= left < shape.mlp.parameters_at(1)

    def test_it_keeps_heads_and_channels_in_equal_shares(self, prepared):
        """Half of a layer is 2 of 4 heads and half of the channels, all but what the norms weigh."""
        shape = prepared.dense.shape
        architecture = layer_dropping_architecture(shape, Budget.from_keep(shape, 5 / 6, 0.01), INFLUENCE)
        margin = architecture.layers[1]
        assert margin.kv_heads == 2
        assert margin.ffn_width == 23

    def test_whole_layers_meet_their_own_budget_exactly(self, prepared):
        shape = prepared.dense.shape
        architecture = layer_dropping_architecture(shape, Budget.from_keep(shape, 2 / 3, 0.01), INFLUENCE)
        assert architecture == Architecture.from_widths((4, 48, 0, 0, 4, 48))

    def test_a_budget_of_everything_keeps_everything(self, shape):
        whole = layer_dropping_architecture(shape, Budget.from_keep(shape, 1.0, 0.01), INFLUENCE)
        assert whole == Architecture.dense(shape)

    def test_equal_influence_drops_the_first_layer_first(self, prepared):
        shape = prepared.dense.shape
        dropped = layer_dropping_architecture(shape, Budget.from_keep(shape, 2 / 3, 0.01), torch.ones(3))
        assert dropped.widths == (0, 0, 4, 48, 4, 48)
