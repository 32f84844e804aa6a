"""One recovery for many pruned models of one bank: every step is one model's, and what it learns is everybody's."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from secateur.errors import ConfigError
from secateur.model.mixture import every_expert
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery
from secateur.recovery.objective import mean_loss
from secateur.recovery.shared_adapters import SharedAdapters
from secateur.recovery.training import Advance, Training, TrainingRecord, unheard
from secateur.runs.shelf import Shelf
from secateur.schema import Record, derive_seed


class SharedLoss(Record):
    """What a model's recovery came to on the selection set, nats per token."""

    before: float
    after: float = Field(description="with its slices of the shared adapters")
    recovered: bool = Field(description="false where the adapters made it no better: it is then left as it was")


class SharedRecord(Record):
    """What a shared recovery has done."""

    recipe: Recipe
    learning_rate: float = Field(description="at its peak")
    trained_parameters: int
    windows: int = Field(description="of the recovery set")
    domains: tuple[str, ...] = Field(description="of the recovery set")
    between: int = Field(description="models that took steps besides those that were to be recovered")
    losses: tuple[SharedLoss, ...] = Field(description="of the models that were to be recovered, in their order")
    training: TrainingRecord = Field(description="judged by the mean over these models")


@dataclass(frozen=True)
class SharedRecovery:
    """What was learned, and how; `adapters.merge` makes it part of a model."""

    adapters: SharedAdapters
    record: SharedRecord


class SharedLowRank:
    """Adapters that several pruned models of one bank share. Every model has weights of its own, which stay.

    What lies outside of the layers (embeddings, head) is shared between pruned models anyway; the rest of all of them
    is in memory, or mapped from files where the caller laid it down there.

    Source:
        Sub-networks of one supernet that take turns with slices of the same adapters are LoNAS (LREC-COLING 2024; as
        "mode B" in arXiv 2501.16372). There the weights of all are slices too; here each model has been reconstructed
        for itself.
    """

    def __init__(
        self, models: Sequence[PreTrainedModel], adapters: SharedAdapters, dropout: float = 0.0, seed: int = 0
    ) -> None:
        self._models, self._adapters, self._seed = list(models), adapters, seed
        self._attached = contextlib.ExitStack()
        for model in self._models:
            self._attached.callback(adapters.attach(model, dropout))
            self._attached.enter_context(every_expert(model))

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._adapters.parameters

    def at(self, step: int, /) -> PreTrainedModel:
        """Give the model that takes a step: each once in a round, in an order drawn for the round."""
        round_, place = divmod(step, len(self._models))
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "shared recovery round", round_))
        drawn = int(torch.randperm(len(self._models), generator=generator)[place])
        return self._models[drawn].train()

    def judged(self) -> PreTrainedModel:
        """Give the first model; `recover_shared` judges by all."""
        return self._models[0].eval()

    def detach(self) -> None:
        """Leave every model as it was before."""
        self._attached.close()
        for model in self._models:
            model.eval()

    def discard(self) -> PreTrainedModel:
        """Leave every model as it was before; gives the first."""
        self.detach()
        return self._models[0]

    def finish(self) -> PreTrainedModel:
        """Merge the adapters into every model; gives the first."""
        self.detach()
        for model in self._models:
            self._adapters.merge(model)
        return self._models[0]


def recover_shared(
    models: Sequence[PreTrainedModel],
    recovery: Recovery,
    between: Sequence[PreTrainedModel] = (),
    advance: Advance = unheard,
) -> SharedRecovery:
    """Train one set of adapters for pruned models of one bank. The models are left as they are.

    The tokens of the recipe are for all of them together. What is kept is what did best on the selection set on average
    over them; a model that gains nothing from it is said to be not recovered.

    Args:
        between: Models that take steps as well and are not judged.
        advance: Told the loss of each step.

    Raises:
        ConfigError: The recipe is not one of LoRA.
        ModelError: The models have no projections to adapt.
    """
    recipe = recovery.recipe
    refuse_unshared(recipe)
    windows = max(1, recovery.batch_tokens // recovery.texts.selection.shape[1])

    def losses() -> list[float]:
        return [mean_loss(model.eval(), recovery.texts.selection, windows) for model in models]

    # Before anything is attached: a training that goes on has adapters that change something already.
    before = losses()
    seed = derive_seed(recovery.seed, "adapters")
    adapters = SharedAdapters.of_models([*models, *between], recipe.rank, recipe.alpha, recipe.modules, seed)
    trainee = SharedLowRank([*models, *between], adapters, recipe.dropout, recovery.seed)
    plan = recovery.plan(models[0])
    try:
        training = Training(
            trainee,
            recovery.texts.recovery,
            recovery.objective(),
            recovery.weighting(),
            lambda: sum(losses()) / len(models),
            plan,
            Shelf(recovery.folder / "training" if recovery.folder else None),
        ).run(advance)
        after = losses()
    finally:
        trainee.detach()
    found = tuple(
        SharedLoss(before=b, after=a, recovered=training.best_step > 0 and a < b)
        for b, a in zip(before, after, strict=True)
    )
    record = SharedRecord(
        recipe=recipe,
        learning_rate=plan.learning_rate,
        trained_parameters=sum(each.numel() for each in adapters.parameters.values()),
        windows=len(recovery.texts.recovery),
        domains=recovery.texts.recovery.domain_names,
        between=len(between),
        losses=found,
        training=training,
    )
    return SharedRecovery(adapters, record)


def refuse_unshared(recipe: Recipe) -> None:
    """Refuse a recipe that trains what pruned models do not share.

    Raises:
        ConfigError: It is not one of LoRA.
    """
    if recipe.method != "lora":
        raise ConfigError(
            f"recovery.method={recipe.method} cannot recover a whole front, whose points share nothing but low-rank "
            "changes; use lora"
        )
