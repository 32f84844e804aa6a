"""LoRA: low-rank changes of the projections, trained beside weights that stay, and merged into them at the end."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.errors import ConfigError
from secateur.model.mixture import every_expert
from secateur.recovery.trainee import projections

NEEDS = "recovery by LoRA needs the extra: pip install 'secateur[recover]'"


class LowRank:
    """Adapters on a model's projections.

    Source:
        LoRA (arXiv 2106.09685): W + (alpha / rank) B A with A [rank, inputs] random and B [outputs, rank] zero, so that
        training begins at the pruned model. The computation is peft's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rank: int,
        alpha: int,
        dropout: float = 0.0,
        part: str = "all",
        seed: int = 0,
    ) -> None:
        """Put adapters on every projection of a part; nothing else of the model is trained.

        Raises:
            ConfigError: peft is not installed, or there is no such part.
            ModelError: The model has no projections to adapt.
        """
        try:
            import peft  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigError(NEEDS) from error
        self._model = model
        targets = projections(model, part)
        conv1d = any(isinstance(module, Conv1D) for module in targets.values())
        settings = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=list(targets),
            fan_in_fan_out=conv1d,
            bias="none",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), _taken_as_it_is(model):
            # peft asks for it by the name that transformers gives up.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            torch.manual_seed(seed)
            self._adapted: Any = peft.get_peft_model(model, settings)
        self._every_expert = contextlib.ExitStack()
        # Experts are chosen by slices of weights, which know nothing of adapters: modules are run instead.
        self._every_expert.enter_context(every_expert(model))

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {name: each for name, each in self._adapted.named_parameters() if each.requires_grad}

    def at(self, _step: int, /) -> PreTrainedModel:
        self._adapted.train()
        return self._model

    def judged(self) -> PreTrainedModel:
        self._adapted.eval()
        return self._model

    def finish(self) -> PreTrainedModel:
        """Merge the adapters: logits stay what they were with them, up to rounding."""
        merged: PreTrainedModel = self._adapted.merge_and_unload(safe_merge=True)
        self._every_expert.close()
        return merged.requires_grad_(False).eval()

    def discard(self) -> PreTrainedModel:
        """Take the adapters off, unmerged."""
        pruned: PreTrainedModel = self._adapted.unload()
        self._every_expert.close()
        return pruned.requires_grad_(False).eval()


@contextlib.contextmanager
def _taken_as_it_is(model: PreTrainedModel) -> Iterator[None]:
    """Keep peft from adapting what it thinks that a family has in the place of what is asked for.

    By the name of some mixtures it takes `gate_proj` for a part of their experts' stacked weights, and then finds none.
    """
    config: Any = model.config
    name = config.model_type
    config.model_type = ""
    try:
        yield
    finally:
        config.model_type = name
