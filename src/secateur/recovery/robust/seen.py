"""Windows as the dense model sees them: what it loses on each, and what it makes of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.recovery.objective import CrossEntropy, counted_mean, token_losses
from secateur.recovery.text import Batch


@dataclass(frozen=True)
class SeenWindows:
    """Windows, and what the dense model said of them once. On the CPU.

    Attributes:
        losses: The dense model's own, mean over what counts in a window, nats per token.
        states: Its mean hidden state in front of the head, over a window.
    """

    tokens: Int[Tensor, "windows length"]
    counted: Bool[Tensor, "windows predictions"]
    losses: Float[Tensor, " windows"]
    states: Float[Tensor, "windows hidden"]

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, places: Int[Tensor, " some"]) -> "SeenWindows":
        return SeenWindows(self.tokens[places], self.counted[places], self.losses[places], self.states[places])

    @property
    def batch(self) -> Batch:
        """Them as a batch, of one domain."""
        return plain_batch(self.tokens, self.counted)


def plain_batch(tokens: Int[Tensor, "windows length"], counted: Bool[Tensor, "windows predictions"]) -> Batch:
    """Give windows as a batch, of one domain."""
    return Batch(torch.arange(len(tokens)), tokens, counted, torch.zeros(len(tokens), dtype=torch.int64))


def all_counted(tokens: Int[Tensor, "windows length"]) -> Bool[Tensor, "windows predictions"]:
    """Say that every prediction of plain windows counts."""
    return torch.ones_like(tokens[:, 1:], dtype=torch.bool)


@torch.no_grad()
def seen(
    model: PreTrainedModel,
    tokens: Int[Tensor, "windows length"],
    counted: Bool[Tensor, "windows predictions"],
    pass_windows: int,
) -> SeenWindows:
    """Run the dense model on windows.

    Args:
        pass_windows: Per forward pass.
    """
    losses: list[Tensor] = []
    states: list[Tensor] = []

    def remember(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0].float().mean(1).cpu())

    with model.get_output_embeddings().register_forward_pre_hook(remember):
        for part in plain_batch(tokens, counted).split(pass_windows):
            logits = model(input_ids=part.tokens.to(model.device), use_cache=False).logits[:, :-1].float()
            losses.append(counted_mean(token_losses(logits, part), part).cpu())
    return SeenWindows(tokens, counted, torch.cat(losses), torch.cat(states))


@torch.no_grad()
def window_losses(model: PreTrainedModel, windows: Batch, pass_windows: int) -> Float[Tensor, " windows"]:
    """Give a model's own loss on each window, nats per token, on the CPU.

    Args:
        pass_windows: Per forward pass.
    """
    parts = windows.split(pass_windows)
    return torch.cat([CrossEntropy().losses(model, part).cross_entropy.cpu() for part in parts])
