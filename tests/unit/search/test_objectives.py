"""What an objective is, read off a measurement and put together from predictions."""

import numpy as np
import pytest

from planted import BUDGET, SHAPE, SPACE, Problem
from secateur.search.objectives import COSTS, OBJECTIVES, Objectives, fit_objectives, loss_target
from secateur.space.cost import cost_of
from secateur.space.sampling import sample_architectures

DENSE = {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.fixture(scope="module")
def drawn():
    return sample_architectures(SPACE, BUDGET, 40, seed=0)


def measured(architecture, losses, kl=0.5):
    targets = {loss_target(name): value for name, value in losses.items()}
    return Problem(lambda _: kl, targets_of=lambda _: targets).measurement(architecture)


class TestMeasured:
    def test_without_groups_quality_is_the_divergence(self, drawn):
        assert Objectives().measured(measured(drawn[0], {}), SHAPE) == {"quality": 0.5}

    def test_with_groups_it_is_the_mean_log_ratio_and_disparity_the_spread(self, drawn):
        wanted = Objectives(("quality", "disparity"), DENSE)
        measurement = measured(drawn[0], {"a": 1.5, "b": 2.1, "c": 2.9})
        assert wanted.log_ratios(measurement) == pytest.approx({"a": 0.5, "b": 0.1, "c": -0.1})
        assert wanted.measured(measurement, SHAPE) == pytest.approx({"quality": 0.5 / 3, "disparity": 0.6})

    @pytest.mark.parametrize("name", COSTS)
    def test_every_cost_is_one(self, drawn, name):
        found = Objectives(("quality", name)).measured(measured(drawn[0], {}), SHAPE)
        assert found[name] == getattr(cost_of(SHAPE, drawn[0]), name)

    def test_other_names_than_its_own_may_be_asked_for(self, drawn):
        found = Objectives().measured(measured(drawn[0], {}), SHAPE, ("quality", "decoder_parameters"))
        assert list(found) == ["quality", "decoder_parameters"]


def test_plain_is_quality_of_one_text_and_nothing_else():
    assert Objectives().plain
    assert not Objectives(dense_losses=DENSE).plain
    assert not Objectives(("quality", "flops_per_token")).plain
    assert Objectives(OBJECTIVES).bound_costs == COSTS


def test_predictions_are_put_together_as_measurements_are(drawn):
    """Fed what was measured instead of predictions, they give the measured objectives."""
    wanted = Objectives(("disparity", "quality", "kv_cache_bytes_per_token"), DENSE)
    rng = np.random.default_rng(0)
    pairs = [measured(each, dict(zip(DENSE, 3 + rng.random(3), strict=True))) for each in drawn]
    levels = np.array([SPACE.levels(each) for each in drawn])
    truth = {name: np.array([wanted.log_ratios(pair)[name] for pair in pairs]) for name in DENSE}
    expected = [list(wanted.measured(pair, SHAPE).values()) for pair in pairs]
    np.testing.assert_allclose(wanted.predicted(truth, SPACE, levels), expected)


def test_without_groups_predictions_of_the_log_divergence_become_divergences(drawn):
    levels = np.array([SPACE.levels(each) for each in drawn])
    kl = np.linspace(0.1, 1, len(drawn))
    np.testing.assert_allclose(Objectives().predicted({"kl": np.log(kl)}, SPACE, levels)[:, 0], kl)


def test_every_group_has_a_predictor_of_its_own_that_may_predict_better_than_dense(drawn):
    """Group a loses in attention, b gains: its log ratios are negative."""

    def losses(architecture):
        kept = np.array(architecture.kept_ratios(SHAPE))
        return {"a": 1 + 0.5 * (1 - kept[::2]).mean(), "b": 2 - 0.3 * (1 - kept[::2]).mean()}

    wanted = Objectives(("quality", "disparity"), {"a": 1.0, "b": 2.0})
    pairs = [measured(each, losses(each)) for each in drawn]
    table = Problem(lambda _: 1.0).task().features()
    predictors, qualities = fit_objectives(wanted, SPACE, table, pairs[:30], "gaussian_process", seed=0)
    assert set(predictors) == set(qualities) == {"a", "b"}
    features = table.features(np.array([SPACE.levels(each) for each in drawn[30:]]))
    for name, predictor in predictors.items():
        truth = [wanted.log_ratios(pair)[name] for pair in pairs[30:]]
        np.testing.assert_allclose(predictor.predict(features), truth, atol=0.02)
        assert qualities[name].kendall_tau > 0.8
    assert (predictors["b"].predict(features) < 0).all()
