"""What a step lowers: the cross-entropy of the text, or mixed with it the divergence from the dense model."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.recovery.text import Batch


@dataclass(frozen=True)
class WindowLosses:
    """Means over what counts in each window, nats per token.

    Attributes:
        lowered: What the step lowers; has gradients.
        cross_entropy: Of the text; without gradients.
    """

    lowered: Float[Tensor, " windows"]
    cross_entropy: Float[Tensor, " windows"]


@runtime_checkable
class Objective(Protocol):
    """What a recovery lowers."""

    def losses(self, model: PreTrainedModel, batch: Batch) -> WindowLosses:
        """Run a model on a batch."""
        ...


class CrossEntropy:
    """Next-token loss on what counts."""

    def losses(self, model: PreTrainedModel, batch: Batch) -> WindowLosses:
        logits = model(input_ids=batch.tokens.to(model.device), use_cache=False).logits[:, :-1].float()
        own = counted_mean(token_losses(logits, batch), batch)
        return WindowLosses(own, own.detach())


def token_losses(
    logits: Float[Tensor, "windows predictions vocabulary"], batch: Batch
) -> Float[Tensor, "windows predictions"]:
    """Give the next-token loss at every predicting position, in nats."""
    targets = batch.tokens[:, 1:].to(logits.device)
    return functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def counted_mean(values: Float[Tensor, "windows predictions"], batch: Batch) -> Float[Tensor, " windows"]:
    """Average over what counts in each window."""
    counted = batch.counted.to(values.device)
    return (values * counted).sum(1) / counted.sum(1)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, tokens: Tensor, windows: int) -> float:
    """Give a model's next-token loss on windows of which all counts, nats per token.

    Args:
        windows: Per forward pass.
    """
    total = 0.0
    for part in tokens.split(windows):
        logits = model(input_ids=part.to(model.device), use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten().to(logits.device), reduction="none"
        )
        total += float(losses.double().sum())
    return total / tokens[:, 1:].numel()
