"""One model, or two beside each other, on the same text under named protocols."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.evaluation.paired import PairedComparison, compare_paired
from secateur.evaluation.perplexity import Perplexity, bits_per_byte, weighted_perplexity
from secateur.evaluation.protocols import TextProtocol
from secateur.evaluation.resampling import quantile_interval, resampled_means
from secateur.evaluation.token_losses import TextScores, score_text
from secateur.schema import Record, derive_seed
from secateur.token_stream import encode_rows


class Estimate(Record):
    """A mean with its bootstrap interval, over the same windows as the perplexity beside it."""

    value: float
    low: float
    high: float
    confidence: float


class TextResult(Record):
    """One model on one text under one protocol."""

    model: str
    perplexity: Perplexity
    bits_per_byte: Estimate | None = Field(
        description="of the UTF-8 text that is predicted; null where the tokenizer cannot tell its bytes, or loses some"
    )
    num_bytes: int | None = Field(description="of the text that is predicted")
    kl: Estimate | None = Field(None, description="KL(against || model), nats per token; null without another model")


@dataclass(frozen=True)
class NamedModel:
    """A model with its tokenizer, and what it is called in results."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextOutcome:
    """What a text says of one model or two, and why something is not said."""

    results: tuple[TextResult, ...]
    comparisons: tuple[PairedComparison, ...]
    notes: tuple[str, ...]


def evaluate_text(
    models: Sequence[NamedModel],
    rows: Sequence[str],
    protocols: Sequence[TextProtocol],
    batch_tokens: int,
    seed: int,
    confidence: float = 0.95,
    advance: Callable[[], None] = lambda: None,
) -> TextOutcome:
    """Give perplexity and bits per byte, and of two models the KL of the first from the second and a paired test.

    Two models with the same tokens are compared window by window. Where their tokenizers differ there is no KL, and a
    comparison only under sliding windows, which predict the whole text with either: in bits per byte, by document.

    Raises:
        ConfigError, DataError: A protocol needs more positions than a model has, or more text than there is.
    """
    streams = [encode_rows(rows, each.tokenizer) for each in models]
    alike = (
        streams[0].ids == streams[-1].ids and models[0].model.config.vocab_size == models[-1].model.config.vocab_size
    )
    results: list[TextResult] = []
    comparisons: list[PairedComparison] = []
    notes: list[str] = []
    for protocol in protocols:
        if alike:
            scores = score_text([each.model for each in models], streams[0], protocol, batch_tokens, advance)
        else:
            scores = [
                score_text([each.model], stream, protocol, batch_tokens, advance)[0]
                for each, stream in zip(models, streams, strict=True)
            ]
        results += [
            summarise(each.name, protocol, own, seed, confidence) for each, own in zip(models, scores, strict=True)
        ]
        if len(models) == 2:
            names = (models[0].name, models[1].name)
            compare = compare_windows if alike else compare_documents
            said = compare(names, protocol, scores[0], scores[1], seed, confidence)
            if isinstance(said, str):
                notes.append(said)
            else:
                comparisons.append(said)
    if not alike:
        notes.append("no KL: the tokenizers differ, and with them what is predicted")
    return TextOutcome(tuple(results), tuple(comparisons), tuple(notes))


def summarise(name: str, protocol: TextProtocol, scores: TextScores, seed: int, confidence: float) -> TextResult:
    """Give a model's figures of one protocol, all with intervals over the same draws of blocks."""
    sums = scores.sums()
    drawn = derive_seed(seed, "bootstrap")
    predicted = len(scores.positions)
    bits = kl = num_bytes = None
    if sums.num_bytes is not None and int(sums.num_bytes.sum()) > 0:
        num_bytes = int(sums.num_bytes.sum())
        low, high = quantile_interval(resampled_means(sums.loss, sums.num_bytes, drawn), confidence)
        bits = Estimate(
            value=bits_per_byte(float(sums.loss.sum()), num_bytes),
            low=low / math.log(2),
            high=high / math.log(2),
            confidence=confidence,
        )
    if sums.kl is not None:
        low, high = quantile_interval(resampled_means(sums.kl, sums.num_tokens, drawn), confidence)
        kl = Estimate(value=float(sums.kl.sum()) / predicted, low=low, high=high, confidence=confidence)
    return TextResult(
        model=name,
        perplexity=weighted_perplexity(sums.loss, sums.num_tokens, protocol.name, predicted, drawn, confidence),
        bits_per_byte=bits,
        num_bytes=num_bytes,
        kl=kl,
    )


def compare_windows(
    names: tuple[str, str], protocol: TextProtocol, first: TextScores, second: TextScores, seed: int, confidence: float
) -> PairedComparison:
    """Compare two models on the same tokens, window by window."""
    one, other = first.sums(), second.sums()
    return compare_paired(*names, protocol.name, one.loss - other.loss, one.num_tokens, seed, confidence)


def compare_documents(
    names: tuple[str, str], protocol: TextProtocol, first: TextScores, second: TextScores, seed: int, confidence: float
) -> PairedComparison | str:
    """Compare two models with different tokenizers by bits per byte, document by document, or say why not.

    A token belongs to the document in which it begins; a document's bytes are those of the larger count, since the very
    first token, which is not predicted without a BOS, need not be as long in both.
    """
    if protocol.stride is None or protocol.stride == protocol.length:
        return (
            f"{protocol.name}: not compared, since the tokenizers differ and so do the tokens that begin windows and "
            "are not predicted; a sliding window such as sliding-512-256 predicts the whole text"
        )
    one, other = first.row_sums(), second.row_sums()
    if one.num_bytes is None or other.num_bytes is None:
        return f"{protocol.name}: not compared, since the tokenizers differ and one cannot tell the bytes of its tokens"
    num_bytes = one.num_bytes.maximum(other.num_bytes)
    there = num_bytes > 0
    if int(there.sum()) < 2:
        return f"{protocol.name}: not compared, since the tokenizers differ and the text is a single document"
    bits = (one.loss - other.loss)[there] / math.log(2)
    return compare_paired(*names, protocol.name, bits, num_bytes[there], seed, confidence, "bits per byte")
