"""Distillation: a pruned model learns to go on as the dense one would."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ConfigError
from secateur.recovery.objective import WindowLosses, counted_mean
from secateur.recovery.teacher import Taught, Teacher
from secateur.recovery.text import Batch


class Distillation:
    """A mixture of cross-entropy and KL(dense || model), per window: (1 - share) CE + share KL + hidden_share H.

    H is the mean over the states behind each layer (the last alone, where whole layers are gone) of
    |h - h_dense|^2 / |h_dense|^2.
    """

    def __init__(self, teacher: Teacher, share: float, hidden_share: float = 0.0) -> None:
        self._teacher, self._share, self._hidden_share = teacher, share, hidden_share

    def losses(self, model: PreTrainedModel, batch: Batch) -> WindowLosses:
        taught = self._teacher.taught(batch)
        hidden = self._hidden_share > 0
        output = model(input_ids=batch.tokens.to(model.device), use_cache=False, output_hidden_states=hidden or None)
        log_q = output.logits[:, :-1].float().log_softmax(-1)
        targets = batch.tokens[:, 1:].to(log_q.device).unsqueeze(-1)
        cross_entropy = counted_mean(-log_q.gather(-1, targets).squeeze(-1), batch)
        kl = counted_mean(taught.rows.kl(log_q.flatten(0, 1)).view(log_q.shape[:2]), batch)
        lowered = (1 - self._share) * cross_entropy + self._share * kl
        if hidden:
            lowered = lowered + self._hidden_share * hidden_distance(tuple(output.hidden_states), taught)
        return WindowLosses(lowered, cross_entropy.detach())


def hidden_distance(
    own: tuple[Float[Tensor, "windows length hidden"], ...], taught: Taught
) -> Float[Tensor, " windows"]:
    """Give the mean squared distance from the dense model's hidden states, as a share of their square.

    Raises:
        ConfigError: Hidden sizes differ.
    """
    dense = taught.hidden
    assert dense is not None, "a teacher that gives hidden states"
    if own[-1].shape[-1] != dense[-1].shape[-1]:
        raise ConfigError(
            f"recovery.hidden_share: hidden states have {own[-1].shape[-1]} channels, the dense model's "
            f"{dense[-1].shape[-1]}, and cannot be compared; set it to 0"
        )
    pairs = list(zip(own[1:], dense[1:], strict=True)) if len(own) == len(dense) else [(own[-1], dense[-1])]
    distances = [
        (h.float() - d.to(h.device).float()).square().sum((1, 2)) / d.to(h.device).float().square().sum((1, 2))
        for h, d in pairs
    ]
    return torch.stack(distances).mean(0)
