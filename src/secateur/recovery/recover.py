"""One recovery, put together from a recipe: what is trained, on what, towards what."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Int
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from secateur.recipe import Recipe
from secateur.recovery.distillation import Distillation
from secateur.recovery.lora import LowRank
from secateur.recovery.objective import CrossEntropy, Objective, mean_loss
from secateur.recovery.teacher import AskedTeacher, Teacher, cache_bytes, cached_teacher
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import Trainee, WholeModel
from secateur.recovery.training import Advance, Plan, Training, TrainingRecord, unheard
from secateur.recovery.weighting import Evenly, Weighting
from secateur.runs.folder import remove
from secateur.runs.shelf import Shelf
from secateur.schema import Record, derive_seed


class RecoveryRecord(Record):
    """What a recovery has done."""

    recipe: Recipe
    learning_rate: float = Field(description="at its peak")
    trained_parameters: int
    windows: int = Field(description="of the recovery set")
    domains: tuple[str, ...] = Field(description="of the recovery set")
    dense_loss: float | None = Field(description="of the dense model on the selection set; null where it is unknown")
    training: TrainingRecord


@dataclass(frozen=True)
class DenseTeacher:
    """The dense model, for recipes that learn from it."""

    model: PreTrainedModel
    fingerprint: str


@dataclass(frozen=True)
class Texts:
    """What a recovery is trained on, and what it is judged by."""

    recovery: RecoverySet
    selection: Int[Tensor, "windows length"]


@dataclass(frozen=True)
class Recovery:
    """A recovery before it begins: all that it needs, for every way in which it can be run.

    Attributes:
        folder: For what outlives the process; in memory if not given.
        batch_tokens: Tokens per forward pass.
    """

    recipe: Recipe
    texts: Texts
    seed: int
    batch_tokens: int
    teacher: DenseTeacher | None = None
    folder: Path | None = None

    @property
    def micro_windows(self) -> int:
        return max(1, self.batch_tokens // self.texts.recovery.tokens.shape[1])

    @cached_property
    def dense_loss(self) -> float | None:
        """What the dense model loses on the selection set, nats per token; None without one."""
        if self.teacher is None:
            return None
        return mean_loss(self.teacher.model, self.texts.selection, self._selection_windows)

    @property
    def _selection_windows(self) -> int:
        return max(1, self.batch_tokens // self.texts.selection.shape[1])

    def plan(self, model: PreTrainedModel) -> Plan:
        """Give how long and how fast a model is trained."""
        recipe = self.recipe
        return Plan(
            steps=recipe.steps(len(self.texts.recovery)),
            learning_rate=recipe.rate(int(model.config.hidden_size)),
            micro_windows=self.micro_windows,
            schedule=recipe.schedule,
            warmup_ratio=recipe.warmup_ratio,
            weight_decay=recipe.weight_decay,
            judgements=recipe.judgements,
            patience=recipe.patience,
            seed=self.seed,
        )

    def trainee(self, model: PreTrainedModel) -> Trainee:
        """Make a model ready to be trained, in place."""
        recipe = self.recipe
        if recipe.method == "full":
            return WholeModel(model)
        seed = derive_seed(self.seed, "adapters")
        return LowRank(model, recipe.rank, recipe.alpha, recipe.dropout, recipe.modules, seed)

    def objective(self, advance: Callable[[], None] = lambda: None) -> Objective:
        """Give what a step lowers; the dense model is asked in advance where that pays."""
        recipe = self.recipe
        if not recipe.learns_from_dense:
            return CrossEntropy()
        return Distillation(self._teacher(advance), recipe.distill, recipe.hidden_share)

    def _teacher(self, advance: Callable[[], None]) -> Teacher:
        recipe, teacher, texts = self.recipe, self.teacher, self.texts.recovery
        assert teacher is not None, "refused before where there is none"
        needed = cache_bytes(texts, recipe.top_k, int(teacher.model.config.vocab_size))
        cached = recipe.teacher == "cached" or (
            # Kept probabilities are used once per epoch; asking in advance is one epoch's asking.
            recipe.teacher == "auto" and recipe.epochs > 1 and needed <= recipe.teacher_bytes
        )
        if recipe.hidden_share or not cached or self.folder is None:
            return AskedTeacher(teacher.model, recipe.top_k, hidden=recipe.hidden_share > 0)
        path = self.folder / "teacher"
        return cached_teacher(
            teacher.model, texts, recipe.top_k, path, teacher.fingerprint, self.micro_windows, advance
        )

    def weighting(self) -> Weighting:
        """Give what decides which windows count how much."""
        return Evenly(len(self.texts.recovery), self.recipe.batch_windows, self.seed)

    def judge(self, trainee: Trainee) -> Callable[[], float]:
        """Give what asks the selection set about a trainee."""
        return lambda: mean_loss(trainee.judged(), self.texts.selection, self._selection_windows)


def recover(
    model: PreTrainedModel, recovery: Recovery, advance: Advance = unheard
) -> tuple[PreTrainedModel, RecoveryRecord]:
    """Train a pruned model in place, and give it with what was trained merged into its weights.

    It is left at the weights that did best on the selection set: as it was, where no step made it better there.

    Args:
        advance: Told the loss of each step.

    Raises:
        ConfigError, ModelError: The recipe does not fit the model, or needs an extra that is not installed.
    """
    trainee = recovery.trainee(model)
    plan = recovery.plan(model)
    shelf = Shelf(recovery.folder / "training" if recovery.folder else None)
    training = Training(
        trainee,
        recovery.texts.recovery,
        recovery.objective(),
        recovery.weighting(),
        recovery.judge(trainee),
        plan,
        shelf,
    )
    record = RecoveryRecord(
        recipe=recovery.recipe,
        learning_rate=plan.learning_rate,
        trained_parameters=sum(each.numel() for each in trainee.parameters.values()),
        windows=len(recovery.texts.recovery),
        domains=recovery.texts.recovery.domain_names,
        dense_loss=recovery.dense_loss,
        training=training.run(advance),
    )
    if recovery.folder is not None:
        # The cache is the largest that a recovery leaves, and of no use to anybody any more.
        remove(recovery.folder / "teacher")
    return trainee.finish(), record
