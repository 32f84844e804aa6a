import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from secateur.predictor.computation_aware import (
    NOISE,
    Hyperparameters,
    deal,
    evidence_lower_bound,
    fit_computation_aware,
)
from secateur.predictor.gaussian_process import LENGTH, VARIANCE
from secateur.predictor.quality import rank_correlation

NUM_MODULES = 6
HYPER = Hyperparameters(*torch.tensor([2.0, 1.3, 0.05], dtype=torch.float64))


def draw(count, seed, noise=0.05):
    """A smooth function of kept ratios with one interaction, measured with noise."""
    rng = np.random.default_rng(seed)
    cut = rng.random((count, NUM_MODULES))
    value = (np.linspace(0.5, 2.0, NUM_MODULES) * cut**2).sum(1) + 2 * cut[:, 0] * cut[:, 1]
    return np.column_stack([1 - cut, cut.sum(1)]), value + noise * rng.normal(size=count)


def kernel(a, b):
    """Matern 5/2 as the book has it (Rasmussen and Williams, equation 4.17)."""
    distance = np.sqrt(5) * cdist(a, b) / float(HYPER.length)
    return float(HYPER.variance) * (1 + distance + distance**2 / 3) * np.exp(-distance)


def dealt(count, projection, entries=1_000):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(count, 3)), rng.normal(size=count)
    blocks = deal(torch.from_numpy(inputs), torch.from_numpy(targets), projection, entries)
    return inputs, targets, blocks


def dense_actions(blocks, unit):
    """S as the matrix that it stands for, pairs x actions."""
    matrix = np.zeros((len(blocks.targets), len(unit)))
    for column, (slots, values) in enumerate(zip(blocks.slots.tolist(), unit.tolist(), strict=True)):
        for slot, value in zip(slots, values, strict=True):
            matrix[slot, column] += value
    return matrix


def random_actions(blocks):
    return blocks.unit(torch.randn(blocks.slots.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


class TestBound:
    def test_one_action_per_pair_gives_the_log_marginal_likelihood(self):
        inputs, targets, blocks = dealt(40, projection=40)
        bound = evidence_lower_bound(blocks, random_actions(blocks), HYPER).bound
        covariance = kernel(inputs, inputs) + float(HYPER.noise) * np.eye(40)
        assert float(bound) == pytest.approx(multivariate_normal(cov=covariance).logpdf(targets), rel=1e-6)

    @pytest.mark.parametrize(("projection", "entries"), [(20, 2), (13, 4), (13, 2), (3, 14)])
    def test_with_fewer_actions_it_is_below(self, projection, entries):
        inputs, targets, blocks = dealt(40, projection, entries)
        bound = evidence_lower_bound(blocks, random_actions(blocks), HYPER).bound
        covariance = kernel(inputs, inputs) + float(HYPER.noise) * np.eye(40)
        assert float(bound) < multivariate_normal(cov=covariance).logpdf(targets)

    @pytest.mark.parametrize(("projection", "entries"), [(20, 2), (13, 4), (13, 2)])
    def test_it_is_the_expected_likelihood_less_the_divergence_to_the_prior(self, projection, entries):
        """Both terms from dense n x n matrices and the textbook formulas for Gaussians."""
        inputs, targets, blocks = dealt(40, projection, entries)
        unit = random_actions(blocks)
        evidence = evidence_lower_bound(blocks, unit, HYPER)
        S, noise = dense_actions(blocks, unit), float(HYPER.noise)
        K = kernel(inputs, inputs)
        gain = K @ S @ np.linalg.inv(S.T @ (K + noise * np.eye(40)) @ S)
        mean, covariance = gain @ S.T @ targets, K - gain @ S.T @ K
        likelihood = -0.5 * (
            40 * np.log(2 * np.pi * noise) + (((targets - mean) ** 2).sum() + np.trace(covariance)) / noise
        )
        inverse = np.linalg.inv(K)
        divergence = 0.5 * (
            np.trace(inverse @ covariance)
            + mean @ inverse @ mean
            - 40
            + np.linalg.slogdet(K)[1]
            - np.linalg.slogdet(covariance)[1]
        )
        assert float(evidence.bound) == pytest.approx(likelihood - divergence, rel=1e-5)

    @pytest.mark.parametrize(("projection", "entries"), [(40, 1), (13, 4), (13, 2)])
    def test_unresolved_is_what_the_posterior_does_not_know_across_the_actions(self, projection, entries):
        inputs, _, blocks = dealt(40, projection, entries)
        unit = random_actions(blocks)
        S, K = dense_actions(blocks, unit), kernel(inputs, inputs)
        posterior = K - K @ S @ np.linalg.inv(S.T @ (K + float(HYPER.noise) * np.eye(40)) @ S) @ S.T @ K
        across = np.eye(40) - S @ S.T
        unresolved = float(evidence_lower_bound(blocks, unit, HYPER).unresolved)
        assert unresolved == pytest.approx(np.trace(across @ posterior) / 40, abs=1e-6)
        assert (unresolved < 1e-6) == (projection == 40)

    def test_gradients_are_those_of_finite_differences(self):
        _, _, blocks = dealt(12, projection=4)
        actions = random_actions(blocks).requires_grad_()
        numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 1.3, 0.05)]

        def bound(actions, *numbers):
            return evidence_lower_bound(blocks, blocks.unit(actions), Hyperparameters(*numbers)).bound

        assert torch.autograd.gradcheck(bound, (actions, *numbers), rtol=1e-4)


