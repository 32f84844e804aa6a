import pytest
import torch

from secateur.evaluation import divergence
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.pruning.final_norm import scale_output
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

SMALLER = Architecture.from_widths((2, 24, 3, 16, 0, 40))


@pytest.fixture
def scored(prepared):
    """Score one architecture with a fresh reference."""

    def score(batch_windows=3, architecture=SMALLER):
        reference = DenseReference(prepared.walk, prepared.selection, batch_windows)
        return StitchedModel(prepared.walk, prepared.bank, reference).score(architecture)

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
    scale_output(pruned.model.norm, 0.6, prepared.dense.family)
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
    monkeypatch.setattr(divergence, "MOST_ROWS", rows)
    torch.testing.assert_close(scored().kl, expected.kl, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored().loss, expected.loss, atol=1e-5, rtol=0)


def test_is_what_the_distributions_themselves_say(prepared, scored):
    pruned = prune(prepared.dense, prepared.bank, SMALLER)
    tokens = prepared.selection.tokens
    log_p, log_q = (
        model(input_ids=tokens, use_cache=False).logits[:, :-1].double().log_softmax(-1)
        for model in (prepared.dense.model, pruned)
    )
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean(1)
    torch.testing.assert_close(scored().kl.double(), expected, rtol=1e-5, atol=1e-6)


class TestProbabilitiesThatDoNotFit:
    @pytest.fixture(autouse=True)
    def no_room(self, monkeypatch):
        monkeypatch.setattr(divergence, "KEPT_PROBABILITIES_BYTES", 0)

    def test_come_back_the_same(self, scored, monkeypatch):
        computed_again = scored()
        monkeypatch.undo()
        assert torch.equal(scored().kl, computed_again.kl)
        assert torch.equal(scored().loss, computed_again.loss)

    @pytest.mark.parametrize("top_k", [1, 7, 50])
    def test_are_the_largest_and_any_other(self, prepared, scored, top_k):
        """KL of the distributions over the largest and the rest, as it is defined; never more than of all."""
        reference = DenseReference(prepared.walk, prepared.selection, 3, top_k)
        few = StitchedModel(prepared.walk, prepared.bank, reference).score(SMALLER)
        pruned, tokens = prune(prepared.dense, prepared.bank, SMALLER), prepared.selection.tokens
        p, q = (
            model(input_ids=tokens, use_cache=False).logits[:, :-1].double().softmax(-1)
            for model in (prepared.dense.model, pruned)
        )
        kept, places = p.topk(top_k)
        p, q = (torch.cat([own, 1 - own.sum(-1, keepdim=True)], -1) for own in (kept, q.gather(-1, places)))
        expected = (p * (p / q).log()).sum(-1).mean(1)
        torch.testing.assert_close(few.kl.double(), expected, rtol=1e-4, atol=1e-6)
        assert (few.kl <= scored().kl + 1e-6).all()
        assert torch.equal(few.loss, scored().loss)

    def test_of_the_whole_vocabulary_are_all(self, prepared, scored):
        reference = DenseReference(prepared.walk, prepared.selection, 3, top_k=10_000)
        assert reference.top_k is None
        assert torch.equal(StitchedModel(prepared.walk, prepared.bank, reference).score(SMALLER).kl, scored().kl)


def test_what_fits_is_kept_whole_whatever_top_k_says(prepared, scored):
    reference = DenseReference(prepared.walk, prepared.selection, 3, top_k=2)
    assert torch.equal(StitchedModel(prepared.walk, prepared.bank, reference).score(SMALLER).kl, scored().kl)
