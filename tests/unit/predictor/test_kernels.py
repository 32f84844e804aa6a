import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process.kernels import Matern

from secateur.predictor.kernels import BlocksKernel, CurvesKernel

ROWS = np.random.default_rng(0).normal(size=(12, 5))
OTHERS = np.random.default_rng(1).normal(size=(7, 5))
KERNELS = [
    CurvesKernel((0, 2, 3), 0.7),
    BlocksKernel(((0, 1, 2), (3, 4)), np.array([0.8, 2.0])),
]


def test_one_block_is_the_matern_kernel_in_units_of_the_root_of_its_size():
    ours = BlocksKernel(((0, 1, 2, 3, 4),), np.array([0.9]))(ROWS, OTHERS)
    np.testing.assert_allclose(ours, Matern(0.9 * np.sqrt(5), nu=2.5)(ROWS, OTHERS), atol=1e-12)


def test_curves_are_the_mean_of_kernels_of_single_columns():
    alone = [Matern(0.7, nu=2.5)(ROWS[:, [column]], OTHERS[:, [column]]) for column in (0, 2, 3)]
    np.testing.assert_allclose(KERNELS[0](ROWS, OTHERS), np.mean(alone, axis=0), atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_the_logarithms_of_the_lengths(kernel):
    _, gradient = kernel(ROWS, eval_gradient=True)

    def weighted(theta):
        return float((kernel.clone_with_theta(theta)(ROWS) * WEIGHTS).sum())

    numeric = approx_fprime(kernel.theta, weighted, 1e-6)
    np.testing.assert_allclose((gradient * WEIGHTS[:, :, None]).sum((0, 1)), numeric, rtol=1e-4, atol=1e-4)


WEIGHTS = np.random.default_rng(2).normal(size=(12, 12))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_diagonal_is_one(kernel):
    np.testing.assert_allclose(np.diag(kernel(ROWS)), 1, atol=1e-9)
    np.testing.assert_allclose(kernel.diag(ROWS), 1)
