"""Compare a model's logits with the dense model's, a few rows at a time."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from secateur.data import TokenSet
from secateur.model.walk import DecoderWalk

# Rows whose logits exist at the same time; 1,024 rows of a vocabulary of 150,000 are 600 MB in float32.
ROWS = 1024
# Below this size the dense log-probabilities of the whole set are kept instead of computed again per candidate.
KEPT_LOG_PROBABILITIES_BYTES = 1 << 30


@dataclass(frozen=True)
class WindowScores:
    """Per window: mean next-token loss and mean KL(dense || model) over its predicting positions, in nats."""

    loss: Float[Tensor, " windows"]
    kl: Float[Tensor, " windows"]


class DenseReference:
    """What the dense model says on one token set.

    Kept are its final hidden states, from which log-probabilities come back exactly at the price of the head; for small
    vocabularies the log-probabilities themselves.
    """

    def __init__(self, walk: DecoderWalk, token_set: TokenSet, batch_windows: int) -> None:
        self.token_set = token_set
        self.batches = token_set.tokens.to(walk.device).split(batch_windows)
        self._walk = walk
        self._normed = walk.normed(self.batches)
        vocabulary = walk.model.config.vocab_size
        self._log_probabilities: dict[tuple[int, int], Tensor] | None = (
            {} if token_set.num_tokens * vocabulary * 4 <= KEPT_LOG_PROBABILITIES_BYTES else None
        )

    @property
    def num_tokens(self) -> int:
        return self.token_set.num_tokens

    @torch.no_grad()
    def score(
        self, index: int, hidden: Float[Tensor, "windows length hidden"], model: DecoderWalk | None = None
    ) -> WindowScores:
        """Score the residual stream that another model leaves after its last block on batch `index`.

        Args:
            model: Whose final norm and head are used; the dense model's if not given.

        The last position of a window predicts nothing that the window holds, and is left out of both means.
        """
        tokens = self.batches[index]
        model = model or self._walk
        normed = model.final_norm(hidden)[:, :-1].flatten(0, 1)
        labels = tokens[:, 1:].flatten()
        loss, kl = [], []
        for start in range(0, len(normed), ROWS):
            rows = slice(start, start + ROWS)
            log_q = model.logits(normed[rows]).float().log_softmax(-1)
            log_p = self._dense_log_probabilities(index, rows)
            loss.append(F.nll_loss(log_q, labels[rows].to(log_q.device), reduction="none"))
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
        shape = (len(tokens), -1)
        return WindowScores(torch.cat(loss).view(shape).mean(1).cpu(), torch.cat(kl).view(shape).mean(1).cpu())

    def _dense_log_probabilities(self, index: int, rows: slice) -> Float[Tensor, "rows vocabulary"]:
        key = (index, rows.start)
        if self._log_probabilities is not None and key in self._log_probabilities:
            return self._log_probabilities[key]
        normed = self._normed[index][:, :-1].flatten(0, 1)[rows]
        log_p = self._walk.logits(normed).float().log_softmax(-1)
        if self._log_probabilities is not None:
            self._log_probabilities[key] = log_p
        return log_p
