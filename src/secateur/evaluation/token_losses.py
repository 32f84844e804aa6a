"""What models lose on every predicted token of a text under a protocol, and how far one is from the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ConfigError, DataError
from secateur.evaluation.protocols import TextProtocol, Window
from secateur.token_stream import TokenStream

# Logits of one forward pass take at most this much, whatever `batch_tokens` says, where a window does.
LOGITS_BYTES = 1 << 30


@dataclass(frozen=True)
class BlockSums:
    """Sums over the predicted tokens of each block: loss and KL in nats; bytes where the tokenizer tells them."""

    loss: Float[Tensor, " blocks"]
    num_tokens: Int[Tensor, " blocks"]
    num_bytes: Int[Tensor, " blocks"] | None
    kl: Float[Tensor, " blocks"] | None


@dataclass(frozen=True)
class TextScores:
    """The predicted tokens of a text, in order.

    Attributes:
        positions: Of the tokens in the stream.
        blocks: Which the bootstrap draws as one; ascending.
        losses: In nats.
        kl: KL(other || model) where they were predicted, in nats; None without another model.
    """

    stream: TokenStream
    positions: Int[Tensor, " tokens"]
    blocks: Int[Tensor, " tokens"]
    losses: Float[Tensor, " tokens"]
    kl: Float[Tensor, " tokens"] | None = None

    def sums(self) -> BlockSums:
        """Sum by block."""
        return self._by(self.blocks)

    def row_sums(self) -> BlockSums:
        """Sum by row of the text; a token belongs to the row in which it begins."""
        starts = torch.tensor(self.stream.row_starts)
        return self._by(torch.searchsorted(starts, self.positions, right=True) - 1, len(starts))

    def _by(self, groups: Int[Tensor, " tokens"], count: int | None = None) -> BlockSums:
        size = int(groups.max()) + 1 if count is None else count

        def summed(values: Tensor) -> Tensor:
            return torch.zeros(size, dtype=values.dtype).index_add_(0, groups, values)

        num_bytes = None
        if self.stream.byte_starts is not None:
            num_bytes = summed(torch.tensor(np.diff(self.stream.byte_starts))[self.positions])
        return BlockSums(
            loss=summed(self.losses.double()),
            num_tokens=summed(torch.ones_like(self.positions)),
            num_bytes=num_bytes,
            kl=None if self.kl is None else summed(self.kl.double()),
        )


@torch.no_grad()
def score_text(
    models: Sequence[PreTrainedModel],
    stream: TokenStream,
    protocol: TextProtocol,
    batch_tokens: int,
    advance: Callable[[], None] = lambda: None,
) -> list[TextScores]:
    """Score one model, or one and another that it is compared with, on the same tokens.

    Args:
        models: The KL of the first from the second is taken where there are two.

    Raises:
        ConfigError: The windows are longer than a model has positions.
        DataError: The text is shorter than a window, or two models do not tell the same tokens apart.
    """
    windows = protocol.windows(len(stream))
    _refuse(models, stream, protocol, windows)
    rows = max(1, min(batch_tokens, LOGITS_BYTES // (4 * models[0].config.vocab_size)) // protocol.length)
    ids = torch.tensor(stream.ids)
    losses: list[list[Tensor]] = [[] for _ in models]
    kl: list[Tensor] = []
    for batch in _batches(windows, rows):
        tokens = torch.stack([ids[window.start : window.end] for window in batch])
        logits = [model(input_ids=tokens.to(model.device), use_cache=False).logits for model in models]
        for row, window in enumerate(batch):
            own = slice(window.first - window.start - 1, window.end - window.start - 1)
            targets = ids[window.first : window.end, None]
            logs = [each[row, own].float().log_softmax(-1) for each in logits]
            for kept, log in zip(losses, logs, strict=True):
                kept.append(-log.gather(-1, targets.to(log.device)).squeeze(-1).cpu())
            if len(logs) == 2:
                log_q, log_p = logs[0], logs[1].to(logs[0].device)
                kl.append((log_p.exp() * (log_p - log_q)).sum(-1).cpu())
        advance()
    positions = torch.cat([torch.arange(window.first, window.end) for window in windows])
    counts = torch.tensor([window.end - window.first for window in windows])
    blocks = torch.tensor(protocol.blocks(windows)).repeat_interleave(counts)
    return [
        TextScores(stream, positions, blocks, torch.cat(each), torch.cat(kl) if kl and index == 0 else None)
        for index, each in enumerate(losses)
    ]


def _batches(windows: Sequence[Window], rows: int) -> Iterator[list[Window]]:
    """Put neighbours of the same length together."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == rows or window.end - window.start != batch[0].end - batch[0].start):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def _refuse(
    models: Sequence[PreTrainedModel], stream: TokenStream, protocol: TextProtocol, windows: Sequence[Window]
) -> None:
    for model in models:
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and protocol.length > longest:
            raise ConfigError(
                f"protocol {protocol.name} needs {protocol.length} positions, the model has {longest}; choose a "
                f"protocol with windows of at most {longest} tokens"
            )
    if len({model.config.vocab_size for model in models}) > 1:
        sizes = " and ".join(str(model.config.vocab_size) for model in models)
        raise DataError(f"the models have vocabularies of {sizes} tokens; KL needs the same tokens in both")
    if not windows:
        raise DataError(
            f"the text has {len(stream)} tokens, {protocol.name} needs at least "
            f"{protocol.length if protocol.stride is None else 2}; give more text with --data or take shorter windows"
        )
