"""Perplexity and bits per byte under a stated protocol, with a bootstrap interval."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.evaluation.resampling import quantile_interval, resampled_means
from secateur.schema import Record


class Perplexity(Record):
    """exp of the mean next-token loss over all windows, with a bootstrap interval over windows.

    `protocol` names how text became windows: `ppl-128` is published perplexities' way (see `TextProtocol`),
    `packed-256` a run's own (documents packed one after the other, each with its BOS). Figures of different protocols
    must never stand side by side. `num_windows` counts what the bootstrap draws: of sliding windows, stretches of a
    window's length.
    """

    protocol: str
    value: float
    low: float
    high: float
    confidence: float
    num_windows: int
    num_tokens: int


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
    ones = torch.ones(len(losses))
    return weighted_perplexity(losses, ones, protocol, len(losses) * (sequence_length - 1), seed, confidence)


def weighted_perplexity(
    sums: Float[Tensor, " blocks"],
    weights: Shaped[Tensor, " blocks"],
    protocol: str,
    num_tokens: int,
    seed: int,
    confidence: float = 0.95,
) -> Perplexity:
    """Summarise blocks of different sizes: exp(sum of losses / sum of weights)."""
    low, high = quantile_interval(resampled_means(sums, weights, seed), confidence)
    return Perplexity(
        protocol=protocol,
        value=math.exp(float(sums.double().sum()) / float(weights.double().sum())),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        num_windows=len(sums),
        num_tokens=num_tokens,
    )


def bits_per_byte(loss: float, num_bytes: int) -> float:
    """Give the bits per UTF-8 byte of the text that was predicted: nats / ln 2 / bytes, whatever the tokenizer.

    Args:
        loss: Summed over all predictions, in nats; tokens that mark a beginning stand for no bytes and count too.
    """
    return loss / math.log(2) / num_bytes