class TestDealing:
    def test_every_pair_is_in_one_action_and_sizes_differ_by_one(self):
        _, _, blocks = dealt(300, projection=128)
        used = blocks.slots[blocks.mask.bool()]
        assert sorted(used.tolist()) == list(range(300))
        assert set(blocks.mask.sum(1).tolist()) == {2.0, 3.0}

    def test_padding_changes_nothing(self):
        _, _, blocks = dealt(7, projection=3)
        actions = torch.ones(blocks.slots.shape, dtype=torch.float64)
        changed = torch.where(blocks.mask.bool(), actions, 1e3)
        assert (blocks.mask == 0).any()
        assert torch.equal(blocks.unit(actions), blocks.unit(changed))

    def test_entries_bound_the_work_per_pair(self):
        _, _, blocks = dealt(300, projection=10, entries=4)
        assert blocks.slots.shape == (10, 4)
        assert blocks.mask.all()


def test_with_an_action_per_pair_it_is_the_exact_process():
    features, target = draw(60, seed=0)
    unseen, _ = draw(50, seed=1)
    mean, deviation = fit_computation_aware(features, target, seed=0).predict(unseen)
    # scikit-learn's starts elsewhere, so optima agree to the optimisers' tolerance.
    middle, scale = features.mean(0), features.std(0) * np.sqrt(features.shape[1])
    kernel = ConstantKernel(1.0, VARIANCE) * Matern(1.0, LENGTH, nu=2.5) + WhiteKernel(1e-2, NOISE)
    exact = GaussianProcessRegressor(kernel, normalize_y=True).fit((features - middle) / scale, target)
    exact_mean, exact_deviation = exact.predict((unseen - middle) / scale, return_std=True)
    np.testing.assert_allclose(mean, exact_mean, atol=0.01 * target.std())
    np.testing.assert_allclose(deviation, exact_deviation, rtol=0.05)


def test_fewer_actions_than_pairs_rank_nearly_as_well_and_doubt_more():
    features, target = draw(100, seed=0)
    unseen, truth = draw(200, seed=1, noise=0.0)
    exact, few = (fit_computation_aware(features, target, seed=0, projection=count, steps=40) for count in (100, 25))
    assert few.bound < exact.bound
    assert rank_correlation(few.predict(unseen)[0], truth) > 0.9
    assert few.predict(unseen)[1].mean() > exact.predict(unseen)[1].mean()


@pytest.mark.parametrize(("noise", "most"), [(0.05, 0.98), (0.5, 0.94)])
def test_nine_of_ten_measurements_or_more_are_inside_the_interval(noise, most):
    """What the actions leave out is counted as doubt: where noise is small, that is more than there is reason for."""
    features, target = draw(200, seed=0, noise=noise)
    unseen, measured = draw(400, seed=1, noise=noise)
    mean, deviation = fit_computation_aware(features, target, seed=0, projection=40, steps=30).predict(unseen)
    assert 0.87 < (np.abs(measured - mean) < 1.645 * deviation).mean() <= most


def test_learned_actions_have_a_higher_bound_than_those_at_the_start():
    features, target = draw(150, seed=0)
    one, many = (fit_computation_aware(features, target, seed=0, projection=20, steps=steps) for steps in (1, 40))
    assert many.bound > one.bound + 10


def test_far_from_the_pairs_it_says_that_it_knows_nothing():
    features, target = draw(100, seed=0)
    process = fit_computation_aware(features, target, seed=0, projection=20)
    far = process.predict(features + 1e4 * features.std(0))
    assert far[0] == pytest.approx(target.mean())
    whole = np.sqrt(float(process.hyperparameters.variance) + process.prediction_noise) * target.std()
    assert far[1] == pytest.approx(whole)


def test_hyperparameters_stay_inside_the_bounds_of_the_exact_process():
    features, _ = draw(60, seed=0)
    noise = np.random.default_rng(0).normal(size=60)
    for target in (noise, features[:, 0]):
        hyper = fit_computation_aware(features, target, seed=0, projection=20).hyperparameters
        for value, (low, high) in ((hyper.variance, VARIANCE), (hyper.length, LENGTH), (hyper.noise, NOISE)):
            assert low * (1 - 1e-6) <= float(value) <= high * (1 + 1e-6)


def test_targets_that_are_all_alike_five_pairs_and_a_constant_feature_are_no_trouble():
    features, _ = draw(5, seed=0)
    features[:, 0] = 0.5
    mean, deviation = fit_computation_aware(features, np.full(5, -1.2), seed=0, projection=2).predict(features)
    assert mean == pytest.approx(-1.2)
    assert np.isfinite(deviation).all()


def test_the_target_may_have_any_unit():
    features, target = draw(60, seed=0)
    one, other = (
        fit_computation_aware(features, values, seed=0, projection=20, steps=20).predict(features)
        for values in (target, 1000 * target - 7)
    )
    np.testing.assert_allclose(other[0], 1000 * one[0] - 7, rtol=1e-4)
    np.testing.assert_allclose(other[1], 1000 * one[1], rtol=1e-3)


def test_the_seed_decides():
    features, target = draw(60, seed=0)
    one, same, other = (
        fit_computation_aware(features, target, seed=seed, projection=10, steps=10).predict(features)[0]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("setting", ["projection", "steps", "entries"])
def test_a_setting_below_one_is_refused(setting):
    features, target = draw(10, seed=0)
    with pytest.raises(ValueError, match="must be at least 1"):
        fit_computation_aware(features, target, seed=0, **{setting: 0})
