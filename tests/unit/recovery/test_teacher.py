"""A teacher that was asked once says the same as one that is asked at every step."""

import torch

from secateur.evaluation.divergence import rows_of
from secateur.recovery.distillation import Distillation
from secateur.recovery.objective import CrossEntropy
from secateur.recovery.teacher import AskedTeacher, cached_teacher
from secateur.recovery.text import RecoverySet


def recovery_set(make_tokens, num_windows: int = 6) -> RecoverySet:
    tokens = make_tokens(num_windows=num_windows).tokens
    counted = torch.ones(num_windows, tokens.shape[1] - 1, dtype=torch.bool)
    counted[0, :5] = False
    return RecoverySet(tokens, counted, torch.zeros(num_windows, dtype=torch.int64), ("text",))


def test_kept_probabilities_teach_as_the_model_does(make_model, make_tokens, tmp_path) -> None:
    dense, other, text = make_model(), make_model(seed=1), recovery_set(make_tokens)
    batch = text.batch(torch.tensor([4, 0, 2]))
    for top_k in (16, 1000):
        asked = Distillation(AskedTeacher(dense, top_k), 1.0).losses(other, batch)
        kept = cached_teacher(dense, text, top_k, tmp_path / str(top_k), "dense", 2)
        told = Distillation(kept, 1.0).losses(other, batch)
        torch.testing.assert_close(told.lowered, asked.lowered, atol=2e-3, rtol=2e-3)


def test_a_cache_of_another_model_is_not_used(make_model, make_tokens, tmp_path) -> None:
    dense, text = make_model(), recovery_set(make_tokens)
    calls: list[int] = []
    for fingerprint, seen in (("a", 3), ("a", 3), ("b", 6)):
        cached_teacher(dense, text, 16, tmp_path / "cache", fingerprint, 2, lambda: calls.append(1))
        assert len(calls) == seen


def test_distillation_from_itself_has_nothing_to_lower_and_the_dense_entropy_is_exact(make_model, make_tokens) -> None:
    dense, text = make_model(), recovery_set(make_tokens)
    batch = text.batch(torch.arange(6))
    own = Distillation(AskedTeacher(dense, 1000), 1.0, hidden_share=0.0).losses(dense, batch)
    assert float(own.lowered.abs().max()) < 1e-5
    hidden = Distillation(AskedTeacher(dense, 1000, hidden=True), 1.0, hidden_share=1.0).losses(dense, batch)
    assert float(hidden.lowered.abs().max()) < 1e-5
    mixed = Distillation(AskedTeacher(dense, 1000), 0.25).losses(dense, batch)
    torch.testing.assert_close(mixed.lowered, 0.75 * CrossEntropy().losses(dense, batch).lowered, atol=1e-5, rtol=1e-5)


def test_the_mass_of_all_other_tokens_counts(make_model, make_tokens) -> None:
    """KL over the kept tokens and "any other" is less than the KL itself, and more than over the kept ones alone."""
    dense, other, text = make_model(), make_model(seed=1), recovery_set(make_tokens)
    batch = text.batch(torch.arange(6))
    log_p, log_q = (
        model(input_ids=batch.tokens).logits[:, :-1].flatten(0, 1).log_softmax(-1) for model in (dense, other)
    )
    whole = rows_of(log_p, None).kl(log_q).mean()
    few = rows_of(log_p, 8).kl(log_q).mean()
    assert 0 < float(few) < float(whole)
