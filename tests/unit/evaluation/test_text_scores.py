"""Perplexity, bits per byte, KL and paired tests of models whose probabilities are known."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from secateur.data import Role, perplexity_windows
from secateur.errors import ConfigError, DataError
from secateur.evaluation.perplexity import window_losses
from secateur.evaluation.protocols import find_protocol
from secateur.evaluation.text import NamedModel, evaluate_text
from secateur.evaluation.token_losses import score_text
from secateur.token_stream import encode_rows

ROWS = [" ".join(f"w{3 + (7 * row + column) % 90}" for column in range(10)) for row in range(30)]


def constant(make_model, probabilities):
    """A model that gives every token the same distribution: w3 gets the first probability, w4 the second, ..."""
    model = make_model()
    rest = (1 - sum(probabilities)) / (96 - len(probabilities))
    logits = torch.full((96,), math.log(rest))
    logits[3 : 3 + len(probabilities)] = torch.tensor(probabilities).log()
    model.lm_head = nn.Linear(32, 96)
    nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = nn.Parameter(logits)
    return model.eval()


def evaluated(named, rows, *protocols):
    return evaluate_text(named, rows, [find_protocol(name) for name in protocols], batch_tokens=64, seed=0)


def test_figures_of_known_probabilities(make_model, tokenizer):
    """Of `<s> w3 w4 w3 w4 ...` in windows of 4, the 2nd to 4th are predicted: p = 1/4 for w3, 1/8 for w4."""
    named = NamedModel("known", constant(make_model, [1 / 4, 1 / 8]), tokenizer)
    (result,) = evaluated([named], [" ".join(["w3", "w4"] * 8)], "ppl-4").results
    assert (result.perplexity.num_windows, result.perplexity.num_tokens) == (4, 12)
    # Windows predict w3 w4 w3, w3 w4 w3, ...: bits 2 + 3 + 2; each word stands for its blank, too.
    assert result.perplexity.value == pytest.approx(2 ** (7 / 3), rel=1e-5)
    assert result.num_bytes == 12 * 3
    assert result.bits_per_byte.value == pytest.approx(7 / 9, rel=1e-5)
    assert result.bits_per_byte.low == pytest.approx(7 / 9, rel=1e-5), "windows are alike"


def test_kl_of_known_probabilities_is_from_the_other(make_model, tokenizer):
    p, q = (1 / 2, 1 / 4), (1 / 4, 1 / 2)
    named = [NamedModel(name, constant(make_model, each), tokenizer) for name, each in (("q", q), ("p", p))]
    outcome = evaluated(named, [" ".join(["w3", "w4"] * 8)], "sliding-8-4")
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert outcome.results[0].kl.value == pytest.approx(kl, rel=1e-4)
    assert outcome.results[1].kl is None
    (comparison,) = outcome.comparisons
    assert (comparison.first, comparison.second, comparison.unit) == ("q", "p", "nats per token")
    # w3 costs q ln 2 more than p, w4 ln 2 less; the 16 predicted words are half of each.
    assert comparison.difference == pytest.approx(0, abs=1e-6)


def test_a_window_as_long_as_the_text_gives_the_loss_with_all_context(make_model, tokenizer):
    model, rows = make_model(), ["w3 w9 w27 w81 w5 w15 w45"]
    ids = encode_rows(rows, tokenizer).ids
    loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    for name in ("sliding-64-32", "sliding-64-1", f"sliding-{len(ids)}-{len(ids)}"):
        (result,) = evaluated([NamedModel("whole", model, tokenizer)], rows, name).results
        assert math.log(result.perplexity.value) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_ppl_is_that_of_the_published_windows(make_model, tokenizer, batch_tokens):
    model = make_model("qwen2")
    windows = perplexity_windows(ROWS, tokenizer, 16, Role.EVALUATION)
    expected = window_losses(model, windows, 10_000)
    (scores,) = score_text([model], encode_rows(ROWS, tokenizer), find_protocol("ppl-16"), batch_tokens)
    sums = scores.sums()
    torch.testing.assert_close((sums.loss / sums.num_tokens).float(), expected, atol=1e-5, rtol=0)
    assert sums.num_bytes.tolist() == windows.window_bytes.tolist()


def test_sliding_gives_each_token_the_loss_of_its_own_window(make_model, tokenizer):
    model, stream = make_model(), encode_rows(ROWS[:3], tokenizer)
    (scores,) = score_text([model], stream, find_protocol("sliding-8-3"), 64)
    for window in find_protocol("sliding-8-3").windows(len(stream)):
        ids = torch.tensor(stream.ids[window.start : window.end])
        logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for place in range(window.first, window.end):
            expected = -logs[place - window.start - 1, stream.ids[place]]
            assert float(scores.losses[place - 1]) == pytest.approx(float(expected), abs=1e-5)


def test_models_with_other_tokenizers_are_compared_by_document_in_bits_per_byte(make_model, tokenizer):
    """The other spells each letter; both then predict the same bytes, and constants make the difference known."""
    letters = {letter: number for number, letter in enumerate(["<s>", "</s>", "<unk>", "w", *"0123456789"])}
    raw = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    spelling = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")
    words = NamedModel("words", constant(make_model, [1 / 96]), tokenizer)
    spelled = NamedModel("letters", constant(make_model, [1 / 96]), spelling)
    outcome = evaluated([words, spelled], ["w10 w11", "w22 w33", "w44 w55"], "ppl-4", "sliding-8-4")
    (comparison,) = outcome.comparisons
    assert (comparison.protocol, comparison.unit, comparison.num_windows) == ("sliding-8-4", "bits per byte", 3)
    bits = math.log2(96)
    num_bytes = len("w10 w11\n\nw22 w33\n\nw44 w55")
    assert comparison.difference == pytest.approx((6 - 18) * bits / num_bytes, rel=1e-5)
    assert any("ppl-4: not compared" in note for note in outcome.notes)
    assert any("no KL" in note for note in outcome.notes)
    with pytest.raises(DataError, match="vocabularies of 96 and 97"):
        score_text([make_model(), make_model(vocab_size=97)], encode_rows(ROWS, tokenizer), find_protocol("ppl-4"), 64)


def test_windows_longer_than_the_model_or_the_text_are_refused(make_model, tokenizer):
    named = NamedModel("tiny", make_model(), tokenizer)
    with pytest.raises(ConfigError, match="ppl-128 needs 128 positions, the model has 64"):
        evaluated([named], ROWS, "ppl-128")
    with pytest.raises(DataError, match="the text has 3 tokens, ppl-16 needs at least 16"):
        evaluated([named], ["w3 w4"], "ppl-16")
