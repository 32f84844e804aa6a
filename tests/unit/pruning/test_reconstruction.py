"""The refit against explicit normal equations, the bias against samples."""

import pytest
import torch

from secateur.errors import ConfigError
from secateur.pruning.importance import damped
from secateur.pruning.reconstruction import Refitter, reconstruction_method

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


class TestABiasInPlaceOfWhatGoes:
    @pytest.fixture
    def samples(self):
        """Inputs far from zero on average, with the projection and the gradient moment."""
        generator = torch.Generator().manual_seed(0)
        mixing, mean = torch.randn(COLUMNS, COLUMNS, generator=generator), torch.randn(COLUMNS, generator=generator)
        x = torch.randn(300, COLUMNS, generator=generator) @ mixing + 2 * mean
        g = torch.randn(40, HIDDEN, generator=generator)
        return x, torch.randn(HIDDEN, COLUMNS, generator=generator), g.T @ g / len(g)

    @pytest.fixture
    def refitter(self, samples):
        x, weight, moment = samples
        return Refitter(x.T @ x / len(x), weight, moment, RIDGE, x.mean(0))

    @pytest.mark.parametrize("kept", range(1, COLUMNS))
    def test_keeps_the_columns_and_the_mean_output(self, samples, refitter, kept):
        x, weight, _ = samples
        fit = refitter.bias(kept)
        assert torch.equal(fit.weight, weight[:, :kept])
        before, after = x @ weight.T, x[:, :kept] @ fit.weight.T
        torch.testing.assert_close(fit.bias, (before - after).mean(0), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("kept", range(1, COLUMNS))
    def test_leaves_the_error_of_how_the_output_varies(self, samples, refitter, kept):
        """One half of the mean of `change^T M change` over the samples, and the damping, which is not centred."""
        x, weight, moment = samples
        fit = refitter.bias(kept)
        change = x[:, :kept] @ fit.weight.T + fit.bias - x @ weight.T
        gram = x.T @ x / len(x)
        damping = (damped(gram, RIDGE) - gram)[kept:, kept:].float()
        removed = weight[:, kept:]
        varying = torch.einsum("nh,hk,nk->n", change, moment, change).mean()
        expected = 0.5 * (varying + torch.trace(moment @ removed @ damping @ removed.T))
        assert fit.error == pytest.approx(float(expected), rel=1e-4)

    def test_never_costs_more_than_cutting(self, refitter):
        cuts, biases = ([method(kept).error for kept in range(COLUMNS + 1)] for method in (refitter.cut, refitter.bias))
        assert all(bias < cut for bias, cut in zip(biases[1:-1], cuts[1:-1], strict=True))
        assert (biases[0], biases[-1]) == (cuts[0], cuts[-1])

    @pytest.mark.parametrize("kept", [0, COLUMNS])
    def test_is_none_where_the_block_is_gone_or_whole(self, refitter, kept):
        assert refitter.bias(kept).bias is None

    @pytest.mark.parametrize("method", ["cut", "refit"])
    def test_is_none_for_the_other_methods(self, refitter, method):
        assert getattr(refitter, method)(4).bias is None

    def test_makes_up_for_a_constant_entirely(self):
        """The last input does not vary, so nothing but the damping is left of its loss."""
        x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        x[:, 2] = 5
        refitter = Refitter(x.T @ x / len(x), torch.ones(1, 3), torch.eye(1), 1e-9, x.mean(0))
        fit = refitter.bias(2)
        torch.testing.assert_close(fit.bias, torch.tensor([5.0]))
        assert 0 <= fit.error < 1e-5 < refitter.cut(2).error

    def test_comes_in_the_weights_own_dtype(self, samples):
        x, weight, moment = samples
        refitter = Refitter(x.T @ x / len(x), weight.bfloat16(), moment, RIDGE, x.mean(0))
        assert refitter.bias(4).bias.dtype is torch.bfloat16

    def test_needs_the_mean(self, problem):
        with pytest.raises(ValueError, match="a bias needs the mean of the projection's input, got None"):
            Refitter(*problem, RIDGE).bias(4)


def test_an_unknown_reconstruction_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'least_square' is unknown; known: .*; did you mean 'least_squares'"):
        reconstruction_method("least_square")
