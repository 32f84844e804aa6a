"""Compare a model's next-token distributions with the dense model's, a few rows at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import TokenSet
from secateur.model.walk import DecoderWalk

# Logits that exist at the same time: more leave the processor's cache, in which the softmax works three times as fast
# as in memory (docs/log.md).
LOGITS_BYTES = 32 << 20
FEWEST_ROWS, MOST_ROWS = 64, 1024
# Below this size all dense probabilities of the set are kept.
KEPT_PROBABILITIES_BYTES = 1 << 30
# What a probability that is left over counts as at least, where rounding leaves nothing.
LEAST_REMAINDER = 1e-9


@dataclass(frozen=True)
class WindowScores:
    """Per window: mean next-token loss and mean KL(dense || model) over its predicting positions, in nats."""

    loss: Float[Tensor, " windows"]
    kl: Float[Tensor, " windows"]

    @classmethod
    def joined(cls, parts: Sequence["WindowScores"]) -> "WindowScores":
        """Put the windows of several batches one behind the other."""
        return cls(torch.cat([part.loss for part in parts]), torch.cat([part.kl for part in parts]))


@dataclass(frozen=True)
class DenseRows:
    """The dense model's distributions at some positions.

    Attributes:
        probabilities: Of the whole vocabulary, or of its `tokens` only.
        remainder: Mass of all other tokens; None where there are none.
        negative_entropy: Sum of p log p, the remainder being one outcome.
    """

    probabilities: Float[Tensor, "rows outcomes"]
    negative_entropy: Float[Tensor, " rows"]
    tokens: Int[Tensor, "rows outcomes"] | None = None
    remainder: Float[Tensor, " rows"] | None = None

    def kl(self, log_q: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, " rows"]:
        """Give KL(dense || q) per row: the sum of p log p, minus the sum of p log q."""
        if self.tokens is None or self.remainder is None:
            return self.negative_entropy - (self.probabilities * log_q).sum(-1)
        kept = log_q.gather(-1, self.tokens)
        left = left_over(kept.exp())
        return self.negative_entropy - (self.probabilities * kept).sum(-1) - self.remainder * left.log()


class DenseReference:
    """What the dense model says on one token set.

    Its probabilities are computed once and kept: all where they fit, else the largest `top_k` of each position and the
    mass of the rest. KL is then that of the distributions over those tokens and "any other", which is never more than
    the KL itself. Without `top_k` a set that does not fit is computed again for each model, from the final hidden
    states, at the price of another head.
    """

    def __init__(self, walk: DecoderWalk, token_set: TokenSet, batch_windows: int, top_k: int | None = None) -> None:
        """Run the dense model once.

        Args:
            batch_windows: Windows per batch.
            top_k: Tokens per position that are told apart, where those of the whole vocabulary do not fit.
        """
        self.token_set = token_set
        self.batches = token_set.tokens.to(walk.device).split(batch_windows)
        self._walk = walk
        self._normed = walk.normed(self.batches)
        vocabulary = walk.model.config.vocab_size
        fits = token_set.num_tokens * vocabulary * 4 <= KEPT_PROBABILITIES_BYTES
        self.top_k = None if fits or top_k is None or top_k >= vocabulary else top_k
        self._rows = min(MOST_ROWS, max(FEWEST_ROWS, LOGITS_BYTES // (4 * vocabulary)))
        self._kept: dict[tuple[int, int], DenseRows] | None = {} if fits or self.top_k is not None else None

    @torch.no_grad()
    def score_batch(
        self, index: int, state: Float[Tensor, "windows length state"], model: DecoderWalk | None = None
    ) -> WindowScores:
        """Score the state that another model leaves after its last block on batch `index`.

        Args:
            model: Whose final norm and head are used; the dense model's if not given.

        The last position of a window predicts nothing that the window holds, and is left out of both means.
        """
        model = model or self._walk
        return self._score(index, model.final_norm(state), model)

    def dense_scores(self) -> WindowScores:
        """Score the dense model itself: its own loss, and no divergence."""
        return self.joined([self._score(index, normed, self._walk) for index, normed in enumerate(self._normed)])

    def is_of(self, model: PreTrainedModel) -> bool:
        """Say whether a model is the dense one."""
        return model is self._walk.model

    @torch.no_grad()
    def _score(self, index: int, normed: Float[Tensor, "windows length hidden"], model: DecoderWalk) -> WindowScores:
        tokens, normed = self.batches[index], _predicting(normed)
        labels = tokens[:, 1:].flatten()
        loss, kl = [], []
        for start in range(0, len(normed), self._rows):
            rows = slice(start, start + self._rows)
            log_q = model.logits(normed[rows]).float().log_softmax(-1)
            loss.append(-log_q.gather(-1, labels[rows].to(log_q.device).unsqueeze(-1)).squeeze(-1))
            kl.append(self._dense_rows(index, rows).kl(log_q))
        shape = (len(tokens), -1)
        return WindowScores(torch.cat(loss).view(shape).mean(1).cpu(), torch.cat(kl).view(shape).mean(1).cpu())

    def joined(self, parts: Sequence[WindowScores]) -> WindowScores:
        return WindowScores.joined(parts)

    def _dense_rows(self, index: int, rows: slice) -> DenseRows:
        key = (index, rows.start)
        if self._kept is None or key not in self._kept:
            log_p = self._walk.logits(_predicting(self._normed[index])[rows]).float().log_softmax(-1)
            dense = rows_of(log_p, self.top_k)
            if self._kept is None:
                return dense
            self._kept[key] = dense
        return self._kept[key]


def _predicting(normed: Float[Tensor, "windows length hidden"]) -> Float[Tensor, "rows hidden"]:
    return normed[:, :-1].flatten(0, 1)


def rows_of(log_p: Float[Tensor, "rows vocabulary"], top_k: int | None) -> DenseRows:
    """Keep distributions whole, or the largest `top_k` of each and the mass of the rest."""
    return _whole(log_p) if top_k is None or top_k >= log_p.shape[-1] else _largest(log_p, top_k)


def _whole(log_p: Float[Tensor, "rows vocabulary"]) -> DenseRows:
    p = log_p.exp()
    return DenseRows(p, (p * log_p).sum(-1))


def _largest(log_p: Float[Tensor, "rows vocabulary"], top_k: int) -> DenseRows:
    kept, tokens = log_p.topk(top_k, dim=-1)
    p = kept.exp()
    remainder = left_over(p)
    return DenseRows(p, (p * kept).sum(-1) + remainder * remainder.log(), tokens, remainder)


def left_over(probabilities: Float[Tensor, "rows outcomes"]) -> Float[Tensor, " rows"]:
    """Give one minus the sum: in float64, since what is left is small."""
    return (1 - probabilities.double().sum(-1)).clamp(min=LEAST_REMAINDER).float()
