"""How close the decoder comes to the generator: its loss on unseen documents against their entropy bound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from secateur.demo.text import DOMAINS, Document

# Training draws from the stream of a small seed, held-out documents from the stream of that seed plus this.
HELDOUT_SEED_OFFSET = 1_000_000
DOCUMENTS_PER_BATCH = 32
IGNORED = -100


@dataclass(frozen=True)
class HeldoutLoss:
    """Sums over documents of one domain, or over all.

    Attributes:
        num_tokens: Tokens predicted: all of a document after its `<s>`, and the `<s>` of the next one, which marks its
            end.
        loss_nats: Negative log-likelihood that the decoder gives these tokens.
        surprisal_nats: The same of the generator, for the same documents.
    """

    num_documents: int
    num_tokens: int
    loss_nats: float
    surprisal_nats: float

    @property
    def loss(self) -> float:
        """Nats per token of the decoder."""
        return self.loss_nats / self.num_tokens

    @property
    def entropy_bound(self) -> float:
        """Nats per token of the generator. No model does better on average, where a text has one derivation."""
        return self.surprisal_nats / self.num_tokens


def document_losses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> list[tuple[int, float]]:
    """Number of predicted tokens and summed loss in nats of each document, every document read alone."""
    encoded = [tokenizer(document.text)["input_ids"] + [tokenizer.bos_token_id] for document in documents]
    losses = [(0, math.nan)] * len(documents)
    by_length = sorted(range(len(documents)), key=lambda index: len(encoded[index]))
    was_training = model.training
    model.eval()
    for start in range(0, len(by_length), DOCUMENTS_PER_BATCH):
        batch = by_length[start : start + DOCUMENTS_PER_BATCH]
        tokens = [torch.tensor(encoded[index]) for index in batch]
        # Padding stands at the end, where causal attention hides it from the document.
        inputs = nn.utils.rnn.pad_sequence([ids[:-1] for ids in tokens], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([ids[1:] for ids in tokens], batch_first=True, padding_value=IGNORED)
        with torch.inference_mode():
            logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
            token_losses = functional.cross_entropy(
                logits.float().transpose(1, 2), labels.to(model.device), ignore_index=IGNORED, reduction="none"
            )
        for index, loss in zip(batch, token_losses.sum(dim=1).tolist(), strict=True):
            losses[index] = (len(encoded[index]) - 1, loss)
    model.train(was_training)
    return losses


def heldout_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> dict[str, HeldoutLoss]:
    """Loss and entropy bound per domain, and over all documents under the key `all`.

    Raises:
        ValueError: There is no document.
    """
    if not documents:
        raise ValueError("held-out loss needs at least one document, but got none")
    losses = document_losses(model, tokenizer, documents)
    sums = {}
    for name in ("all", *DOMAINS):
        chosen = [pair for pair in zip(documents, losses, strict=True) if name in ("all", pair[0].domain)]
        if chosen:
            sums[name] = HeldoutLoss(
                num_documents=len(chosen),
                num_tokens=sum(num_tokens for _, (num_tokens, _) in chosen),
                loss_nats=sum(loss for _, (_, loss) in chosen),
                surprisal_nats=sum(document.surprisal for document, _ in chosen),
            )
    return sums


def as_table(sums: dict[str, HeldoutLoss], vocab_size: int) -> str:
    """A Markdown table of losses in nats per token, with the loss of a uniform guess for scale."""
    lines = [
        "| domain | documents | tokens | loss | entropy bound | difference |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row.num_documents} | {row.num_tokens} | {row.loss:.4f} | {row.entropy_bound:.4f} "
        f"| {row.loss - row.entropy_bound:.4f} |"
        for name, row in sums.items()
    ]
    lines += ["", f"Uniform guess over {vocab_size} tokens: {math.log(vocab_size):.4f} nats per token."]
    return "\n".join(lines)
