import pytest
import torch

from secateur.evaluation import divergence
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

SMALLER = Architecture.from_widths((2, 24, 3, 16, 0, 40))


@pytest.fixture
def scored(prepared):
    """Score one architecture with a fresh reference."""

    def score(batch_windows=3, architecture=SMALLER):
        reference = DenseReference(prepared.walk, prepared.selection, batch_windows)
        return StitchedModel(prepared.walk, prepared.bank, reference, cache_bytes=0).score(architecture)

    return score


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_dense_model_does_not_diverge_from_itself_and_has_its_own_loss(prepare, family):
    prepared = prepare(family)
    reference = DenseReference(prepared.walk, prepared.selection, batch_windows=3)
    scores = score_model(prepared.dense.model, prepared.dense.family, prepared.walk, reference)
    assert torch.equal(scores.kl, torch.zeros(4))
    tokens = prepared.selection.tokens
    for window, loss in zip(tokens, scores.loss, strict=True):
        own = prepared.dense.model(input_ids=window[None], labels=window[None]).loss
        torch.testing.assert_close(loss, own, atol=1e-5, rtol=0)


def test_a_pruned_model_is_scored_by_its_own_final_norm(prepared):
    """Reconstruction scales it; the head behind it is the dense model's."""
    reference = DenseReference(prepared.walk, prepared.selection, batch_windows=3)
    pruned = prune(prepared.dense, prepared.bank, SMALLER)
    before = score_model(pruned, prepared.dense.family, prepared.walk, reference)
    pruned.model.norm.weight.mul_(0.6)
    after = score_model(pruned, prepared.dense.family, prepared.walk, reference)
    assert not torch.allclose(after.kl, before.kl)
    for window, loss in zip(prepared.selection.tokens, after.loss, strict=True):
        own = pruned(input_ids=window[None], labels=window[None], use_cache=False).loss
        torch.testing.assert_close(loss, own, atol=1e-5, rtol=0)


def test_a_smaller_model_diverges(scored):
    assert (scored().kl > 0.01).all()


@pytest.mark.parametrize("batch_windows", [1, 2, 4, 100])
def test_batches_do_not_matter(scored, batch_windows):
    torch.testing.assert_close(scored(batch_windows).kl, scored().kl, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored(batch_windows).loss, scored().loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 5, 11])
def test_rows_at_a_time_do_not_matter(scored, monkeypatch, rows):
    expected = scored()
    monkeypatch.setattr(divergence, "ROWS", rows)
    torch.testing.assert_close(scored().kl, expected.kl, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored().loss, expected.loss, atol=1e-5, rtol=0)


def test_log_probabilities_that_are_not_kept_come_back_the_same(scored, prepared, monkeypatch):
    expected = scored()
    monkeypatch.setattr(divergence, "KEPT_LOG_PROBABILITIES_BYTES", 0)
    reference = DenseReference(prepared.walk, prepared.selection, 3)
    assert reference._log_probabilities is None
    assert torch.equal(scored().kl, expected.kl)
    assert torch.equal(scored().loss, expected.loss)
