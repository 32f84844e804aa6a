"""Stages by themselves, fourth part: a cut model is trained for a short while."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.api.foundations import EVALUATION
from secateur.data import Role, TokenSet
from secateur.errors import ConfigError
from secateur.model.loading import DenseModel
from secateur.recipe import Recipe
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.recover import RecoveryRecord
from secateur.recovery.recover import recover as train
from secateur.recovery.text import build_recovery_set
from secateur.schema import derive_seed

LORA = Recipe(method="lora")


def recover(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    selection: TokenSet,
    *,
    recipe: Recipe = LORA,
    dense: DenseModel | None = None,
    folder: Path | None = None,
    batch_tokens: int = EVALUATION.batch_tokens,
    seed: int = 0,
) -> tuple[PreTrainedModel, RecoveryRecord]:
    """Train a model that `cut` gave, or any pruned causal model, and merge what was trained into its weights.

    Args:
        model: Changed in place. What it shares with the dense model (embeddings, head) is not: it gets its own.
        documents: To train on; none of them may be among those that `selection` was made of.
        selection: Decides which weights are kept: those before the first step are among them.
        dense: For recipes that learn from it.
        folder: For what outlives the process: the same call goes on where one that was killed was.

    Returns:
        The recovered model and what was done.

    Raises:
        ConfigError: The recipe needs a dense model or an extra.
        DataError: There is too little text.
    """
    if recipe.method == "none" or (recipe.learns_from_dense and dense is None):
        raise ConfigError(
            f"recipe method={recipe.method!r}, distill={recipe.distill}: expected a method that trains, and dense= "
            "where it learns from the dense model"
        )
    length = selection.sequence_length
    recovery_set = build_recovery_set({"text": documents}, tokenizer, length, recipe.tokens)
    recovery = Recovery(
        recipe=recipe,
        texts=Texts(recovery_set, selection.expect(Role.SELECTION).tokens),
        seed=derive_seed(seed, "recovery"),
        batch_tokens=batch_tokens,
        teacher=None if dense is None else DenseTeacher(dense.model, dense.fingerprint()),
        folder=folder,
    )
    return train(model, recovery)
