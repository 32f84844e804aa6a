import math

import pytest
import torch

from secateur.data import Role
from secateur.evaluation.perplexity import bits_per_byte, perplexity, window_losses


@pytest.fixture
def evaluation(make_tokens):
    return make_tokens(Role.EVALUATION, num_windows=10)


@pytest.mark.parametrize("batch_tokens", [1, 36, 10_000])
def test_a_window_has_the_models_own_loss(make_dense, evaluation, batch_tokens):
    model = make_dense("qwen2").model
    losses = window_losses(model, evaluation, batch_tokens)
    expected = [model(input_ids=window[None], labels=window[None]).loss for window in evaluation.tokens]
    torch.testing.assert_close(losses, torch.stack(expected), atol=1e-5, rtol=0)


def test_only_an_evaluation_set_is_accepted(make_dense, make_tokens):
    with pytest.raises(ValueError, match=r"an? evaluation set is expected here"):
        window_losses(make_dense().model, make_tokens(Role.SELECTION), 48)


def test_the_value_is_the_exponential_of_the_mean_loss():
    result = perplexity(torch.tensor([1.0, 2.0, 3.0]), "ppl-128", 128, seed=0)
    assert result.value == pytest.approx(math.exp(2))
    assert (result.num_windows, result.num_tokens, result.protocol) == (3, 3 * 127, "ppl-128")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_interval_holds_the_value_and_widens_with_confidence(seed, confidence):
    losses = torch.randn(40, generator=torch.Generator().manual_seed(seed)) + 3
    result = perplexity(losses, "ppl-12", 12, seed=seed, confidence=confidence)
    assert result.low < result.value < result.high
    wider = perplexity(losses, "ppl-12", 12, seed=seed, confidence=0.999)
    assert wider.low <= result.low
    assert wider.high >= result.high


def test_the_interval_is_that_of_the_mean():
    """400 windows of standard deviation 1: 95 % lies within about 1.96 / 20 of the mean log."""
    losses = torch.randn(400, generator=torch.Generator().manual_seed(0))
    result = perplexity((losses - losses.mean()) / losses.std() + 2, "ppl-12", 12, seed=0)
    assert math.log(result.high) - 2 == pytest.approx(0.098, abs=0.012)
    assert 2 - math.log(result.low) == pytest.approx(0.098, abs=0.012)


def test_the_seed_decides_the_interval():
    losses = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert perplexity(losses, "p", 12, seed=1) == perplexity(losses, "p", 12, seed=1)
    assert perplexity(losses, "p", 12, seed=1) != perplexity(losses, "p", 12, seed=2)


def test_bits_per_byte_are_nats_over_ln_2_and_bytes():
    assert bits_per_byte(loss=8 * math.log(2), num_bytes=4) == pytest.approx(2.0)
