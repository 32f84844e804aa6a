import dataclasses

import pytest
import torch

from secateur.model.shape import BlockShape, DenseShape
from secateur.pruning.bank import output_projection
from secateur.pruning.importance import fluctuation_scores, order_by_scores
from secateur.search.global_threshold import global_threshold_architecture
from secateur.search.methods import ALLOCATIONS, AllocationInputs
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of

KEEPS = (0.3, 0.5, 0.7, 0.9)


def random_scores(shape, seed):
    """Scores of mean zero, as standardised ones are; of a few modules all are high, of others all low."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape.attention.num_groups, shape.mlp.num_groups] * shape.num_layers
    return [torch.randn(size, generator=generator) + torch.randn(1, generator=generator) for size in sizes]


@pytest.fixture(params=[False, True], ids=["plain", "bias"])
def shape(request, prepared):
    return prepared.dense.shape.with_output_bias() if request.param else prepared.dense.shape


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_filled_to_within_a_channel_and_never_exceeded(shape, keep, seed):
    budget = Budget.from_keep(shape, keep, 0.01)
    architecture = global_threshold_architecture(shape, budget, random_scores(shape, seed))
    left = budget.ceiling - cost_of(shape, architecture).decoder_parameters
    # What a channel costs that is the first of its block: its norm and its bias come with it.
    assert 0 <= left < shape.mlp.parameters_at(1)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("seed", range(4))
def test_the_highest_scores_stay_wherever_they_are(keep, seed):
    """Where every group costs the same, those that stay are the best of the model: one threshold, and no other rule."""
    shape = DenseShape(
        hidden_size=1,
        num_layers=3,
        num_query_heads=4,
        num_kv_heads=4,
        head_dim=1,
        ffn_width=48,
        vocab_size=10,
        attention=BlockShape(4, 10, 0, 10),
        mlp=BlockShape(48, 10, 0, 10),
        parameters_outside=0,
    )
    scores = random_scores(shape, seed)
    budget = Budget.from_keep(shape, keep, 0.01)
    threshold = torch.cat(scores).sort(descending=True).values[budget.ceiling // 10 - 1]
    expected = tuple(int((values >= threshold).sum()) for values in scores)
    assert global_threshold_architecture(shape, budget, scores).widths == expected


def test_what_is_too_large_for_the_rest_is_passed_over_for_what_fits(shape):
    """A head that no longer fits leaves its room to channels of lower score."""
    scores = random_scores(shape, 0)
    for module in range(0, 6, 2):
        scores[module] = torch.full((4,), 100.0)
    head = shape.attention.parameters_at(1)
    budget = Budget.of_decoder_parameters(ceiling=head + shape.mlp.parameters_at(3), floor=1)
    architecture = global_threshold_architecture(shape, budget, scores)
    assert architecture.widths[::2] == (1, 0, 0), "equal scores are taken in module order"
    assert sum(architecture.widths[1::2]) > 0


def test_a_budget_of_everything_keeps_everything(shape):
    whole = global_threshold_architecture(shape, Budget.from_keep(shape, 1.0, 0.01), random_scores(shape, 0))
    assert whole == Architecture.dense(shape)


class TestAsAMethod:
    """FLAP's allocation on a real decoder, from its calibration statistics."""

    @pytest.fixture
    def allocate(self, prepared):
        def allocate(statistics=prepared.statistics, shape=prepared.dense.shape, keep=0.6):
            return ALLOCATIONS["global_threshold"](
                AllocationInputs(
                    dense=prepared.dense,
                    shape=shape,
                    budget=Budget.from_keep(prepared.dense.shape, keep, 0.01),
                    statistics=statistics,
                    walk=prepared.walk,
                    calibration=prepared.calibration,
                    batch_tokens=96,
                )
            )

        return allocate

    @pytest.mark.parametrize("keep", KEEPS)
    def test_groups_that_stay_are_those_above_one_threshold(self, allocate, prepared, keep):
        """To within what was passed over at the end, where heads were too large."""
        shape = prepared.dense.shape
        architecture = allocate(keep=keep)
        stayed, went = [], []
        for module, width in enumerate(architecture.widths):
            statistics, weight = prepared.statistics[module], output_projection(prepared.dense, module).weight
            groups = shape.attention.num_groups if module % 2 == 0 else shape.mlp.num_groups
            scores = fluctuation_scores(weight, statistics.gram.diagonal(), statistics.mean, groups)
            ordered = scores[order_by_scores(scores)].tolist()
            stayed += ordered[:width]
            went += ordered[width:] if module % 2 else []
        assert max(went, default=-9.0) <= min(stayed) + 0.1

    @pytest.mark.parametrize("module", range(6))
    @pytest.mark.parametrize("factor", [0.01, 100.0])
    def test_the_scale_of_a_modules_activations_changes_nothing(self, allocate, prepared, module, factor):
        scaled = dataclasses.replace(
            prepared.statistics[module],
            gram=prepared.statistics[module].gram * factor**2,
            mean=prepared.statistics[module].mean * factor,
        )
        statistics = [*prepared.statistics[:module], scaled, *prepared.statistics[module + 1 :]]
        assert allocate(statistics) == allocate()

    @pytest.mark.parametrize("keep", KEEPS)
    def test_a_bias_comes_out_of_the_budget(self, allocate, prepared, keep):
        shape = prepared.dense.shape
        biased = shape.with_output_bias()
        architecture = allocate(shape=biased, keep=keep)
        budget = Budget.from_keep(shape, keep, 0.01)
        assert 0 <= budget.ceiling - cost_of(biased, architecture).decoder_parameters < biased.mlp.parameters_at(1)
        assert sum(architecture.widths) < sum(allocate(keep=keep).widths)
