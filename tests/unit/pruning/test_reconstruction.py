"""The refit against explicit normal equations."""

import pytest
import torch

from secateur.pruning.importance import damped
from secateur.pruning.reconstruction import Refitter

RIDGE = 1e-2
COLUMNS, HIDDEN = 10, 6


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, COLUMNS, generator=generator) @ torch.randn(COLUMNS, COLUMNS, generator=generator)
    g = torch.randn(40, HIDDEN, generator=generator)
    return x.T @ x / len(x), torch.randn(HIDDEN, COLUMNS, generator=generator), g.T @ g / len(g)


def metric_error(gram, weight, moment, kept_weight):
    """0.5 tr(M D H D^T) with D the change of the projection; the columns that are gone change to zero."""
    padded = torch.zeros(HIDDEN, COLUMNS, dtype=torch.float64)
    padded[:, : kept_weight.shape[1]] = kept_weight.double()
    change = padded - weight.double()
    return 0.5 * float(torch.trace(moment.double() @ change @ damped(gram, RIDGE) @ change.T))


@pytest.mark.parametrize("kept", range(COLUMNS + 1))
def test_refit_solves_the_normal_equations(problem, kept):
    gram, weight, moment = problem
    fit = Refitter(gram, weight, moment, RIDGE).refit(kept)
    matrix = damped(gram, RIDGE)
    expected = torch.linalg.solve(matrix[:kept, :kept], matrix[:kept] @ weight.double().T).T
    torch.testing.assert_close(fit.weight, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kept", range(COLUMNS + 1))
@pytest.mark.parametrize("method", ["refit", "cut"])
def test_the_error_is_that_of_the_weight_in_the_metric(problem, method, kept):
    gram, weight, moment = problem
    fit = getattr(Refitter(gram, weight, moment, RIDGE), method)(kept)
    assert fit.error == pytest.approx(metric_error(gram, weight, moment, fit.weight), rel=1e-4, abs=1e-8)


def test_cut_keeps_the_columns_as_they_are(problem):
    gram, weight, moment = problem
    assert torch.equal(Refitter(gram, weight, moment, RIDGE).cut(4).weight, weight[:, :4])


def test_errors_fall_with_width_and_refitting_never_costs(problem):
    refitter = Refitter(*problem, RIDGE)
    refits = [refitter.refit(kept).error for kept in range(COLUMNS + 1)]
    cuts = [refitter.cut(kept).error for kept in range(COLUMNS + 1)]
    assert refits == sorted(refits, reverse=True)
    assert all(refit <= cut * (1 + 1e-9) for refit, cut in zip(refits, cuts, strict=True))
    assert refits[0] == pytest.approx(cuts[0])
    assert refits[-1] == pytest.approx(0, abs=1e-12)


def test_a_perfectly_predictable_column_costs_nothing_to_lose():
    """The last input is twice the first, so the first column takes it over, up to the damping."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 2 * x[:, 0]
    weight = torch.tensor([[1.0, 0.0, 1.0]])
    fit = Refitter(x.T @ x / len(x), weight, torch.eye(1), 1e-6).refit(2)
    torch.testing.assert_close(fit.weight, torch.tensor([[3.0, 0.0]]), atol=1e-3, rtol=0)
    assert fit.error < 1e-4


def test_the_refit_comes_in_the_weights_own_dtype(problem):
    gram, weight, moment = problem
    assert Refitter(gram, weight.bfloat16(), moment, RIDGE).refit(4).weight.dtype is torch.bfloat16
