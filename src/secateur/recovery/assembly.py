"""A recovery before it begins: what is trained, on what, towards what and judged by what, as its recipe says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.recipe import Recipe
from secateur.recovery.distillation import Distillation
from secateur.recovery.lora import LowRank
from secateur.recovery.objective import CrossEntropy, Objective, mean_loss
from secateur.recovery.quantized_lora import QuantizedLowRank
from secateur.recovery.ranks import ALONE, Leading, Ranks
from secateur.recovery.robust.build import Robust, refuse_unfit
from secateur.recovery.teacher import AskedTeacher, Teacher, cache_bytes, cached_teacher
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import Trainee, WholeModel, compute_layers_twice
from secateur.recovery.training import Plan, Training
from secateur.recovery.weighting import Evenly, Weighting
from secateur.runs.shelf import Shelf
from secateur.schema import derive_seed


@dataclass(frozen=True)
class DenseTeacher:
    """The dense model, for recipes that learn from it."""

    model: PreTrainedModel
    fingerprint: str


@dataclass(frozen=True)
class Texts:
    """What a recovery is trained on, and what it is judged by.

    Attributes:
        domain_selection: Selection windows by domain, for recoveries that are judged by the worst of them.
    """

    recovery: RecoverySet
    selection: Int[Tensor, "windows length"]
    domain_selection: Mapping[str, Int[Tensor, "_ length"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recovery:
    """A recovery before it begins: all that it needs, for every way in which it can be run.

    Attributes:
        folder: For what outlives the process; in memory if not given.
        batch_tokens: Tokens per forward pass.
        ranks: The processes that train together, where this one leads them.
    """

    recipe: Recipe
    texts: Texts
    seed: int
    batch_tokens: int
    teacher: DenseTeacher | None = None
    folder: Path | None = None
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        """Decide what the recipe leaves open, and refuse what cannot work.

        Raises:
            ConfigError: A robust recipe without the dense model or without domains.
        """
        texts, dense = self.texts, self.teacher is not None
        object.__setattr__(self, "recipe", self.recipe.resolved(len(texts.recovery), dense=dense))
        refuse_unfit(self.recipe, texts.recovery.domain_names, texts.domain_selection, dense=dense)

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

    def shelf(self, name: str) -> Shelf:
        """Give the place for a state that is put aside."""
        return Shelf(self.folder / name if self.folder else None)

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
        trainee = self._trainee(model)
        if self.recipe.checkpointing:
            compute_layers_twice(model)
        return trainee

    def _trainee(self, model: PreTrainedModel) -> Trainee:
        recipe = self.recipe
        if recipe.method == "full":
            return WholeModel(model)
        seed = derive_seed(self.seed, "adapters")
        if recipe.method == "lora":
            return LowRank(model, recipe.rank, recipe.alpha, recipe.dropout, recipe.modules, seed)
        judge = self._selection_loss
        return QuantizedLowRank(
            model, recipe.rank, recipe.alpha, judge, recipe.dropout, recipe.modules, seed, self.folder
        )

    def objective(self, advance: Callable[[], None] = lambda: None) -> Objective:
        """Give what a step lowers; the dense model is asked in advance where that pays."""
        recipe = self.recipe
        if not recipe.learns_from_dense:
            return CrossEntropy()
        return Distillation(self._teacher(advance), recipe.distill or 0.0, recipe.hidden_share)

    def _teacher(self, advance: Callable[[], None]) -> Teacher:
        recipe, teacher, texts = self.recipe, self.teacher, self.texts.recovery
        assert teacher is not None, "refused before where there is none"
        needed = cache_bytes(texts, recipe.top_k, int(teacher.model.config.vocab_size))
        cached = recipe.teacher == "cached" or (
            # Kept probabilities are used once per epoch; asking in advance is one epoch's asking.
            recipe.teacher == "auto" and recipe.epochs > 1 and needed <= recipe.teacher_bytes
        )
        # Helpers of a training have no folder, and ask.
        alone = self.ranks.count == 1
        if recipe.hidden_share or not cached or self.folder is None or not alone:
            return AskedTeacher(teacher.model, recipe.top_k, hidden=recipe.hidden_share > 0)
        path = self.folder / "teacher"
        return cached_teacher(
            teacher.model, texts, recipe.top_k, path, teacher.fingerprint, self.micro_windows, advance
        )

    def weighting(self) -> Weighting:
        """Give what decides which windows count how much."""
        evenly = Evenly(len(self.texts.recovery), self.recipe.batch_windows, self.seed)
        return self._robust.weighting(evenly) if self._robust else evenly

    def training(self, trainee: Trainee, objective: Objective, plan: Plan, shelf: Shelf) -> Training:
        """Begin a training, or take up what a shelf holds."""
        weighting = self.weighting()
        judge = self.judge(trainee, weighting)
        passes = Leading(self.ranks, plan.micro_windows) if self.ranks.count > 1 else None
        return Training(trainee, self.texts.recovery, objective, weighting, judge, plan, shelf, passes)

    @cached_property
    def _robust(self) -> Robust | None:
        if self.recipe.robust == "none":
            return None
        assert self.teacher is not None, "refused before where there is none"
        teacher, shelf = self.teacher, self.shelf("robust")
        return Robust(
            self.recipe, self.texts.recovery, teacher.model, teacher.fingerprint, self.seed, self.micro_windows, shelf
        )

    def judge(self, trainee: Trainee, weighting: Weighting | None = None) -> Callable[[], float]:
        """Give what asks the selection set about a trainee.

        Args:
            weighting: That of the training, where what is worst is asked for.
        """
        texts = self.texts
        if self._robust and weighting is not None:
            worst = self._robust.judge(trainee, weighting, texts.selection, texts.domain_selection)
            if worst is not None:
                return worst
        return lambda: self._selection_loss(trainee.judged())

    def _selection_loss(self, model: PreTrainedModel) -> float:
        return mean_loss(model, self.texts.selection, self._selection_windows)
