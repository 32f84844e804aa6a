"""Perplexity of any causal model under a stated protocol."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet, perplexity_windows, read_rows
from secateur.demo import decoder_path
from secateur.errors import DataError
from secateur.model.loading import load_causal_model
from secateur.schema import Record, derive_seed


class Perplexity(Record):
    """exp of the mean next-token loss over all windows, with a bootstrap interval over windows.

    `protocol` names how text became windows: `ppl-128` is published perplexities' way (see `perplexity_windows`),
    `packed-256` a run's own (documents packed one after the other, each with its BOS). Figures of different protocols
    must never stand side by side.
    """

    protocol: str
    value: float
    low: float
    high: float
    confidence: float
    num_windows: int
    num_tokens: int


def evaluate_perplexity(
    model_name: str,
    sources: list[str],
    sequence_length: int,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = 4_096,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Perplexity:
    """Give the perplexity of any causal model under the protocol `ppl-<sequence_length>`; see `perplexity_windows`.

    Args:
        model_name: Local folder, hub id, or `demo`.
        sources: As `read_rows` takes them; may be empty for the demo model.

    Raises:
        ModelError, DataError: The model or the text cannot be used.
    """
    if model_name == "demo":
        model_name, sources = str(decoder_path()), sources or ["demo"]
    if not sources:
        raise DataError("no text was given; add --data PATH")
    rows = [row for source in sources for row in read_rows(source)]
    model, tokenizer, _ = load_causal_model(model_name, device, dtype, trust_remote_code=trust_remote_code)
    windows = perplexity_windows(rows, tokenizer, sequence_length)
    losses = window_losses(model, windows, batch_tokens)
    return perplexity(losses, f"ppl-{sequence_length}", sequence_length, derive_seed(seed, "bootstrap"))


@torch.no_grad()
def window_losses(
    model: PreTrainedModel, token_set: TokenSet, batch_tokens: int, advance: Callable[[], None] = lambda: None
) -> Float[Tensor, " windows"]:
    """Give the mean next-token loss of every window in nats, over its `length - 1` predictions."""
    tokens = token_set.expect(Role.EVALUATION).tokens
    losses = []
    for batch in tokens.split(max(1, batch_tokens // tokens.shape[1])):
        on_device = batch.to(model.device)
        logits = model(input_ids=on_device, use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), on_device[:, 1:].flatten(), reduction="none")
        losses.append(loss.view(len(batch), -1).mean(1).cpu())
        advance()
    return torch.cat(losses)


def perplexity(
    losses: Float[Tensor, " windows"], protocol: str, sequence_length: int, seed: int, confidence: float = 0.95
) -> Perplexity:
    """Summarise window losses, each the mean over `sequence_length - 1` predictions, in nats.

    The interval resamples windows (1,000 times): tokens of one window are not independent.
    """
    values = losses.double().numpy()
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(1_000, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Perplexity(
        protocol=protocol,
        value=math.exp(values.mean()),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        num_windows=len(values),
        num_tokens=len(values) * (sequence_length - 1),
    )
